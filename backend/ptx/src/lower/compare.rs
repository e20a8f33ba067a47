//! Comparison and selection.

use super::form::{Form, not_supported};
use super::function::Lower;
use super::map::{Out, by_int, by_width, op};
use super::{Lowered, invalid};
use crate::ast::{Instruction, Operand, Type};
use crate::exec::{Cx, LANES, Lane, Pred, PredSrc, Slot};
use crate::num;

/// A comparison of the active registers, as a mask of lanes.
type Test = Box<dyn Fn(&Cx<'_>) -> u32 + Send + Sync>;

const OPERATORS: &[&str] = &[
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu",
    "geu", "num", "nan",
];

fn test<T: Lane>(a: Slot<T>, b: Slot<T>, f: impl Fn(T, T) -> bool + Send + Sync + 'static) -> Test {
    Box::new(move |cx| {
        let (a, b) = (cx.frame.read(a), cx.frame.read(b));
        let mut out = 0;
        for l in 0..LANES {
            out |= u32::from(f(a[l], b[l])) << l;
        }
        out
    })
}

fn int_test<T: Lane + Ord>(operator: &str, a: Slot<T>, b: Slot<T>) -> Lowered<Test> {
    Ok(match operator {
        "eq" => test(a, b, |a, b| a == b),
        "ne" => test(a, b, |a, b| a != b),
        "lt" | "lo" => test(a, b, |a, b| a < b),
        "le" | "ls" => test(a, b, |a, b| a <= b),
        "gt" | "hi" => test(a, b, |a, b| a > b),
        "ge" | "hs" => test(a, b, |a, b| a >= b),
        other => return invalid(format!("'{other}' does not compare integers")),
    })
}

fn float_test<R: Lane, F: PartialOrd + 'static>(
    operator: &str,
    a: Slot<R>,
    b: Slot<R>,
    value: impl Fn(R) -> F + Copy + Send + Sync + 'static,
) -> Lowered<Test> {
    // Comparisons with a NaN are false, those ending in `u` true.
    Ok(match operator {
        "eq" => test(a, b, move |a, b| value(a) == value(b)),
        "ne" => test(a, b, move |a, b| value(a) < value(b) || value(a) > value(b)),
        "lt" => test(a, b, move |a, b| value(a) < value(b)),
        "le" => test(a, b, move |a, b| value(a) <= value(b)),
        "gt" => test(a, b, move |a, b| value(a) > value(b)),
        "ge" => test(a, b, move |a, b| value(a) >= value(b)),
        "equ" => test(a, b, move |a, b| {
            !(value(a) < value(b) || value(a) > value(b))
        }),
        "neu" => test(a, b, move |a, b| value(a) != value(b)),
        "ltu" => test(
            a,
            b,
            move |a, b| !matches!(value(a).partial_cmp(&value(b)), Some(o) if o.is_ge()),
        ),
        "leu" => test(
            a,
            b,
            move |a, b| !matches!(value(a).partial_cmp(&value(b)), Some(o) if o.is_gt()),
        ),
        "gtu" => test(
            a,
            b,
            move |a, b| !matches!(value(a).partial_cmp(&value(b)), Some(o) if o.is_le()),
        ),
        "geu" => test(
            a,
            b,
            move |a, b| !matches!(value(a).partial_cmp(&value(b)), Some(o) if o.is_lt()),
        ),
        "num" => test(a, b, move |a, b| value(a).partial_cmp(&value(b)).is_some()),
        "nan" => test(a, b, move |a, b| value(a).partial_cmp(&value(b)).is_none()),
        other => return invalid(format!("'{other}' does not compare floats")),
    })
}

/// How a comparison is combined with a further predicate.
#[derive(Debug, Clone, Copy)]
struct Combine {
    f: fn(u32, u32) -> u32,
    with: PredSrc,
}

