//! Loads, stores, and asynchronous copies (which complete at once).

use super::form::{Form, not_supported};
use super::function::{Binding, Lower};
use super::map::{Out, op};
use super::operand::{Address, Any};
use super::{Lowered, invalid};
use crate::ast::{Instruction, Operand, Type};
use crate::exec::{Cx, Intent, LANES, MemSpace, Op, Word, lanes_of};

/// All lanes of a register, zero-extended.
#[inline(always)]
pub(super) fn read_any(cx: &Cx<'_>, a: Any) -> [u64; LANES] {
    match a {
        Any::B16(s) => cx.frame.read(s).map(u64::from),
        Any::B32(s) => cx.frame.read(s).map(u64::from),
        Any::B64(s) => cx.frame.read(s),
    }
}

/// Writes the low bits of each value.
#[inline(always)]
pub(super) fn write_any(cx: &mut Cx<'_>, d: Any, values: &[u64; LANES], mask: u32) {
    match d {
        Any::B16(s) => cx.frame.write(s, &values.map(|v| v as u16), mask),
        Any::B32(s) => cx.frame.write(s, &values.map(|v| v as u32), mask),
        Any::B64(s) => cx.frame.write(s, values, mask),
    }
}

/// Caching, ordering and scope hints, none of which changes what a load or store does here: every
/// access goes straight to memory.
const HINTS: &[&str] = &[
    "global",
    "shared",
    "shared::cta",
    "local",
    "const",
    "param",
    "param::entry",
    "param::func",
    "generic",
    "volatile",
    "relaxed",
    "acquire",
    "release",
    "weak",
    "mmio",
    "gpu",
    "cta",
    "sys",
    "cluster",
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "nc",
    "v2",
    "v4",
    "v8",
    "L1::no_allocate",
    "L1::evict_last",
    "L1::evict_first",
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L2::64B",
    "L2::128B",
    "L2::256B",
    "L2::cache_hint",
    "L2::evict_last",
    "L2::evict_first",
    "L2::evict_normal",
    "unified",
];

/// The space an opcode names.
pub(super) fn space_of(form: &Form<'_>) -> MemSpace {
    match form.one_of(&["shared", "shared::cta", "local"]) {
        Some("local") => MemSpace::Local,
        Some(_) => MemSpace::Shared,
        None => MemSpace::Generic,
    }
}

fn load_op<T: Word>(at: Address, to: Vec<Option<Any>>, sign: bool, polls: u32) -> Op {
    let each = size_of::<T>() as u32;
    let total = each * to.len() as u32;
    let shift = 64 - 8 * each;
    let extend = move |v: u64| ((v << shift) as i64 >> shift) as u64;
    Box::new(move |cx, mask| {
        cx.polls = cx.polls.saturating_add(polls);
        let addrs = at.lanes(&cx.frame);
        let places = cx.places(at.space, &addrs, mask, total, Intent::Read)?;
        for (n, d) in to.iter().enumerate() {
            let Some(d) = *d else { continue };
            let values = places.load_lanes::<T>(mask, n as u32 * each);
            match d {
                // The usual case: a register as wide as the element.
                Any::B32(slot) if each == 4 => {
                    cx.frame
                        .write(slot, &values.map(|v| v.widen() as u32), mask)
                }
                _ if sign => write_any(cx, d, &values.map(|v| extend(v.widen())), mask),
                _ => write_any(cx, d, &values.map(Word::widen), mask),
            }
        }
        Ok(())
    })
}

fn store_op<T: Word>(at: Address, from: Vec<Any>) -> Op {
    let each = size_of::<T>() as u32;
    let total = each * from.len() as u32;
    Box::new(move |cx, mask| {
        let addrs = at.lanes(&cx.frame);
        let places = cx.places(at.space, &addrs, mask, total, Intent::Write)?;
        for (n, a) in from.iter().enumerate() {
            let values = read_any(cx, *a);
            places.store_lanes::<T>(mask, n as u32 * each, &values);
        }
        Ok(())
    })
}

