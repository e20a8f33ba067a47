//! `cvt`: between all number types.

use super::form::{Form, not_supported};
use super::function::Lower;
use super::map::{Out, map1, op};
use super::operand::Any;
use super::{Lowered, invalid};
use crate::ast::{Instruction, Type};
use crate::exec::{LANES, Lane, Slot};
use crate::num::{self, Mode, flush, saturate};

/// A conversion, read off the modifiers.
#[derive(Debug, Clone, Copy)]
struct Spec {
    to: Type,
    from: Type,
    mode: Mode,
    /// Rounds a float to an integral float.
    integral: bool,
    ftz: bool,
    sat: bool,
    relu: bool,
    tf32: bool,
}

/// A number on its way.
#[derive(Debug, Clone, Copy)]
enum Value {
    Int(i128),
    Float(f64),
}

impl Spec {
    fn load(self, bits: u64) -> Value {
        match self.from {
            Type::U8 | Type::B8 => Value::Int(i128::from(bits as u8)),
            Type::S8 => Value::Int(i128::from(bits as i8)),
            Type::U16 | Type::B16 => Value::Int(i128::from(bits as u16)),
            Type::S16 => Value::Int(i128::from(bits as i16)),
            Type::U32 | Type::B32 => Value::Int(i128::from(bits as u32)),
            Type::S32 => Value::Int(i128::from(bits as i32)),
            Type::S64 => Value::Int(i128::from(bits as i64)),
            Type::F16 => Value::Float(half::f16::from_bits(bits as u16).to_f64()),
            Type::Bf16 => Value::Float(half::bf16::from_bits(bits as u16).to_f64()),
            Type::F32 => {
                let v = f32::from_bits(bits as u32);
                Value::Float(f64::from(if self.ftz { flush(v) } else { v }))
            }
            Type::F64 => Value::Float(f64::from_bits(bits)),
            _ => Value::Int(i128::from(bits)),
        }
    }

    fn convert(self, bits: u64) -> u64 {
        let value = self.load(bits);
        if self.to.is_float() {
            self.to_float(value)
        } else {
            self.to_int(value) as u64
        }
    }

    fn to_float(self, value: Value) -> u64 {
        let x = match value {
            Value::Int(v) => match self.to {
                Type::F32 => return u64::from(num::int_to_f32(v, self.mode).to_bits()),
                Type::F64 => return num::int_to_f64(v, self.mode).to_bits(),
                // 64-bit integers beyond 2^53 are far beyond the largest half; a bfloat16 keeps so
                // few bits that only the sticky last bit matters.
                _ => {
                    let d = num::int_to_f64(v, Mode::Zero);
                    if d as i128 == v {
                        d
                    } else {
                        f64::from_bits(d.to_bits() | 1)
                    }
                }
            },
            Value::Float(x) => x,
        };
        let x = if self.integral {
            num::round_integral(x, self.mode)
        } else {
            x
        };
        let x = if self.sat {
            if x > 0.0 { x.min(1.0) } else { 0.0 }
        } else {
            x
        };
        let x = if self.relu && x < 0.0 { 0.0 } else { x };
        let mode = if self.integral {
            Mode::Nearest
        } else {
            self.mode
        };
        match self.to {
            Type::F16 => u64::from(num::f16_from(x, mode)),
            Type::Bf16 => u64::from(num::bf16_from(x, mode)),
            Type::F32 if x.is_nan() => 0x7fff_ffff,
            Type::F32 => {
                let r = num::f32_from(x, mode);
                u64::from(if self.ftz { flush(r) } else { r }.to_bits())
            }
            _ => x.to_bits(),
        }
    }

