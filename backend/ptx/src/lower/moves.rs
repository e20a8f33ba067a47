//! `mov` with packing and unpacking, and conversions between address spaces.

use super::convert::same_width;
use super::form::{Form, not_supported};
use super::function::Lower;
use super::map::{Out, by_width, map1, op};
use super::operand::Any;
use super::{Lowered, invalid};
use crate::ast::{Instruction, Operand, Type};
use crate::exec::{LANES, LOCAL_BASE, PARAM_BASE, SHARED_BASE};

impl<'a> Lower<'_, 'a> {
    pub(super) fn moves(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        match form.base {
            "cvta" => self.cvta(form, i),
            "isspacep" => self.isspacep(form, i),
            _ => self.mov(form, i),
        }
    }

    fn mov(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        form.only(&[])?;
        let ty = form.ty()?;
        let (to, from) = (self.operand(i, 0)?, self.operand(i, 1)?);
        match (to, from) {
            (Operand::Vector(parts), _) => self.unpack(ty, parts, from),
            (_, Operand::Vector(parts)) => self.pack(ty, to, parts),
            _ if ty == Type::Pred => {
                let d = self.dst_pred(to)?;
                let a = self.src_pred(from)?;
                op(Box::new(move |cx, mask| {
                    let v = cx.frame.pred_src(a);
                    cx.frame.set_pred(d, v, mask);
                    Ok(())
                }))
            }
            _ => {
                let parameter = match from {
                    Operand::Name(name) => self.param_address(name, 0)?,
                    Operand::Sum(name, offset) => self.param_address(name, *offset)?,
                    _ => None,
                };
                if let Some(a) = parameter {
                    return op(map1(self.dst::<u64>(to)?, a, |v: u64| v));
                }
                by_width!(ty, T => {
                    let d = self.dst::<T>(to)?;
                    let a = self.src::<T>(from)?;
                    op(Box::new(move |cx, mask| {
                        let v = cx.frame.read(a);
                        cx.frame.write(d, &v, mask);
                        Ok(())
                    }))
                })
            }
        }
    }

    /// Bits of one part when `count` parts make up `ty`.
    fn part_bits(ty: Type, count: usize) -> Lowered<u32> {
        let bits = ty.size() * 8;
        match count {
            2 | 4 if ty.size() <= 8 && bits / count as u32 >= 8 => Ok(bits / count as u32),
            _ => not_supported(),
        }
    }

    fn unpack(&mut self, ty: Type, parts: &[Operand], from: &Operand) -> Out {
        let bits = Self::part_bits(ty, parts.len())?;
        let a = self.src_any(from, ty.size())?;
        let mut to = Vec::new();
        for (n, part) in parts.iter().enumerate() {
            if !matches!(part, Operand::Name(name) if name == "_") {
                to.push((n as u32 * bits, self.dst_any(part, bits.div_ceil(8))?));
            }
        }
        op(Box::new(move |cx, mask| {
            let values = super::memory::read_any(cx, a);
            for (shift, d) in &to {
                let part = values.map(|v| v >> shift & (u64::MAX >> (64 - bits)));
                super::memory::write_any(cx, *d, &part, mask);
            }
            Ok(())
        }))
    }

    fn pack(&mut self, ty: Type, to: &Operand, parts: &[Operand]) -> Out {
        let bits = Self::part_bits(ty, parts.len())?;
        let d = self.dst_any(to, ty.size())?;
        let mut from: Vec<(u32, Any)> = Vec::new();
        for (n, part) in parts.iter().enumerate() {
            from.push((n as u32 * bits, self.src_any(part, bits / 8)?));
        }
        if let (Any::B64(d), [(_, Any::B32(low)), (_, Any::B32(high))]) = (d, from.as_slice()) {
            let (low, high) = (*low, *high);
            return op(super::map::map2(d, low, high, |l: u32, h: u32| {
                u64::from(h) << 32 | u64::from(l)
            }));
        }
        if let Some((_, Any::B64(_))) = from.first() {
            same_width(64, bits)?;
        }
        op(Box::new(move |cx, mask| {
            let mut values = [0u64; LANES];
            for (shift, a) in &from {
                for (v, part) in values.iter_mut().zip(super::memory::read_any(cx, *a)) {
                    *v |= (part & (u64::MAX >> (64 - bits))) << shift;
                }
            }
            super::memory::write_any(cx, d, &values, mask);
            Ok(())
        }))
    }

    fn cvta(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        form.only(&[
            "to",
            "global",
            "const",
            "shared",
            "shared::cta",
            "local",
            "param",
        ])?;
        let tag = match form.one_of(&["global", "const", "shared", "shared::cta", "local", "param"])
        {
            Some("shared" | "shared::cta") => SHARED_BASE,
            Some("local") => LOCAL_BASE,
            // Parameter addresses carry their tag from the start.
            Some("global" | "const" | "param") => 0,
            _ => return invalid("no state space"),
        };
        if form.ty()?.size() != 8 {
            return not_supported();
        }
        if form.has("to") {
            self.unary(i, move |a: u64| a & !tag)
        } else {
            self.unary(i, move |a: u64| a | tag)
        }
    }

    fn isspacep(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        let tag = match form.mods.first().copied() {
            Some("shared" | "shared::cta") => SHARED_BASE,
            Some("local") => LOCAL_BASE,
            Some("param") => PARAM_BASE,
            Some("global") => 0,
            // Constants lie in global memory here.
            Some("const") => u64::MAX,
            _ => return not_supported(),
        };
        let d = self.dst_pred(self.operand(i, 0)?)?;
        let a = self.src::<u64>(self.operand(i, 1)?)?;
        op(Box::new(move |cx, mask| {
            let a = cx.frame.read(a);
            let found = (0..LANES).fold(0, |m, l| {
                m | u32::from(a[l] & !(SHARED_BASE - 1) == tag) << l
            });
            cx.frame.set_pred(d, found, mask);
            Ok(())
        }))
    }
}