impl<'a> Lower<'_, 'a> {
    pub(super) fn memory(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        match form.base {
            "cp" => self.copy(form, i),
            "st" => self.store(form, i),
            _ => self.load(form, i),
        }
    }

    fn elements(form: &Form<'_>, operand: &Operand) -> Lowered<Vec<Operand>> {
        let width = match form.one_of(&["v2", "v4", "v8"]) {
            None => 1,
            Some("v2") => 2,
            Some("v4") => 4,
            Some(_) => 8,
        };
        let parts = match operand {
            Operand::Vector(parts) => parts.clone(),
            other => vec![other.clone()],
        };
        if parts.len() == width {
            Ok(parts)
        } else {
            invalid(format!("{} registers for {width} elements", parts.len()))
        }
    }

    fn load(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        form.only(HINTS)?;
        let ty = form.ty()?;
        let size = ty.size();
        if size > 8 || ty == Type::Pred {
            return not_supported();
        }
        let mut to = Vec::new();
        for part in Self::elements(form, self.operand(i, 0)?)? {
            to.push(match &part {
                Operand::Name(n) if n == "_" => None,
                other => Some(self.dst_any(other, size)?),
            });
        }
        let source = self.operand(i, 1)?;
        let bytes = size * to.len() as u32;
        if let Some(at) = self.kernel_param(source, bytes)? {
            return op(load_param(at, to, size, ty.is_signed()));
        }
        let at = self.address(source, space_of(form))?;
        let sign = ty.is_signed();
        let polls = u32::from(form.one_of(&["volatile", "acquire", "relaxed"]).is_some());
        op(match size {
            1 => load_op::<u8>(at, to, sign, polls),
            2 => load_op::<u16>(at, to, sign, polls),
            4 => load_op::<u32>(at, to, sign, polls),
            _ => load_op::<u64>(at, to, sign, polls),
        })
    }

    /// Offset of a kernel parameter named directly, checked against its kernel's parameters.
    fn kernel_param(&mut self, operand: &Operand, bytes: u32) -> Lowered<Option<usize>> {
        let Operand::Address(Some(name), offset) = operand else {
            return Ok(None);
        };
        let Some((Binding::KernelParam(at, size), _)) = self.lookup(name) else {
            return Ok(None);
        };
        match u32::try_from(*offset) {
            Ok(offset) if offset.checked_add(bytes).is_some_and(|end| end <= size) => {
                Ok(Some((at + offset) as usize))
            }
            _ => invalid(format!(
                "{bytes} bytes at offset {offset} are outside parameter '{name}'"
            )),
        }
    }

    fn store(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        form.only(HINTS)?;
        let ty = form.ty()?;
        let size = ty.size();
        if size > 8 || ty == Type::Pred || form.has("const") {
            return not_supported();
        }
        let target = self.operand(i, 0)?;
        if let Operand::Address(Some(name), _) = target
            && let Some((Binding::KernelParam(..), _)) = self.lookup(name)
        {
            return invalid("kernel parameters cannot be stored to");
        }
        let mut from = Vec::new();
        for part in Self::elements(form, self.operand(i, 1)?)? {
            from.push(self.src_any(&part, size)?);
        }
        let at = self.address(target, space_of(form))?;
        op(match size {
            1 => store_op::<u8>(at, from),
            2 => store_op::<u16>(at, from),
            4 => store_op::<u32>(at, from),
            _ => store_op::<u64>(at, from),
        })
    }

    fn copy(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        if form.mods.first() != Some(&"async") {
            return not_supported();
        }
        if form
            .one_of(&["commit_group", "wait_group", "wait_all"])
            .is_some()
        {
            return Ok(None);
        }
        form.only(&[
            "async",
            "ca",
            "cg",
            "shared",
            "shared::cta",
            "global",
            "L2::cache_hint",
            "L2::64B",
            "L2::128B",
            "L2::256B",
        ])?;
        let Operand::Int(bytes) = *self.operand(i, 2)? else {
            return invalid("the size is no constant");
        };
        if !matches!(bytes, 4 | 8 | 16) {
            return invalid("the size is none of 4, 8 and 16");
        }
        let bytes = bytes as u32;
        let to = self.address(self.operand(i, 0)?, MemSpace::Shared)?;
        let from = self.address(self.operand(i, 1)?, MemSpace::Generic)?;
        // The fourth operand is the number of source bytes (the rest is zero), or a predicate that
        // says to copy nothing and store zeros; with a cache hint alone it is a 64-bit policy.
        let mut given = None;
        let mut ignore = None;
        if let Some(operand) = i.operands.get(3) {
            match operand {
                Operand::Int(_) => given = Some(self.src::<u32>(operand)?),
                Operand::Name(name) => match self.lookup(name) {
                    Some((Binding::Register(Type::Pred), _)) => {
                        ignore = Some(self.src_pred(operand)?)
                    }
                    Some((Binding::Register(ty), _)) if ty.size() == 4 => {
                        given = Some(self.src::<u32>(operand)?)
                    }
                    Some((Binding::Register(_), _)) if form.has("L2::cache_hint") => {}
                    _ => return invalid("the source size is no 32-bit value"),
                },
                Operand::Not(_) => ignore = Some(self.src_pred(operand)?),
                _ => return not_supported(),
            }
        }
        op(Box::new(move |cx, mask| {
            let (to_addr, from_addr) = (to.lanes(&cx.frame), from.lanes(&cx.frame));
            let target = cx.places(to.space, &to_addr, mask, bytes, Intent::Write)?;
            let given = given.map_or([bytes; LANES], |g| cx.frame.read(g));
            let ignored = ignore.map_or(0, |p| cx.frame.pred_src(p));
            for lane in lanes_of(mask) {
                let want = if ignored >> lane & 1 != 0 {
                    0
                } else {
                    given[lane].min(bytes)
                };
                for at in (0..bytes).step_by(4) {
                    let value = match want.saturating_sub(at).min(4) {
                        0 => 0,
                        4 => cx
                            .place(
                                lane,
                                from_addr[lane].wrapping_add(u64::from(at)),
                                4,
                                Intent::Read,
                            )?
                            .load::<u32>(lane, 0),
                        some => {
                            let mut value = 0;
                            for n in 0..some {
                                let place = cx.place(
                                    lane,
                                    from_addr[lane].wrapping_add(u64::from(at + n)),
                                    1,
                                    Intent::Read,
                                )?;
                                value |= u32::from(place.load::<u8>(lane, 0)) << (8 * n);
                            }
                            value
                        }
                    };
                    target.store(lane, at, value);
                }
            }
            Ok(())
        }))
    }
}

/// Kernel parameters are the same in every lane and known to be in bounds.
fn load_param(at: usize, to: Vec<Option<Any>>, size: u32, sign: bool) -> Op {
    let size = size as usize;
    Box::new(move |cx, mask| {
        for (n, d) in to.iter().enumerate() {
            let from = at + n * size;
            let mut raw = [0u8; 8];
            for (to, from) in raw
                .iter_mut()
                .zip(cx.launch.params.get(from..from + size).unwrap_or(&[]))
            {
                *to = *from;
            }
            let v = u64::from_le_bytes(raw);
            let shift = 64 - 8 * size as u32;
            let v = if sign {
                ((v << shift) as i64 >> shift) as u64
            } else {
                v
            };
            if let Some(d) = d {
                write_any(cx, *d, &[v; LANES], mask);
            }
        }
        Ok(())
    })
}
