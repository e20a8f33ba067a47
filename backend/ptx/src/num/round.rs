//! Directed rounding.
//!
//! Results narrower than a double are computed as doubles *rounded to odd* — the last bit is set
//! when anything was lost — and then rounded once in the direction asked. A double has more than
//! two bits beyond a single, so the second rounding is as good as one of the exact value. For
//! doubles themselves the error of the nearest result is computed exactly and says which way to step.

/// A rounding mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// To nearest, ties to even.
    Nearest,
    /// Towards zero.
    Zero,
    /// Towards minus infinity.
    Down,
    /// Towards plus infinity.
    Up,
}

/// Makes the last bit odd when `error` says that `value` is not exact.
fn to_odd(value: f64, error: f64) -> f64 {
    if error == 0.0 || error.is_nan() || !value.is_finite() || value.to_bits() & 1 != 0 {
        return value;
    }
    // Towards the exact value: the neighbour there has an odd last bit.
    if error > 0.0 {
        value.next_up()
    } else {
        value.next_down()
    }
}

/// The exact error of `a + b`.
fn sum_error(a: f64, b: f64, sum: f64) -> f64 {
    let bb = sum - a;
    (a - (sum - bb)) + (b - bb)
}

/// `a + b`, rounded to odd.
pub(crate) fn add_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    to_odd(sum, sum_error(a, b, sum))
}

/// `a * b + c`, rounded to odd; `a * b` must be exact in a double, as products of singles are.
pub(crate) fn fma_odd(a: f64, b: f64, c: f64) -> f64 {
    add_odd(a * b, c)
}

/// `a / b`, rounded to odd.
pub(crate) fn div_odd(a: f64, b: f64) -> f64 {
    let q = a / b;
    if !q.is_finite() || b.is_infinite() {
        return q;
    }
    let rest = (-q).mul_add(b, a);
    to_odd(q, if b < 0.0 { -rest } else { rest })
}

/// The square root, rounded to odd.
pub(crate) fn sqrt_odd(a: f64) -> f64 {
    let r = a.sqrt();
    if !r.is_finite() {
        r
    } else {
        to_odd(r, (-r).mul_add(r, a))
    }
}

/// Steps from the nearest double in direction `mode`, `error` being exact minus nearest.
fn step(value: f64, error: f64, mode: Mode) -> f64 {
    if error == 0.0 || error.is_nan() || !value.is_finite() {
        return value;
    }
    match mode {
        Mode::Down if error < 0.0 => value.next_down(),
        Mode::Up if error > 0.0 => value.next_up(),
        Mode::Zero if value > 0.0 && error < 0.0 => value.next_down(),
        Mode::Zero if value < 0.0 && error > 0.0 => value.next_up(),
        _ => value,
    }
}

/// What an overflow to infinity becomes in direction `mode`.
fn overflow(value: f64, finite: bool, mode: Mode) -> f64 {
    match mode {
        _ if !finite || !value.is_infinite() => value,
        Mode::Zero => f64::MAX.copysign(value),
        Mode::Down if value > 0.0 => f64::MAX,
        Mode::Up if value < 0.0 => f64::MIN,
        _ => value,
    }
}

/// `a + b` as a double.
pub(crate) fn add64(a: f64, b: f64, mode: Mode) -> f64 {
    let sum = a + b;
    if mode == Mode::Down && sum == 0.0 && a != 0.0 {
        return -0.0;
    }
    overflow(
        step(sum, sum_error(a, b, sum), mode),
        a.is_finite() && b.is_finite(),
        mode,
    )
}

/// `a * b` as a double.
pub(crate) fn mul64(a: f64, b: f64, mode: Mode) -> f64 {
    fma_step(a, b, 0.0, a * b, mode)
}

/// `a * b + c` as a double.
pub(crate) fn fma64_rounded(a: f64, b: f64, c: f64, mode: Mode) -> f64 {
    fma_step(a, b, c, a.mul_add(b, c), mode)
}

