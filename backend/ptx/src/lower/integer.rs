//! Integer arithmetic. Everything wraps, as on the device.

use super::Lowered;
use super::form::{Form, not_supported};
use super::function::Lower;
use super::map::{Out, by_int, by_width, map2, op};
use crate::ast::{Instruction, Type};
use crate::exec::{Kind, LANES, Lane, Pred, Slot};

/// What `add`, `min`, `div` … need from an integer type.
pub(super) trait Int: Lane + Ord {
    type Wide: Lane;
    fn add(self, b: Self) -> Self;
    fn sub(self, b: Self) -> Self;
    fn mul(self, b: Self) -> Self;
    fn mul_high(self, b: Self) -> Self;
    fn mul_wide(self, b: Self) -> Self::Wide;
    fn wide_add(a: Self::Wide, b: Self::Wide) -> Self::Wide;
    fn div(self, b: Self) -> Self;
    fn rem(self, b: Self) -> Self;
    fn sat_add(self, b: Self) -> Self;
    fn sat_sub(self, b: Self) -> Self;
    fn abs_diff_(self, b: Self) -> Self;
    fn neg(self) -> Self;
    fn abs(self) -> Self;
}

macro_rules! ints {
    ($($t:ty, $wide:ty, $calc:ty, $abs:expr;)*) => {$(
        impl Int for $t {
            type Wide = $wide;
            #[inline(always)]
            fn add(self, b: Self) -> Self { self.wrapping_add(b) }
            #[inline(always)]
            fn sub(self, b: Self) -> Self { self.wrapping_sub(b) }
            #[inline(always)]
            fn mul(self, b: Self) -> Self { self.wrapping_mul(b) }
            #[inline(always)]
            fn mul_high(self, b: Self) -> Self {
                ((self as $calc).wrapping_mul(b as $calc) >> <$t>::BITS) as $t
            }
            #[inline(always)]
            fn mul_wide(self, b: Self) -> $wide { (self as $wide).wrapping_mul(b as $wide) }
            #[inline(always)]
            fn wide_add(a: $wide, b: $wide) -> $wide { a.wrapping_add(b) }
            // The ISA leaves division by zero open; GPUs give all ones, and the dividend as remainder.
            #[inline(always)]
            fn div(self, b: Self) -> Self { if b == 0 { !0 } else { self.wrapping_div(b) } }
            #[inline(always)]
            fn rem(self, b: Self) -> Self { if b == 0 { self } else { self.wrapping_rem(b) } }
            #[inline(always)]
            fn sat_add(self, b: Self) -> Self { self.saturating_add(b) }
            #[inline(always)]
            fn sat_sub(self, b: Self) -> Self { self.saturating_sub(b) }
            #[inline(always)]
            fn abs_diff_(self, b: Self) -> Self { self.abs_diff(b) as $t }
            #[inline(always)]
            fn neg(self) -> Self { self.wrapping_neg() }
            #[inline(always)]
            fn abs(self) -> Self { ($abs)(self) }
        }
    )*};
}

ints! {
    u16, u32, u32, |v| v;
    i16, i32, i32, i16::wrapping_abs;
    u32, u64, u64, |v| v;
    i32, i64, i64, i32::wrapping_abs;
    // No instruction widens 64 bits; the type only completes the trait.
    u64, u64, u128, |v| v;
    i64, i64, i128, i64::wrapping_abs;
}

