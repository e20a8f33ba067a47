//! Single and double precision arithmetic.

use super::form::{Form, not_supported};
use super::function::Lower;
use super::map::{Out, op};
use crate::ast::Instruction;
use crate::exec::{LANES, Op, Slot};
use crate::num::{self, Mode, flush, saturate};

impl Form<'_> {
    /// The rounding mode named, nearest when none is.
    pub(super) fn mode(&self) -> Mode {
        match self.one_of(&["rz", "rm", "rp"]) {
            Some("rz") => Mode::Zero,
            Some("rm") => Mode::Down,
            Some(_) => Mode::Up,
            None => Mode::Nearest,
        }
    }
}

/// Modifiers that need no thought: the results are never less exact than they ask.
const ARITHMETIC: &[&str] = &["rn", "rz", "rm", "rp", "ftz", "sat", "approx", "full"];

impl<'a> Lower<'_, 'a> {
    fn one32(
        &mut self,
        form: &Form<'_>,
        i: &Instruction,
        f: impl Fn(f32) -> f32 + Send + Sync + 'static,
    ) -> Out {
        match (form.has("ftz"), form.has("sat")) {
            (false, false) => self.unary(i, f),
            (true, false) => self.unary(i, move |a: f32| flush(f(flush(a)))),
            (false, true) => self.unary(i, move |a: f32| saturate(f(a))),
            (true, true) => self.unary(i, move |a: f32| saturate(flush(f(flush(a))))),
        }
    }

    fn two32(
        &mut self,
        form: &Form<'_>,
        i: &Instruction,
        f: impl Fn(f32, f32) -> f32 + Send + Sync + 'static,
    ) -> Out {
        match (form.has("ftz"), form.has("sat")) {
            (false, false) => self.binary(i, f),
            (true, false) => self.binary(i, move |a: f32, b: f32| flush(f(flush(a), flush(b)))),
            (false, true) => self.binary(i, move |a: f32, b: f32| saturate(f(a, b))),
            (true, true) => self.binary(i, move |a: f32, b: f32| {
                saturate(flush(f(flush(a), flush(b))))
            }),
        }
    }

    pub(super) fn float32(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        let mode = form.mode();
        let nearest = mode == Mode::Nearest;
        match form.base {
            "min" | "max" => return self.extreme32(form, i),
            "testp" => {
                return self.testp(form, i, |v: u32| {
                    Class::of(f64::from(f32::from_bits(v)), v & 0x7f80_0000 != 0)
                });
            }
            _ => form.only(ARITHMETIC)?,
        }
        // f32 operands are exact as doubles; see `num::round` for why two roundings are harmless.
        let wide = f64::from;
        match form.base {
            "add" if nearest => self.two32(form, i, |a, b| a + b),
            "sub" if nearest => self.two32(form, i, |a, b| a - b),
            "mul" if nearest => self.two32(form, i, |a, b| a * b),
            "div" if nearest => self.two32(form, i, |a, b| a / b),
            "add" => self.two32(form, i, move |a, b| {
                zero_sum(
                    a,
                    b,
                    num::f32_from(num::add_odd(wide(a), wide(b)), mode),
                    mode,
                )
            }),
            "sub" => self.two32(form, i, move |a, b| {
                zero_sum(
                    a,
                    -b,
                    num::f32_from(num::add_odd(wide(a), -wide(b)), mode),
                    mode,
                )
            }),
            "mul" => self.two32(form, i, move |a, b| num::f32_from(wide(a) * wide(b), mode)),
            "div" => self.two32(form, i, move |a, b| {
                num::f32_from(num::div_odd(wide(a), wide(b)), mode)
            }),
            "fma" | "mad" => self.fma32(form, i, mode),
            "abs" => self.one32(form, i, f32::abs),
            "neg" => self.one32(form, i, |a| -a),
            "rcp" if nearest => self.one32(form, i, |a| 1.0 / a),
            "rcp" => self.one32(form, i, move |a| {
                num::f32_from(num::div_odd(1.0, wide(a)), mode)
            }),
            "sqrt" if nearest => self.one32(form, i, f32::sqrt),
            "sqrt" => self.one32(form, i, move |a| {
                num::f32_from(num::sqrt_odd(wide(a)), mode)
            }),
            "rsqrt" => self.one32(form, i, |a| {
                if a == 0.0 {
                    f32::INFINITY.copysign(a)
                } else {
                    (1.0 / f64::from(a).sqrt()) as f32
                }
            }),
            "sin" => self.one32(form, i, f32::sin),
            "cos" => self.one32(form, i, f32::cos),
            "lg2" => self.one32(form, i, f32::log2),
            "ex2" => self.one32(form, i, f32::exp2),
            "tanh" => self.one32(form, i, f32::tanh),
            // The sign is that of the first operand, the value of the second.
            "copysign" => self.binary(i, |a: f32, b: f32| b.copysign(a)),
            _ => not_supported(),
        }
    }

    fn fma32(&mut self, form: &Form<'_>, i: &Instruction, mode: Mode) -> Out {
        let d = self.dst::<f32>(self.operand(i, 0)?)?;
        let a = self.src::<f32>(self.operand(i, 1)?)?;
        let b = self.src::<f32>(self.operand(i, 2)?)?;
        let c = self.src::<f32>(self.operand(i, 3)?)?;
        let (ftz, sat) = (form.has("ftz"), form.has("sat"));
        if mode == Mode::Nearest {
            return op(fused32(d, a, b, c, ftz, sat));
        }
        self.ternary(i, move |a: f32, b: f32, c: f32| {
            let (a, b, c) = if ftz {
                (flush(a), flush(b), flush(c))
            } else {
                (a, b, c)
            };
            let (wa, wb, wc) = (f64::from(a), f64::from(b), f64::from(c));
            let exact = num::f32_from(num::fma_odd(wa, wb, wc), mode);
            let r = if exact == 0.0 && mode == Mode::Down && wa * wb != 0.0 {
                -0.0
            } else {
                exact
            };
            let r = if ftz { flush(r) } else { r };
            if sat { saturate(r) } else { r }
        })
    }

    fn extreme32(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        form.only(&["ftz", "NaN", "xorsign", "abs"])?;
        let base: fn(f32, f32) -> f32 = if form.base == "min" {
            num::min32
        } else {
            num::max32
        };
        if i.operands.len() > 3 {
            let nan = form.has("NaN");
            let (ftz, abs) = (form.has("ftz"), form.has("abs"));
            return self.ternary(i, move |a: f32, b: f32, c: f32| {
                let f = |v: f32| {
                    let v = if ftz { flush(v) } else { v };
                    if abs { v.abs() } else { v }
                };
                if nan && (a.is_nan() || b.is_nan() || c.is_nan()) {
                    quiet32()
                } else {
                    base(base(f(a), f(b)), f(c))
                }
            });
        }
        if !form.has("NaN") && !form.has("xorsign") {
            return if form.base == "min" {
                self.two32(form, i, num::min32)
            } else {
                self.two32(form, i, num::max32)
            };
        }
        let (nan, xorsign) = (form.has("NaN"), form.has("xorsign"));
        self.two32(form, i, move |a, b| {
            if nan && (a.is_nan() || b.is_nan()) {
                return quiet32();
            }
            if !xorsign {
                return base(a, b);
            }
            let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
            f32::from_bits(base(a.abs(), b.abs()).to_bits() & 0x7fff_ffff | sign)
        })
    }

    pub(super) fn float64(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        let mode = form.mode();
        let nearest = mode == Mode::Nearest;
        match form.base {
            "testp" => {
                return self.testp(form, i, |v: u64| {
                    Class::of(f64::from_bits(v), v & 0x7ff0_0000_0000_0000 != 0)
                });
            }
            _ => form.only(&["rn", "rz", "rm", "rp", "approx", "ftz"])?,
        }
        match form.base {
            "add" if nearest => self.binary(i, |a: f64, b: f64| a + b),
            "sub" if nearest => self.binary(i, |a: f64, b: f64| a - b),
            "mul" if nearest => self.binary(i, |a: f64, b: f64| a * b),
            "div" if nearest => self.binary(i, |a: f64, b: f64| a / b),
            "add" => self.binary(i, move |a: f64, b: f64| num::add64(a, b, mode)),
            "sub" => self.binary(i, move |a: f64, b: f64| num::add64(a, -b, mode)),
            "mul" => self.binary(i, move |a: f64, b: f64| num::mul64(a, b, mode)),
            "div" => self.binary(i, move |a: f64, b: f64| num::div64(a, b, mode)),
            "fma" | "mad" if nearest => {
                let d = self.dst::<f64>(self.operand(i, 0)?)?;
                let a = self.src::<f64>(self.operand(i, 1)?)?;
                let b = self.src::<f64>(self.operand(i, 2)?)?;
                let c = self.src::<f64>(self.operand(i, 3)?)?;
                op(Box::new(move |cx, mask| {
                    let r = num::fma64(&cx.frame.read(a), &cx.frame.read(b), &cx.frame.read(c));
                    cx.frame.write(d, &r, mask);
                    Ok(())
                }))
            }
            "fma" | "mad" => self.ternary(i, move |a: f64, b: f64, c: f64| {
                num::fma64_rounded(a, b, c, mode)
            }),
            "abs" => self.unary(i, f64::abs),
            "neg" => self.unary(i, |a: f64| -a),
            "min" => self.binary(i, num::min64),
            "max" => self.binary(i, num::max64),
            "rcp" => self.unary(i, move |a: f64| num::div64(1.0, a, mode)),
            "sqrt" => self.unary(i, move |a: f64| num::sqrt64(a, mode)),
            "rsqrt" => self.unary(i, |a: f64| {
                if a == 0.0 {
                    f64::INFINITY.copysign(a)
                } else {
                    1.0 / a.sqrt()
                }
            }),
            "copysign" => self.binary(i, |a: f64, b: f64| b.copysign(a)),
            _ => not_supported(),
        }
    }

    fn testp<T: crate::exec::Lane>(
        &mut self,
        form: &Form<'_>,
        i: &Instruction,
        class: impl Fn(T) -> Class + Send + Sync + 'static,
    ) -> Out {
        let test: fn(Class) -> bool = match form.mods.first().copied() {
            Some("finite") => |c| matches!(c, Class::Normal | Class::Small),
            Some("infinite") => |c| c == Class::Infinite,
            Some("number") => |c| c != Class::Nan,
            Some("notanumber") => |c| c == Class::Nan,
            Some("normal") => |c| c == Class::Normal,
            Some("subnormal") => |c| c == Class::Small,
            _ => return not_supported(),
        };
        let d = self.dst_pred(self.operand(i, 0)?)?;
        let a = self.src::<T>(self.operand(i, 1)?)?;
        op(Box::new(move |cx, mask| {
            let a = cx.frame.read(a);
            let out = (0..LANES).fold(0, |m, l| m | u32::from(test(class(a[l]))) << l);
            cx.frame.set_pred(d, out, mask);
            Ok(())
        }))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Nan,
    Infinite,
    Normal,
    /// Zero or subnormal, which `testp` does not tell apart.
    Small,
}

