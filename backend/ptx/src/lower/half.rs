//! Half and bfloat16 arithmetic, single and packed. Values are computed wide and rounded once.

use super::form::{Form, not_supported};
use super::function::Lower;
use super::map::Out;
use crate::ast::{Instruction, Type};
use crate::num::{self, Mode, saturate};

/// The value of 16-bit float bits.
#[inline(always)]
pub(super) fn widen(bits: u16, bf: bool) -> f32 {
    if bf {
        f32::from_bits(u32::from(bits) << 16)
    } else {
        half::f16::from_bits(bits).to_f32()
    }
}

/// What happens to operands and results around the operation itself.
#[derive(Debug, Clone, Copy)]
struct Shape {
    bf: bool,
    ftz: bool,
    sat: bool,
    relu: bool,
}

impl Shape {
    fn load(self, bits: u16) -> f32 {
        let small = bits & if self.bf { 0x7f80 } else { 0x7c00 } == 0;
        widen(
            if self.ftz && small {
                bits & 0x8000
            } else {
                bits
            },
            self.bf,
        )
    }

    fn round(self, value: f64) -> u16 {
        if self.bf {
            num::bf16_from(value, Mode::Nearest)
        } else {
            num::f16_from(value, Mode::Nearest)
        }
    }

    fn store(self, value: f64) -> u16 {
        let value = if self.sat {
            f64::from(saturate(value as f32))
        } else {
            value
        };
        let value = if self.relu && value < 0.0 { 0.0 } else { value };
        let bits = self.round(value);
        let small = bits & if self.bf { 0x7f80 } else { 0x7c00 } == 0;
        if self.ftz && small {
            bits & 0x8000
        } else {
            bits
        }
    }
}

impl<'a> Lower<'_, 'a> {
    pub(super) fn half(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        form.only(&[
            "rn", "ftz", "sat", "relu", "approx", "NaN", "xorsign", "abs",
        ])?;
        let ty = form.ty()?;
        let bf = matches!(ty, Type::Bf16 | Type::Bf16x2);
        let shape = Shape {
            bf,
            ftz: form.has("ftz"),
            sat: form.has("sat"),
            relu: form.has("relu"),
        };
        let nan = form.has("NaN");
        let xorsign = form.has("xorsign");
        match form.base {
            "add" => self.half2(form, i, move |a, b| {
                shape.store(num::add_odd(wide(shape, a), wide(shape, b)))
            }),
            "sub" => self.half2(form, i, move |a, b| {
                shape.store(num::add_odd(wide(shape, a), -wide(shape, b)))
            }),
            "mul" => self.half2(form, i, move |a, b| {
                shape.store(wide(shape, a) * wide(shape, b))
            }),
            "fma" => self.half3(form, i, move |a, b, c| {
                shape.store(num::fma_odd(wide(shape, a), wide(shape, b), wide(shape, c)))
            }),
            "neg" => self.half1(form, i, |a| a ^ 0x8000),
            "abs" => self.half1(form, i, |a| a & 0x7fff),
            "min" | "max" => {
                let f: fn(f32, f32) -> f32 = if form.base == "min" {
                    num::min32
                } else {
                    num::max32
                };
                self.half2(form, i, move |a, b| {
                    let (x, y) = (shape.load(a), shape.load(b));
                    if nan && (x.is_nan() || y.is_nan()) || x.is_nan() && y.is_nan() {
                        return 0x7fff;
                    }
                    if xorsign {
                        return shape.round(f64::from(f(x.abs(), y.abs()))) & 0x7fff
                            | (a ^ b) & 0x8000;
                    }
                    shape.store(f64::from(f(x, y)))
                })
            }
            "ex2" => self.half1(form, i, move |a| {
                shape.store(f64::from(shape.load(a)).exp2())
            }),
            "tanh" => self.half1(form, i, move |a| {
                shape.store(f64::from(shape.load(a)).tanh())
            }),
            _ => not_supported(),
        }
    }

    fn half1(
        &mut self,
        form: &Form<'_>,
        i: &Instruction,
        f: impl Fn(u16) -> u16 + Send + Sync + 'static,
    ) -> Out {
        match form.ty()?.size() {
            2 => self.unary(i, f),
            _ => self.unary(i, move |a: u32| pack(f(a as u16), f((a >> 16) as u16))),
        }
    }

    fn half2(
        &mut self,
        form: &Form<'_>,
        i: &Instruction,
        f: impl Fn(u16, u16) -> u16 + Send + Sync + 'static,
    ) -> Out {
        match form.ty()?.size() {
            2 => self.binary(i, f),
            _ => self.binary(i, move |a: u32, b: u32| {
                pack(f(a as u16, b as u16), f((a >> 16) as u16, (b >> 16) as u16))
            }),
        }
    }

    fn half3(
        &mut self,
        form: &Form<'_>,
        i: &Instruction,
        f: impl Fn(u16, u16, u16) -> u16 + Send + Sync + 'static,
    ) -> Out {
        match form.ty()?.size() {
            2 => self.ternary(i, f),
            _ => self.ternary(i, move |a: u32, b: u32, c: u32| {
                pack(
                    f(a as u16, b as u16, c as u16),
                    f((a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16),
                )
            }),
        }
    }
}

fn wide(shape: Shape, bits: u16) -> f64 {
    f64::from(shape.load(bits))
}

fn pack(low: u16, high: u16) -> u32 {
    u32::from(high) << 16 | u32::from(low)
}