    fn to_int(self, value: Value) -> i128 {
        let bits = self.to.size() * 8;
        let (low, high) = if self.to.is_signed() {
            (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
        } else {
            (0, (1i128 << bits) - 1)
        };
        match value {
            Value::Int(v) if self.sat => v.clamp(low, high),
            Value::Int(v) => v,
            // A NaN is 0, or the top bit alone where 64 bits are involved.
            Value::Float(x) if x.is_nan() => {
                if self.from == Type::F64 || bits == 64 {
                    1i128 << (bits - 1)
                } else {
                    0
                }
            }
            Value::Float(x) => (num::round_integral(x, self.mode) as i128).clamp(low, high),
        }
    }
}

impl<'a> Lower<'_, 'a> {
    pub(super) fn convert(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        form.only(&[
            "rn",
            "rz",
            "rm",
            "rp",
            "rna",
            "rni",
            "rzi",
            "rmi",
            "rpi",
            "ftz",
            "sat",
            "satfinite",
            "relu",
            "tf32",
        ])?;
        if i.operands.len() == 3 {
            return self.convert_pair(form, i);
        }
        let tf32 = form.has("tf32");
        let (to, from) = if tf32 {
            (Type::B32, Type::F32)
        } else {
            (form.ty()?, form.second()?)
        };
        if matches!(to, Type::F16x2 | Type::Bf16x2)
            || form.has("satfinite")
            || (form.types.len() < 2 && !tf32)
        {
            return not_supported();
        }
        let integral = form.one_of(&["rni", "rzi", "rmi", "rpi"]);
        let mode = match integral {
            Some("rni") => Mode::Nearest,
            Some("rzi") => Mode::Zero,
            Some("rmi") => Mode::Down,
            Some(_) => Mode::Up,
            None => form.mode(),
        };
        let spec = Spec {
            to,
            from,
            mode,
            integral: integral.is_some(),
            ftz: form.has("ftz"),
            sat: form.has("sat"),
            relu: form.has("relu"),
            tf32,
        };
        if to.size() > 8 || from.size() > 8 || to == Type::Pred || from == Type::Pred {
            return not_supported();
        }
        let d = self.dst_any(self.operand(i, 0)?, to.size())?;
        let a = self.src_any(self.operand(i, 1)?, from.size())?;
        match fast(&spec, d, a)? {
            Some(op_) => op(op_),
            None => self.slow(spec, d, a),
        }
    }

    fn slow(&mut self, spec: Spec, d: Any, a: Any) -> Out {
        if spec.tf32 {
            // tf32 keeps 10 bits of the fraction, rounded to nearest, ties away from zero.
            return op(Box::new(move |cx, mask| {
                let values = super::memory::read_any(cx, a).map(|v| {
                    let rounded = (v as u32).wrapping_add(0x1000) & !0x1fff;
                    u64::from(if f32::from_bits(v as u32).is_finite() {
                        rounded
                    } else {
                        v as u32
                    })
                });
                super::memory::write_any(cx, d, &values, mask);
                Ok(())
            }));
        }
        let extend = widen_to(spec.to);
        op(Box::new(move |cx, mask| {
            let values = super::memory::read_any(cx, a).map(|v| extend(spec.convert(v)));
            super::memory::write_any(cx, d, &values, mask);
            Ok(())
        }))
    }

    /// `cvt.rn.f16x2.f32 d, a, b`: `a` becomes the high half.
    fn convert_pair(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        form.only(&["rn", "rz", "relu"])?;
        let bf = match (form.ty()?, form.second()?) {
            (Type::F16x2, Type::F32) => false,
            (Type::Bf16x2, Type::F32) => true,
            _ => return not_supported(),
        };
        let (mode, relu) = (form.mode(), form.has("relu"));
        let one = move |v: f32| {
            let v = f64::from(if relu && v < 0.0 { 0.0 } else { v });
            if bf {
                num::bf16_from(v, mode)
            } else {
                num::f16_from(v, mode)
            }
        };
        self.binary(i, move |a: f32, b: f32| {
            u32::from(one(a)) << 16 | u32::from(one(b))
        })
    }
}

/// How a result of type `to` fills a wider register: by its sign, or by zeros.
fn widen_to(to: Type) -> fn(u64) -> u64 {
    match to {
        Type::S8 => |v| v as i8 as u64,
        Type::S16 => |v| v as i16 as u64,
        Type::S32 => |v| v as i32 as u64,
        Type::U8 | Type::B8 => |v| u64::from(v as u8),
        Type::U16 | Type::B16 | Type::F16 | Type::Bf16 => |v| u64::from(v as u16),
        Type::U32 | Type::B32 | Type::F32 => |v| u64::from(v as u32),
        _ => |v| v,
    }
}

