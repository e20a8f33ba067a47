//! Atomic read-modify-write instructions. All are sequentially consistent, whatever they ask for.

use super::Lowered;
use super::form::{Form, not_supported};
use super::function::Lower;
use super::map::{Out, op};
use super::memory::{read_any, space_of, write_any};
use super::operand::{Address, Any};
use crate::ast::{Instruction, Type};
use crate::exec::{Intent, LANES, Op, Word, lanes_of};
use crate::num;

/// New value from the old one and the operands; 32- and 64-bit values are zero-extended.
type Update = fn(u64, u64, u64) -> u64;

fn f32_add(old: u64, b: u64, _: u64) -> u64 {
    u64::from((f32::from_bits(old as u32) + f32::from_bits(b as u32)).to_bits())
}

fn half_add(old: u16, b: u16, bf: bool) -> u16 {
    let sum = num::add_odd(
        f64::from(super::half::widen(old, bf)),
        f64::from(super::half::widen(b, bf)),
    );
    if bf {
        num::bf16_from(sum, num::Mode::Nearest)
    } else {
        num::f16_from(sum, num::Mode::Nearest)
    }
}

fn pair_add(old: u64, b: u64, bf: bool) -> u64 {
    let low = half_add(old as u16, b as u16, bf);
    let high = half_add((old >> 16) as u16, (b >> 16) as u16, bf);
    u64::from(high) << 16 | u64::from(low)
}

fn update_of(name: &str, ty: Type) -> Lowered<Update> {
    Ok(match (name, ty) {
        ("exch", _) => |_, b, _| b,
        ("cas", _) => |old, b, c| if old == b { c } else { old },
        ("and", _) => |old, b, _| old & b,
        ("or", _) => |old, b, _| old | b,
        ("xor", _) => |old, b, _| old ^ b,
        ("add", Type::U32 | Type::S32 | Type::U64 | Type::S64) => |old, b, _| old.wrapping_add(b),
        ("add", Type::F32) => f32_add,
        ("add", Type::F64) => |old, b, _| (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        ("add", Type::F16) => |old, b, _| u64::from(half_add(old as u16, b as u16, false)),
        ("add", Type::Bf16) => |old, b, _| u64::from(half_add(old as u16, b as u16, true)),
        ("add", Type::F16x2) => |old, b, _| pair_add(old, b, false),
        ("add", Type::Bf16x2) => |old, b, _| pair_add(old, b, true),
        ("min", Type::U32 | Type::U64) => |old, b, _| old.min(b),
        ("max", Type::U32 | Type::U64) => |old, b, _| old.max(b),
        ("min", Type::S32) => |old, b, _| (old as i32).min(b as i32) as u32 as u64,
        ("max", Type::S32) => |old, b, _| (old as i32).max(b as i32) as u32 as u64,
        ("min", Type::S64) => |old, b, _| (old as i64).min(b as i64) as u64,
        ("max", Type::S64) => |old, b, _| (old as i64).max(b as i64) as u64,
        ("inc", Type::U32) => |old, b, _| if old >= b { 0 } else { old.wrapping_add(1) },
        ("dec", Type::U32) => |old, b, _| {
            if old == 0 || old > b {
                b
            } else {
                old.wrapping_sub(1)
            }
        },
        _ => return not_supported(),
    })
}

fn atomic_op<T: Word>(
    at: Address,
    d: Option<Any>,
    b: Any,
    c: Option<Any>,
    f: Update,
    polls: u32,
) -> Op {
    Box::new(move |cx, mask| {
        cx.polls = cx.polls.saturating_add(polls);
        let addrs = at.lanes(&cx.frame);
        let places = cx.places(at.space, &addrs, mask, size_of::<T>() as u32, Intent::Write)?;
        let b = read_any(cx, b);
        let c = c.map_or([0; LANES], |c| read_any(cx, c));
        let mut old = [0u64; LANES];
        for lane in lanes_of(mask) {
            old[lane] = places
                .update(lane, |v: T| T::narrow(f(v.widen(), b[lane], c[lane])))
                .widen();
        }
        if let Some(d) = d {
            write_any(cx, d, &old, mask);
        }
        Ok(())
    })
}

/// What an atomic does, and the hints that change nothing here.
const OPERATIONS: &[&str] = &[
    "exch", "cas", "and", "or", "xor", "add", "min", "max", "inc", "dec",
];
const HINTS: &[&str] = &[
    "global",
    "shared",
    "shared::cta",
    "relaxed",
    "acquire",
    "release",
    "acq_rel",
    "gpu",
    "cta",
    "sys",
    "noftz",
    "L2::cache_hint",
];

impl<'a> Lower<'_, 'a> {
    pub(super) fn atomic(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        let Some(name) = form.one_of(OPERATIONS) else {
            return not_supported();
        };
        if form.mods.iter().any(|m| !HINTS.contains(m) && *m != name) {
            return not_supported();
        }
        let ty = form.ty()?;
        let f = update_of(name, ty)?;
        let polls = u32::from(matches!(name, "cas" | "exch"));
        let size = ty.size();
        let first = usize::from(form.base == "atom");
        let d = if first == 1 {
            Some(self.dst_any(self.operand(i, 0)?, size)?)
        } else {
            None
        };
        let at = self.address(self.operand(i, first)?, space_of(form))?;
        let b = self.src_any(self.operand(i, first + 1)?, size)?;
        let c = if name == "cas" {
            Some(self.src_any(self.operand(i, first + 2)?, size)?)
        } else {
            None
        };
        op(match size {
            2 => atomic_op::<u16>(at, d, b, c, f, polls),
            4 => atomic_op::<u32>(at, d, b, c, f, polls),
            8 => atomic_op::<u64>(at, d, b, c, f, polls),
            _ => return not_supported(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(name: &str, ty: Type, old: u64, b: u64, c: u64) -> u64 {
        update_of(name, ty).unwrap()(old, b, c)
    }

    #[test]
    fn counters_wrap_as_the_isa_says() {
        assert_eq!(apply("inc", Type::U32, 5, 5, 0), 0);
        assert_eq!(apply("inc", Type::U32, 4, 5, 0), 5);
        assert_eq!(apply("dec", Type::U32, 0, 9, 0), 9);
        assert_eq!(apply("dec", Type::U32, 12, 9, 0), 9);
        assert_eq!(apply("dec", Type::U32, 4, 9, 0), 3);
    }

    #[test]
    fn signed_and_float_operations() {
        assert_eq!(
            apply("min", Type::S32, 1, u64::from(u32::MAX), 0),
            u64::from(u32::MAX)
        );
        assert_eq!(apply("max", Type::S64, 1, u64::MAX, 0), 1);
        assert_eq!(
            apply(
                "add",
                Type::F32,
                u64::from(1.5f32.to_bits()),
                u64::from(2f32.to_bits()),
                0
            ),
            u64::from(3.5f32.to_bits())
        );
        assert_eq!(
            apply("add", Type::F16x2, 0x3c00_3c00, 0x4000_3c00, 0),
            0x4200_4000
        );
        assert_eq!(apply("cas", Type::B32, 7, 7, 9), 9);
        assert!(update_of("inc", Type::U64).is_err());
    }
}