impl Class {
    fn of(value: f64, has_exponent: bool) -> Class {
        match value {
            v if v.is_nan() => Class::Nan,
            v if v.is_infinite() => Class::Infinite,
            _ if has_exponent => Class::Normal,
            _ => Class::Small,
        }
    }
}

/// The NaN the device makes.
fn quiet32() -> f32 {
    f32::from_bits(0x7fff_ffff)
}

/// Rounding down, an exact zero out of two numbers that cancel is negative.
fn zero_sum(a: f32, b: f32, sum: f32, mode: Mode) -> f32 {
    if sum == 0.0 && mode == Mode::Down && a != 0.0 && a == -b {
        -0.0
    } else {
        sum
    }
}

fn fused32(d: Slot<f32>, a: Slot<f32>, b: Slot<f32>, c: Slot<f32>, ftz: bool, sat: bool) -> Op {
    if !ftz && !sat {
        return Box::new(move |cx, mask| {
            let r = num::fma32(&cx.frame.read(a), &cx.frame.read(b), &cx.frame.read(c));
            cx.frame.write(d, &r, mask);
            Ok(())
        });
    }
    Box::new(move |cx, mask| {
        let (mut a, mut b, mut c) = (cx.frame.read(a), cx.frame.read(b), cx.frame.read(c));
        if ftz {
            (a, b, c) = (a.map(flush), b.map(flush), c.map(flush));
        }
        let mut r = num::fma32(&a, &b, &c);
        if ftz {
            r = r.map(flush);
        }
        if sat {
            r = r.map(saturate);
        }
        cx.frame.write(d, &r, mask);
        Ok(())
    })
}
