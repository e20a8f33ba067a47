//! Numbers: rounding in all directions, and the bit operations that need more than one operator.

mod bitops;
mod fma;
mod round;

pub(crate) use bitops::{
    bit_field, bit_mask, find_nth_set, insert_field, lop3, permute, sign_or_zero_extend,
};
pub(crate) use fma::{fma32, fma64};
pub(crate) use round::{
    Mode, add_odd, add64, bf16_from, div_odd, div64, f16_from, f32_from, fma_odd, fma64_rounded,
    int_to_f32, int_to_f64, mul64, round_integral, sqrt_odd, sqrt64,
};

/// A single with subnormal values replaced by zero of the same sign.
#[inline(always)]
pub(crate) fn flush(v: f32) -> f32 {
    if v.abs() < f32::MIN_POSITIVE {
        f32::from_bits(v.to_bits() & 0x8000_0000)
    } else {
        v
    }
}

/// A single held within 0 and 1; a NaN becomes 0.
#[inline(always)]
pub(crate) fn saturate(v: f32) -> f32 {
    if v > 0.0 { v.min(1.0) } else { 0.0 }
}

/// The smaller number; a NaN only when both are; -0 below +0.
#[inline(always)]
pub(crate) fn min32(a: f32, b: f32) -> f32 {
    if a.is_nan() || a == b && b.is_sign_negative() || b < a {
        if b.is_nan() { a } else { b }
    } else {
        a
    }
}

/// The larger number; a NaN only when both are; +0 above -0.
#[inline(always)]
pub(crate) fn max32(a: f32, b: f32) -> f32 {
    -min32(-a, -b)
}

/// As [`min32`].
#[inline(always)]
pub(crate) fn min64(a: f64, b: f64) -> f64 {
    if a.is_nan() || a == b && b.is_sign_negative() || b < a {
        if b.is_nan() { a } else { b }
    } else {
        a
    }
}

/// As [`max32`].
#[inline(always)]
pub(crate) fn max64(a: f64, b: f64) -> f64 {
    -min64(-a, -b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn min_and_max_treat_nan_and_zero_as_the_isa_says() {
        assert_eq!(min32(f32::NAN, 1.0), 1.0);
        assert_eq!(min32(1.0, f32::NAN), 1.0);
        assert_eq!(max32(f32::NAN, -1.0), -1.0);
        assert!(min32(f32::NAN, f32::NAN).is_nan());
        assert!(min32(0.0, -0.0).is_sign_negative());
        assert!(min32(-0.0, 0.0).is_sign_negative());
        assert!(max32(0.0, -0.0).is_sign_positive());
        assert!(max64(-0.0, 0.0).is_sign_positive());
        assert_eq!(max64(2.0, 3.0), 3.0);
        assert_eq!(min64(2.0, 3.0), 2.0);
    }

    #[test]
    fn flush_and_saturate() {
        assert_eq!(flush(-1e-40).to_bits(), 0x8000_0000);
        assert_eq!(flush(f32::MIN_POSITIVE), f32::MIN_POSITIVE);
        assert!(flush(f32::NAN).is_nan());
        assert_eq!(saturate(f32::NAN), 0.0);
        assert_eq!(saturate(7.0), 1.0);
        assert_eq!(saturate(0.25), 0.25);
    }
}