/// The everyday conversions, which vectorise.
fn fast(spec: &Spec, d: Any, a: Any) -> Lowered<Option<crate::exec::Op>> {
    use Type::{F16, F32, F64, S32, S64, U32, U64};
    let nearest = spec.mode == Mode::Nearest && !spec.integral;
    let plain = !spec.sat && !spec.relu && !spec.ftz;
    let (to, from) = (spec.to, spec.from);
    Ok(match (d, a) {
        (Any::B64(d), Any::B32(a)) if plain => match (to, from) {
            (U64 | S64, U32) => Some(map1(d, a, |v: u32| u64::from(v))),
            (U64 | S64, S32) => Some(map1(d, a, |v: u32| v as i32 as u64)),
            (F64, F32) if !spec.integral => Some(map1(at::<f64>(d), at::<f32>(a), f64::from)),
            (F64, S32) => Some(map1(at::<f64>(d), at::<i32>(a), f64::from)),
            (F64, U32) => Some(map1(at::<f64>(d), a, |v: u32| f64::from(v))),
            _ => None,
        },
        (Any::B32(d), Any::B64(a)) if plain => match (to, from) {
            (U32 | S32, U64 | S64) => Some(map1(d, a, |v: u64| v as u32)),
            (F32, F64) if nearest => Some(map1(at::<f32>(d), at::<f64>(a), |v: f64| v as f32)),
            _ => None,
        },
        (Any::B32(d), Any::B32(a)) => match (to, from) {
            (F32, S32) if nearest && !spec.sat => {
                Some(map1(at::<f32>(d), at::<i32>(a), |v: i32| v as f32))
            }
            (F32, U32) if nearest && !spec.sat => Some(map1(at::<f32>(d), a, |v: u32| v as f32)),
            (S32, F32) if spec.mode == Mode::Zero && spec.integral => {
                Some(map1(at::<i32>(d), at::<f32>(a), |v: f32| v as i32))
            }
            (U32, F32) if spec.mode == Mode::Zero && spec.integral => {
                Some(map1(d, at::<f32>(a), |v: f32| v as u32))
            }
            (F32, F32) if spec.integral && plain => {
                let mode = spec.mode;
                Some(match mode {
                    Mode::Nearest => map1(at::<f32>(d), at::<f32>(a), f32::round_ties_even),
                    Mode::Zero => map1(at::<f32>(d), at::<f32>(a), f32::trunc),
                    Mode::Down => map1(at::<f32>(d), at::<f32>(a), f32::floor),
                    Mode::Up => map1(at::<f32>(d), at::<f32>(a), f32::ceil),
                })
            }
            (F32, F32) if spec.sat && nearest && !spec.relu => {
                let ftz = spec.ftz;
                Some(map1(at::<f32>(d), at::<f32>(a), move |v: f32| {
                    saturate(if ftz { flush(v) } else { v })
                }))
            }
            _ => None,
        },
        (Any::B32(d), Any::B16(a)) => match (to, from) {
            (F32, F16) => Some(map1(at::<f32>(d), a, |v: u16| {
                half::f16::from_bits(v).to_f32()
            })),
            _ => None,
        },
        (Any::B16(d), Any::B32(a)) if plain => match (to, from) {
            (F16, F32) if nearest => Some(Box::new(move |cx, mask| {
                let r: [u16; LANES] = cx
                    .frame
                    .read(at::<f32>(a))
                    .map(|v| num::f16_from(f64::from(v), Mode::Nearest));
                cx.frame.write(d, &r, mask);
                Ok(())
            })),
            _ => None,
        },
        _ => None,
    })
}

/// The same register, read as another type of the same width.
fn at<T: Lane>(slot: Slot<impl Lane>) -> Slot<T> {
    Slot::at(slot.offset())
}

/// Refuses what `mov` may not be given.
pub(super) fn same_width(a: u32, b: u32) -> Lowered<()> {
    if a == b {
        Ok(())
    } else {
        invalid("operands of different width")
    }
}
