//! Bit manipulation.

use super::form::{Form, not_supported};
use super::function::Lower;
use super::invalid;
use super::map::{Out, by_int, by_width, op};
use crate::ast::{Instruction, Operand, Type};
use crate::exec::{LANES, Lane};
use crate::num;

impl<'a> Lower<'_, 'a> {
    pub(super) fn bits(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        let ty = form.ty()?;
        match form.base {
            "and" | "or" | "xor" | "not" if ty == Type::Pred => self.logic_pred(form, i),
            "and" => by_width!(ty, T => self.binary(i, |a: T, b: T| a & b)),
            "or" => by_width!(ty, T => self.binary(i, |a: T, b: T| a | b)),
            "xor" => by_width!(ty, T => self.binary(i, |a: T, b: T| a ^ b)),
            "not" => by_width!(ty, T => self.unary(i, |a: T| !a)),
            "cnot" => by_width!(ty, T => self.unary(i, |a: T| T::from(a == 0))),
            // Shifts by the width or more give 0, or the sign.
            "shl" => {
                by_width!(ty, T => self.binary(i, |a: T, n: u32| a.checked_shl(n).unwrap_or(0)))
            }
            "shr" => {
                by_int!(ty, T => self.binary(i, |a: T, n: u32| a >> n.min(T::BITS - 1) >> u32::from(n >= T::BITS)))
            }
            "shf" => self.funnel(form, i),
            "lop3" => self.lop3(form, i),
            "prmt" => self.permute(form, i),
            "bfe" => self.extract(ty, i),
            "bfi" => by_width!(ty, T => self.insert::<T>(i)),
            "bfind" => self.find(form, i),
            "brev" => by_width!(ty, T => self.unary(i, |a: T| a.reverse_bits())),
            "popc" => by_width!(ty, T => self.unary(i, |a: T| a.count_ones())),
            "clz" => by_width!(ty, T => self.unary(i, |a: T| a.leading_zeros())),
            "bmsk" => {
                let wrap = form.has("wrap");
                self.binary(i, move |at: u32, width: u32| num::bit_mask(at, width, wrap))
            }
            "szext" => {
                let (wrap, signed) = (form.has("wrap"), ty.is_signed());
                self.binary(i, move |v: u32, n: u32| {
                    num::sign_or_zero_extend(v, n, wrap, signed)
                })
            }
            "fns" => self.ternary(i, |mask: u32, base: u32, n: i32| {
                num::find_nth_set(mask, base, n)
            }),
            _ => not_supported(),
        }
    }

    fn logic_pred(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        let d = self.dst_pred(self.operand(i, 0)?)?;
        let a = self.src_pred(self.operand(i, 1)?)?;
        if form.base == "not" {
            return op(Box::new(move |cx, mask| {
                let v = !cx.frame.pred_src(a);
                cx.frame.set_pred(d, v, mask);
                Ok(())
            }));
        }
        let b = self.src_pred(self.operand(i, 2)?)?;
        let f: fn(u32, u32) -> u32 = match form.base {
            "and" => |a, b| a & b,
            "or" => |a, b| a | b,
            _ => |a, b| a ^ b,
        };
        op(Box::new(move |cx, mask| {
            let v = f(cx.frame.pred_src(a), cx.frame.pred_src(b));
            cx.frame.set_pred(d, v, mask);
            Ok(())
        }))
    }

    fn funnel(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        form.only(&["l", "r", "wrap", "clamp"])?;
        let wrap = form.has("wrap");
        let amount = move |n: u32| if wrap { n & 31 } else { n.min(32) };
        let both = |a: u32, b: u32| u64::from(b) << 32 | u64::from(a);
        if form.has("l") {
            self.ternary(i, move |a: u32, b: u32, n: u32| {
                ((both(a, b) << amount(n)) >> 32) as u32
            })
        } else {
            self.ternary(i, move |a: u32, b: u32, n: u32| {
                (both(a, b) >> amount(n)) as u32
            })
        }
    }

    fn lop3(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        form.only(&[])?;
        let table = match self.operand(i, 4)? {
            Operand::Int(v) if *v <= 255 => *v as u8,
            _ => return invalid("the table is no number from 0 to 255"),
        };
        self.ternary(i, move |a: u32, b: u32, c: u32| num::lop3(a, b, c, table))
    }

    fn permute(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        let mode = match form.mods.first() {
            None => return self.ternary(i, num::permute),
            Some(m) => *m,
        };
        let select: fn(u32) -> u32 = match mode {
            "f4e" => |n| [0x3210, 0x4321, 0x5432, 0x6543][n as usize & 3],
            "b4e" => |n| [0x5670, 0x6701, 0x7012, 0x0123][n as usize & 3],
            "rc8" => |n| [0x0000, 0x1111, 0x2222, 0x3333][n as usize & 3],
            "ecl" => |n| [0x3210, 0x3211, 0x3222, 0x3333][n as usize & 3],
            "ecr" => |n| [0x0000, 0x1110, 0x2210, 0x3210][n as usize & 3],
            "rc16" => |n| [0x1010, 0x3232, 0x1010, 0x3232][n as usize & 3],
            _ => return not_supported(),
        };
        self.ternary(i, move |a: u32, b: u32, n: u32| {
            num::permute(a, b, select(n))
        })
    }

    fn extract(&mut self, ty: Type, i: &Instruction) -> Out {
        let signed = ty.is_signed();
        match ty.size() {
            4 => self.ternary(i, move |a: u32, at: u32, len: u32| {
                num::bit_field(u64::from(a), at, len, 32, signed) as u32
            }),
            8 => self.ternary(i, move |a: u64, at: u32, len: u32| {
                num::bit_field(a, at, len, 64, signed)
            }),
            _ => not_supported(),
        }
    }

    fn insert<T: Lane>(&mut self, i: &Instruction) -> Out {
        let d = self.dst::<T>(self.operand(i, 0)?)?;
        let a = self.src::<T>(self.operand(i, 1)?)?;
        let b = self.src::<T>(self.operand(i, 2)?)?;
        let at = self.src::<u32>(self.operand(i, 3)?)?;
        let len = self.src::<u32>(self.operand(i, 4)?)?;
        op(Box::new(move |cx, mask| {
            let (a, b) = (cx.frame.read(a), cx.frame.read(b));
            let (at, len) = (cx.frame.read(at), cx.frame.read(len));
            let r: [T; LANES] = std::array::from_fn(|l| {
                T::from_bits(num::insert_field(
                    a[l].to_bits(),
                    b[l].to_bits(),
                    at[l],
                    len[l],
                    T::BYTES * 8,
                ))
            });
            cx.frame.write(d, &r, mask);
            Ok(())
        }))
    }

    fn find(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        form.only(&["shiftamt"])?;
        let shift = form.has("shiftamt");
        // For signed numbers the first bit that differs from the sign counts.
        by_int!(form.ty()?, T => self.unary(i, move |a: T| {
            let bits = Lane::to_bits(a);
            let width = T::BITS;
            let wide = if T::MIN != 0 && bits >> (width - 1) & 1 != 0 { !bits & (u64::MAX >> (64 - width)) } else { bits };
            match wide.checked_ilog2() {
                None => u32::MAX,
                Some(n) if shift => width - 1 - n,
                Some(n) => n,
            }
        }))
    }
}