fn fma_step(a: f64, b: f64, c: f64, value: f64, mode: Mode) -> f64 {
    let finite = a.is_finite() && b.is_finite() && c.is_finite();
    if mode == Mode::Nearest || !value.is_finite() {
        return overflow(value, finite, mode);
    }
    // exact = product + low + c; what is missing from `value` decides the direction.
    let product = a * b;
    let low = a.mul_add(b, -product);
    let sum = product + c;
    let rest = sum_error(product, c, sum) + low;
    step(value, (sum - value) + rest, mode)
}

/// `a / b` as a double.
pub(crate) fn div64(a: f64, b: f64, mode: Mode) -> f64 {
    let q = a / b;
    if !q.is_finite() || b.is_infinite() {
        return overflow(q, a.is_finite() && b.is_finite() && b != 0.0, mode);
    }
    let rest = (-q).mul_add(b, a);
    step(q, if b < 0.0 { -rest } else { rest }, mode)
}

/// The square root as a double.
pub(crate) fn sqrt64(a: f64, mode: Mode) -> f64 {
    let r = a.sqrt();
    if r.is_finite() {
        step(r, (-r).mul_add(r, a), mode)
    } else {
        r
    }
}

/// A double as a single.
#[inline(always)]
pub(crate) fn f32_from(x: f64, mode: Mode) -> f32 {
    let y = x as f32;
    if mode == Mode::Nearest || f64::from(y) == x || x.is_nan() {
        return y;
    }
    let above = f64::from(y) > x;
    match mode {
        Mode::Down if above => y.next_down(),
        Mode::Up if !above => y.next_up(),
        Mode::Zero if x > 0.0 && above => y.next_down(),
        Mode::Zero if x < 0.0 && !above => y.next_up(),
        _ => y,
    }
}

/// Steps 16-bit float bits by one towards plus or minus infinity.
fn step16(bits: u16, up: bool) -> u16 {
    let negative = bits & 0x8000 != 0;
    match (bits & 0x7fff, negative == up) {
        (0, _) => {
            if up {
                1
            } else {
                0x8001
            }
        }
        (_, true) => bits - 1,
        (_, false) => bits + 1,
    }
}

fn narrow16(x: f64, mode: Mode, bits: u16, back: f64) -> u16 {
    if mode == Mode::Nearest || back == x || x.is_nan() {
        return bits;
    }
    let above = back > x;
    match mode {
        Mode::Down if above => step16(bits, false),
        Mode::Up if !above => step16(bits, true),
        Mode::Zero if x > 0.0 && above => step16(bits, false),
        Mode::Zero if x < 0.0 && !above => step16(bits, true),
        _ => bits,
    }
}

/// A double as the bits of a half.
pub(crate) fn f16_from(x: f64, mode: Mode) -> u16 {
    if x.is_nan() {
        return 0x7fff;
    }
    let y = half::f16::from_f64(x);
    narrow16(x, mode, y.to_bits(), y.to_f64())
}

/// A double as the bits of a bfloat16.
pub(crate) fn bf16_from(x: f64, mode: Mode) -> u16 {
    if x.is_nan() {
        return 0x7fff;
    }
    // Rounded to odd on the way, so that the two roundings act as one.
    let single = f32_from(x, Mode::Zero);
    let odd = if f64::from(single) != x && single.is_finite() {
        f32::from_bits(single.to_bits() | 1)
    } else {
        single
    };
    let y = half::bf16::from_f32(odd);
    narrow16(x, mode, y.to_bits(), y.to_f64())
}

/// An integer as a single.
pub(crate) fn int_to_f32(v: i128, mode: Mode) -> f32 {
    let y = v as f32;
    let back = y as i128;
    if mode == Mode::Nearest || back == v {
        return y;
    }
    let above = back > v;
    match mode {
        Mode::Down if above => y.next_down(),
        Mode::Up if !above => y.next_up(),
        Mode::Zero if v > 0 && above => y.next_down(),
        Mode::Zero if v < 0 && !above => y.next_up(),
        _ => y,
    }
}

/// An integer as a double.
pub(crate) fn int_to_f64(v: i128, mode: Mode) -> f64 {
    let y = v as f64;
    let back = y as i128;
    step(y, (v - back) as f64, mode)
}