impl<'a> Lower<'_, 'a> {
    pub(super) fn compare(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        match form.base {
            "setp" => self.setp(form, i),
            "set" => self.set(form, i),
            "selp" => self.selp(form, i),
            _ => self.slct(form, i),
        }
    }

    fn test_of(
        &mut self,
        form: &Form<'_>,
        ty: Type,
        i: &Instruction,
        a: usize,
        b: usize,
    ) -> Lowered<Test> {
        let Some(operator) = form.one_of(OPERATORS) else {
            return invalid("no comparison operator");
        };
        let (a, b) = (self.operand(i, a)?, self.operand(i, b)?);
        match ty {
            Type::F32 if form.has("ftz") => {
                float_test(operator, self.src::<f32>(a)?, self.src(b)?, num::flush)
            }
            Type::F32 => float_test(operator, self.src::<f32>(a)?, self.src(b)?, |v| v),
            Type::F64 => float_test(operator, self.src::<f64>(a)?, self.src(b)?, |v| v),
            Type::F16 => float_test(operator, self.src::<u16>(a)?, self.src(b)?, |v| {
                half::f16::from_bits(v).to_f32()
            }),
            Type::Bf16 => float_test(operator, self.src::<u16>(a)?, self.src(b)?, |v| {
                half::bf16::from_bits(v).to_f32()
            }),
            _ => by_int!(ty, T => int_test::<T>(operator, self.src(a)?, self.src(b)?)),
        }
    }

    fn combine(&mut self, form: &Form<'_>, i: &Instruction) -> Lowered<Option<Combine>> {
        let f: fn(u32, u32) -> u32 = match form.one_of(&["and", "or", "xor"]) {
            None => return Ok(None),
            Some("and") => |a, b| a & b,
            Some("or") => |a, b| a | b,
            Some(_) => |a, b| a ^ b,
        };
        Ok(Some(Combine {
            f,
            with: self.src_pred(self.operand(i, 3)?)?,
        }))
    }

    fn setp(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        let ty = form.ty()?;
        if matches!(ty, Type::F16x2 | Type::Bf16x2) {
            return self.setp_packed(form, i);
        }
        let test = self.test_of(form, ty, i, 1, 2)?;
        let combine = self.combine(form, i)?;
        let (p, q) = self.pred_pair(self.operand(i, 0)?)?;
        op(Box::new(move |cx, mask| {
            let found = test(cx);
            let (yes, no) = match combine {
                None => (found, !found),
                Some(c) => {
                    let with = cx.frame.pred_src(c.with);
                    ((c.f)(found, with), (c.f)(!found, with))
                }
            };
            cx.frame.set_pred(p, yes, mask);
            if let Some(q) = q {
                cx.frame.set_pred(q, no, mask);
            }
            Ok(())
        }))
    }

    /// `p` or `p|q`.
    pub(super) fn pred_pair(
        &mut self,
        operand: &Operand,
    ) -> Lowered<(Slot<Pred>, Option<Slot<Pred>>)> {
        match operand {
            Operand::Pair(p, q) => Ok((
                self.dst_pred(&Operand::Name(p.clone()))?,
                if q == "_" {
                    None
                } else {
                    Some(self.pred_register(q)?)
                },
            )),
            other => Ok((self.dst_pred(other)?, None)),
        }
    }

    /// Both halves compared at once: `p` for the low, `q` for the high one.
    fn setp_packed(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        let Some(operator) = form.one_of(OPERATORS) else {
            return invalid("no comparison operator");
        };
        let combine = self.combine(form, i)?;
        let bf = form.ty()? == Type::Bf16x2;
        let a = self.src::<u32>(self.operand(i, 1)?)?;
        let b = self.src::<u32>(self.operand(i, 2)?)?;
        let low = float_test(operator, a, b, move |v| super::half::widen(v as u16, bf))?;
        let high = float_test(operator, a, b, move |v| {
            super::half::widen((v >> 16) as u16, bf)
        })?;
        let (p, q) = self.pred_pair(self.operand(i, 0)?)?;
        op(Box::new(move |cx, mask| {
            let (mut low, mut high) = (low(cx), high(cx));
            if let Some(c) = combine {
                let with = cx.frame.pred_src(c.with);
                (low, high) = ((c.f)(low, with), (c.f)(high, with));
            }
            cx.frame.set_pred(p, low, mask);
            if let Some(q) = q {
                cx.frame.set_pred(q, high, mask);
            }
            Ok(())
        }))
    }

    fn set(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        let (to, from) = (form.ty()?, form.second()?);
        if matches!(from, Type::F16x2 | Type::Bf16x2) {
            return self.set_packed(form, to, i);
        }
        let test = self.test_of(form, from, i, 1, 2)?;
        let combine = self.combine(form, i)?;
        let truth = match to {
            Type::F32 => u64::from(1f32.to_bits()),
            Type::F16 => 0x3c00,
            Type::Bf16 => 0x3f80,
            Type::U32 | Type::S32 | Type::U16 | Type::S16 => u64::MAX,
            _ => return not_supported(),
        };
        let to16 = to.size() == 2;
        let d = self.dst_any(self.operand(i, 0)?, to.size())?;
        op(Box::new(move |cx, mask| {
            let mut found = test(cx);
            if let Some(c) = combine {
                found = (c.f)(found, cx.frame.pred_src(c.with));
            }
            let bits = if to16 { truth & 0xffff } else { truth };
            let values: [u64; LANES] =
                std::array::from_fn(|l| if found >> l & 1 != 0 { bits } else { 0 });
            super::memory::write_any(cx, d, &values, mask);
            Ok(())
        }))
    }

    fn set_packed(&mut self, form: &Form<'_>, to: Type, i: &Instruction) -> Out {
        let Some(operator) = form.one_of(OPERATORS) else {
            return invalid("no comparison operator");
        };
        form.only(&[operator, "ftz"])?;
        let bf = form.second()? == Type::Bf16x2;
        let truth: u32 = match to {
            Type::F16x2 => 0x3c00,
            Type::Bf16x2 => 0x3f80,
            Type::U32 | Type::S32 => 0xffff,
            _ => return not_supported(),
        };
        let a = self.src::<u32>(self.operand(i, 1)?)?;
        let b = self.src::<u32>(self.operand(i, 2)?)?;
        let low = float_test(operator, a, b, move |v| super::half::widen(v as u16, bf))?;
        let high = float_test(operator, a, b, move |v| {
            super::half::widen((v >> 16) as u16, bf)
        })?;
        let d = self.dst::<u32>(self.operand(i, 0)?)?;
        op(Box::new(move |cx, mask| {
            let (low, high) = (low(cx), high(cx));
            let one = |m: u32, l: usize| if m >> l & 1 != 0 { truth } else { 0 };
            let values: [u32; LANES] = std::array::from_fn(|l| one(high, l) << 16 | one(low, l));
            cx.frame.write(d, &values, mask);
            Ok(())
        }))
    }

    fn selp(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        form.only(&[])?;
        let ty = form.ty()?;
        if ty == Type::Pred {
            return not_supported();
        }
        by_width!(ty, T => {
            let d = self.dst::<T>(self.operand(i, 0)?)?;
            let a = self.src::<T>(self.operand(i, 1)?)?;
            let b = self.src::<T>(self.operand(i, 2)?)?;
            let p = self.src_pred(self.operand(i, 3)?)?;
            op(Box::new(move |cx, mask| {
                let (a, b, p) = (cx.frame.read(a), cx.frame.read(b), cx.frame.pred_src(p));
                let r: [T; LANES] = std::array::from_fn(|l| if p >> l & 1 != 0 { a[l] } else { b[l] });
                cx.frame.write(d, &r, mask);
                Ok(())
            }))
        })
    }

    fn slct(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        form.only(&["ftz"])?;
        let float = form.second()? == Type::F32;
        by_width!(form.ty()?, T => self.ternary(i, move |a: T, b: T, c: u32| {
            // -0.0 counts as not negative, a NaN as negative.
            let first = if float { f32::from_bits(c) >= 0.0 } else { (c as i32) >= 0 };
            if first { a } else { b }
        }))
    }
}