impl<'a> Lower<'_, 'a> {
    pub(super) fn integer(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        let ty = form.ty()?;
        match form.base {
            "dp4a" | "dp2a" => return self.dot_product(form, i),
            "addc" | "subc" | "madc" => return self.with_carry(form, i),
            "add" | "sub" | "mad" if form.has("cc") => return self.with_carry(form, i),
            "mul24" | "mad24" => return self.mul24(form, i),
            _ => {}
        }
        if form
            .types
            .iter()
            .any(|t| matches!(t, Type::B8 | Type::U8 | Type::S8))
        {
            return not_supported();
        }
        if i.op.ends_with("x2") {
            return self.packed16(form, i);
        }
        by_int!(ty, T => self.int_of::<T>(form, i))
    }

    fn int_of<T: Int>(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        let sat = form.has("sat");
        match form.base {
            "add" => {
                form.only(&["sat"])?;
                if sat {
                    self.binary(i, T::sat_add)
                } else {
                    self.binary(i, T::add)
                }
            }
            "sub" => {
                form.only(&["sat"])?;
                if sat {
                    self.binary(i, T::sat_sub)
                } else {
                    self.binary(i, T::sub)
                }
            }
            "mul" => {
                form.only(&["lo", "hi", "wide"])?;
                match form.one_of(&["hi", "wide"]) {
                    Some("hi") => self.binary(i, T::mul_high),
                    Some(_) if T::BYTES == 8 => not_supported(),
                    Some(_) => self.binary(i, T::mul_wide),
                    None => self.binary(i, T::mul),
                }
            }
            "mad" => {
                form.only(&["lo", "hi", "wide", "sat"])?;
                match form.one_of(&["hi", "wide"]) {
                    Some("hi") if sat => {
                        self.ternary(i, |a: T, b: T, c: T| a.mul_high(b).sat_add(c))
                    }
                    Some("hi") => self.ternary(i, |a: T, b: T, c: T| a.mul_high(b).add(c)),
                    Some(_) if T::BYTES == 8 => not_supported(),
                    Some(_) => {
                        self.ternary(i, |a: T, b: T, c: T::Wide| T::wide_add(a.mul_wide(b), c))
                    }
                    None => self.ternary(i, |a: T, b: T, c: T| a.mul(b).add(c)),
                }
            }
            "div" => {
                form.only(&[])?;
                self.binary(i, T::div)
            }
            "rem" => {
                form.only(&[])?;
                self.binary(i, T::rem)
            }
            "abs" => {
                form.only(&[])?;
                self.unary(i, T::abs)
            }
            "neg" => {
                form.only(&[])?;
                self.unary(i, T::neg)
            }
            "min" | "max" => {
                form.only(&["relu"])?;
                let zero = T::from_bits(0);
                match (form.base, form.has("relu")) {
                    ("min", false) => self.binary(i, |a: T, b: T| a.min(b)),
                    ("max", false) => self.binary(i, |a: T, b: T| a.max(b)),
                    ("min", true) => self.binary(i, move |a: T, b: T| a.min(b).max(zero)),
                    _ => self.binary(i, move |a: T, b: T| a.max(b).max(zero)),
                }
            }
            "sad" => {
                form.only(&[])?;
                self.ternary(i, |a: T, b: T, c: T| c.add(a.abs_diff_(b)))
            }
            _ => not_supported(),
        }
    }

    /// Two 16-bit numbers side by side.
    fn packed16(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        let signed = match form.mods.last() {
            Some(&"s16x2") => true,
            Some(&"u16x2") => false,
            _ => return not_supported(),
        };
        let f: fn(u16, u16) -> u16 = match (form.base, signed) {
            ("add", _) => |a, b| a.wrapping_add(b),
            ("sub", _) => |a, b| a.wrapping_sub(b),
            ("min", false) => u16::min,
            ("max", false) => u16::max,
            ("min", true) => |a, b| (a as i16).min(b as i16) as u16,
            ("max", true) => |a, b| (a as i16).max(b as i16) as u16,
            _ => return not_supported(),
        };
        self.binary(i, move |a: u32, b: u32| {
            let low = f(a as u16, b as u16);
            let high = f((a >> 16) as u16, (b >> 16) as u16);
            u32::from(high) << 16 | u32::from(low)
        })
    }

    fn mul24(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        let high = form.has("hi");
        form.only(&["lo", "hi"])?;
        let product = move |a: i64, b: i64| {
            let p = a.wrapping_mul(b);
            if high { (p >> 16) as u32 } else { p as u32 }
        };
        let signed = form.ty()? == Type::S32;
        let widen = move |v: u32| {
            if signed {
                i64::from((v << 8) as i32 >> 8)
            } else {
                i64::from(v & 0xff_ffff)
            }
        };
        if form.base == "mul24" {
            self.binary(i, move |a: u32, b: u32| product(widen(a), widen(b)))
        } else {
            self.ternary(i, move |a: u32, b: u32, c: u32| {
                product(widen(a), widen(b)).wrapping_add(c)
            })
        }
    }

    fn dot_product(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        form.only(&["lo", "hi"])?;
        let signed_a = form.ty()?.is_signed();
        let signed_b = form.second()?.is_signed();
        let byte = |v: u32, n: u32, signed: bool| {
            let b = (v >> (8 * n)) as u8;
            if signed {
                i32::from(b as i8)
            } else {
                i32::from(b)
            }
        };
        if form.base == "dp4a" {
            return self.ternary(i, move |a: u32, b: u32, c: u32| {
                (0..4).fold(c, |sum, n| {
                    sum.wrapping_add((byte(a, n, signed_a) * byte(b, n, signed_b)) as u32)
                })
            });
        }
        let first = if form.has("hi") { 2 } else { 0 };
        let half = move |v: u32, n: u32| {
            let h = (v >> (16 * n)) as u16;
            if signed_a {
                i32::from(h as i16)
            } else {
                i32::from(h)
            }
        };
        self.ternary(i, move |a: u32, b: u32, c: u32| {
            (0..2).fold(c, |sum, n| {
                sum.wrapping_add(half(a, n).wrapping_mul(byte(b, first + n, signed_b)) as u32)
            })
        })
    }

    /// The carry flag: a predicate nobody can name.
    fn carry(&mut self) -> Lowered<Slot<Pred>> {
        self.carry_slot()
    }

    fn with_carry(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        form.only(&["cc", "lo", "hi"])?;
        let carry = self.carry()?;
        let takes = form.base.ends_with('c');
        let gives = form.has("cc");
        let ty = form.ty()?;
        if ty.size() < 4 {
            return not_supported();
        }
        let subtract = form.base.starts_with("sub");
        if !form.base.starts_with("mad") {
            return by_width!(ty, T => self.carry_chain::<T>(i, carry, takes, gives, subtract, 1, 2));
        }
        // The product first, into a register of its own, then the sum with carry.
        let high = form.has("hi");
        by_int!(ty, T => {
            let product = self.scratch::<T>()?;
            let a = self.src::<T>(self.operand(i, 1)?)?;
            let b = self.src::<T>(self.operand(i, 2)?)?;
            self.prelude.push(Kind::Op(map2(product, a, b, move |a: T, b: T| if high { a.mul_high(b) } else { Int::mul(a, b) })));
            let product = Slot::at(product.offset());
            self.carry_sum::<T>(i, carry, takes, gives, product)
        })
    }

    #[allow(clippy::too_many_arguments)] // the parts of one instruction form
    fn carry_chain<T: Lane>(
        &mut self,
        i: &Instruction,
        carry: Slot<Pred>,
        takes: bool,
        gives: bool,
        subtract: bool,
        first: usize,
        second: usize,
    ) -> Out {
        let d = self.dst::<T>(self.operand(i, 0)?)?;
        let a = self.src::<T>(self.operand(i, first)?)?;
        let b = self.src::<T>(self.operand(i, second)?)?;
        op(carry_op(d, a, b, carry, takes, gives, subtract))
    }

    fn carry_sum<T: Lane>(
        &mut self,
        i: &Instruction,
        carry: Slot<Pred>,
        takes: bool,
        gives: bool,
        product: Slot<T>,
    ) -> Out {
        let d = self.dst::<T>(self.operand(i, 0)?)?;
        let c = self.src::<T>(self.operand(i, 3)?)?;
        op(carry_op(d, product, c, carry, takes, gives, false))
    }
}

fn carry_op<T: Lane>(
    d: Slot<T>,
    a: Slot<T>,
    b: Slot<T>,
    carry: Slot<Pred>,
    takes: bool,
    gives: bool,
    subtract: bool,
) -> crate::exec::Op {
    let bits = T::BYTES * 8;
    Box::new(move |cx, mask| {
        let (a, b) = (cx.frame.read(a), cx.frame.read(b));
        let flags = if takes { cx.frame.pred(carry) } else { 0 };
        let mut out = 0u32;
        let r: [T; LANES] = std::array::from_fn(|l| {
            let flag = i128::from(flags >> l & 1);
            let (a, b) = (i128::from(a[l].to_bits()), i128::from(b[l].to_bits()));
            // For subtraction the flag is a borrow; only the chain itself ever sees it.
            let sum = if subtract { a - b - flag } else { a + b + flag };
            out |= u32::from(sum >> bits != 0) << l;
            T::from_bits(sum as u64)
        });
        cx.frame.write(d, &r, mask);
        if gives {
            cx.frame.set_pred(carry, out, mask);
        }
        Ok(())
    })
}