/// Rounds to an integral value.
#[inline(always)]
pub(crate) fn round_integral(x: f64, mode: Mode) -> f64 {
    match mode {
        Mode::Nearest => x.round_ties_even(),
        Mode::Zero => x.trunc(),
        Mode::Down => x.floor(),
        Mode::Up => x.ceil(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn singles_round_in_every_direction() {
        let third = div_odd(1.0, 3.0);
        let (down, up) = (f32_from(third, Mode::Down), f32_from(third, Mode::Up));
        assert_eq!(down.next_up(), up);
        assert_eq!(f32_from(third, Mode::Zero), down);
        assert_eq!(f32_from(-third, Mode::Zero), -down);
        assert_eq!(f32_from(third, Mode::Nearest), 1.0f32 / 3.0);
        assert_eq!(f32_from(1e39, Mode::Zero), f32::MAX);
        assert_eq!(f32_from(1e39, Mode::Up), f32::INFINITY);
        assert_eq!(f32_from(-1e-50, Mode::Down), -f32::from_bits(1));
    }

    #[test]
    fn tiny_addends_are_not_lost() {
        assert_eq!(f32_from(add_odd(1.0, 1e-300), Mode::Up), 1f32.next_up());
        assert_eq!(
            f32_from(add_odd(1.0, -1e-300), Mode::Zero),
            1f32.next_down()
        );
        assert_eq!(add64(1.0, 1e-300, Mode::Up), 1f64.next_up());
        assert_eq!(add64(1.0, -1e-300, Mode::Down), 1f64.next_down());
        assert_eq!(add64(1.0, 1e-300, Mode::Down), 1.0);
        assert_eq!(add64(1.0, -1.0, Mode::Down).to_bits(), (-0.0f64).to_bits());
    }

    #[test]
    fn doubles_bracket_the_exact_value() {
        for (a, b) in [(0.1, 0.7), (-3.3, 1.7), (1e10, 1e-7)] {
            for (down, up) in [
                (mul64(a, b, Mode::Down), mul64(a, b, Mode::Up)),
                (div64(a, b, Mode::Down), div64(a, b, Mode::Up)),
                (
                    fma64_rounded(a, b, 0.3, Mode::Down),
                    fma64_rounded(a, b, 0.3, Mode::Up),
                ),
            ] {
                assert_eq!(down.next_up(), up, "{a} {b}");
            }
        }
        assert_eq!(sqrt64(2.0, Mode::Down).next_up(), sqrt64(2.0, Mode::Up));
        assert_eq!(sqrt64(4.0, Mode::Up), 2.0);
        assert_eq!(f32_from(sqrt_odd(2.0), Mode::Up), 2f32.sqrt().next_up());
        assert_eq!(mul64(1e300, 1e300, Mode::Zero), f64::MAX);
    }

    #[test]
    fn sixteen_bits() {
        assert_eq!(f16_from(1.0, Mode::Nearest), 0x3c00);
        assert_eq!(f16_from(1.0 + 1e-9, Mode::Up), 0x3c01);
        assert_eq!(f16_from(-1e-30, Mode::Down), 0x8001);
        assert_eq!(f16_from(1e9, Mode::Zero), 0x7bff);
        assert_eq!(bf16_from(1.0 + 1e-9, Mode::Up), 0x3f81);
        assert_eq!(bf16_from(1.0 + 1.0 / 256.0, Mode::Nearest), 0x3f80);
        assert_eq!(bf16_from(1.0 + 1.0 / 256.0 + 1e-12, Mode::Nearest), 0x3f81);
        assert_eq!(f16_from(f64::NAN, Mode::Zero), 0x7fff);
    }

    #[test]
    fn integers() {
        let v = (1i128 << 24) + 1;
        assert_eq!(int_to_f32(v, Mode::Down), 16_777_216.0);
        assert_eq!(int_to_f32(v, Mode::Up), 16_777_218.0);
        assert_eq!(int_to_f32(-v, Mode::Zero), -16_777_216.0);
        assert_eq!(
            int_to_f64((1i128 << 53) + 1, Mode::Up),
            9_007_199_254_740_994.0
        );
        assert_eq!(round_integral(2.5, Mode::Nearest), 2.0);
        assert_eq!(round_integral(-2.5, Mode::Up), -2.0);
    }
}
