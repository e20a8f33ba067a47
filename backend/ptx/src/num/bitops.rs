//! `prmt`, `lop3`, `bfe`, `bfi` and their like, as the ISA defines them.

/// Any function of three bits, given as its table of eight.
#[inline(always)]
pub(crate) fn lop3(a: u32, b: u32, c: u32, table: u8) -> u32 {
    let mut out = 0;
    for row in 0..8 {
        if table >> row & 1 != 0 {
            let pick = |v: u32, bit: u32| if row >> bit & 1 != 0 { v } else { !v };
            out |= pick(a, 2) & pick(b, 1) & pick(c, 0);
        }
    }
    out
}

/// Four bytes chosen out of eight; bit 3 of a selector repeats the byte's sign.
#[inline(always)]
pub(crate) fn permute(a: u32, b: u32, select: u32) -> u32 {
    let both = u64::from(b) << 32 | u64::from(a);
    let mut out = 0;
    for n in 0..4 {
        let s = select >> (4 * n) & 0xf;
        let byte = (both >> (8 * (s & 7))) as u8;
        let byte = if s & 8 != 0 {
            ((byte as i8) >> 7) as u8
        } else {
            byte
        };
        out |= u32::from(byte) << (8 * n);
    }
    out
}

/// `bfe`: `len` bits of `a` from bit `at` on, in a number of `width` bits.
#[inline(always)]
pub(crate) fn bit_field(a: u64, at: u32, len: u32, width: u32, signed: bool) -> u64 {
    let (at, len) = (at & 0xff, len & 0xff);
    if len == 0 {
        return 0;
    }
    let top = (at + len - 1).min(width - 1);
    let sign = signed && a >> top & 1 != 0;
    let fill = if sign { u64::MAX } else { 0 };
    if at >= width {
        return fill;
    }
    let kept = (width - at).min(len);
    let value = a >> at & (u64::MAX >> (64 - kept));
    if kept == 64 {
        value
    } else {
        value | fill << kept
    }
}

/// `bfi`: `b` with `len` bits from bit `at` on replaced by those of `a`.
#[inline(always)]
pub(crate) fn insert_field(a: u64, b: u64, at: u32, len: u32, width: u32) -> u64 {
    let (at, len) = (at & 0xff, len & 0xff);
    if at >= width || len == 0 {
        return b;
    }
    let mask = (u64::MAX >> (64 - len.min(64))) << at;
    b & !mask | a << at & mask
}

/// `bmsk`: ones in `width` bits from bit `at` on.
pub(crate) fn bit_mask(at: u32, width: u32, wrap: bool) -> u32 {
    let (at, width) = if wrap {
        (at & 31, width & 31)
    } else {
        (at.min(32), width.min(32))
    };
    let ones = ((1u64 << width) - 1) << at;
    ones as u32
}

/// `szext`: the low `n` bits extended.
pub(crate) fn sign_or_zero_extend(v: u32, n: u32, wrap: bool, signed: bool) -> u32 {
    let n = if wrap { n & 31 } else { n.min(32) };
    match n {
        0 => 0,
        32 => v,
        _ if signed => ((v << (32 - n)) as i32 >> (32 - n)) as u32,
        _ => v & ((1 << n) - 1),
    }
}

/// `fns`: position of the `n`-th set bit counted from `base`, or all ones.
pub(crate) fn find_nth_set(mask: u32, base: u32, n: i32) -> u32 {
    let base = base & 31;
    if n == 0 {
        return if mask >> base & 1 != 0 {
            base
        } else {
            u32::MAX
        };
    }
    let mut left = n.unsigned_abs();
    let mut at = i64::from(base);
    while (0..32).contains(&at) {
        if mask >> at & 1 != 0 {
            left -= 1;
            if left == 0 {
                return at as u32;
            }
        }
        at += i64::from(n.signum());
    }
    u32::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lop3_tables() {
        let (a, b, c) = (0x1234_5678, 0x0f0f_0f0f, 0xff00_ff00);
        assert_eq!(lop3(a, b, c, 0x96), a ^ b ^ c);
        assert_eq!(lop3(a, b, c, 0xe8), a & b | a & c | b & c);
        assert_eq!(lop3(a, b, c, 0xca), a & b | !a & c);
    }

    #[test]
    fn permute_selects_and_repeats_signs() {
        assert_eq!(permute(0x3322_1100, 0x7766_5544, 0x7531), 0x7755_3311);
        assert_eq!(permute(0x0000_0080, 0, 0x8888), 0xffff_ffff);
        assert_eq!(permute(0x0000_0070, 0, 0x8888), 0);
    }

    #[test]
    fn fields() {
        assert_eq!(bit_field(0xff00, 8, 8, 32, false), 0xff);
        assert_eq!(bit_field(0xff00, 8, 8, 32, true) as u32, u32::MAX);
        assert_eq!(bit_field(0x8000_0000, 40, 3, 32, true) as u32, u32::MAX);
        assert_eq!(bit_field(u64::MAX, 0, 64, 64, false), u64::MAX);
        assert_eq!(bit_field(1, 0, 0, 64, true), 0);
        assert_eq!(insert_field(0xab, 0, 8, 8, 32), 0xab00);
        assert_eq!(insert_field(0xab, 7, 200, 8, 32), 7);
        assert_eq!(insert_field(u64::MAX, 0, 0, 255, 64), u64::MAX);
    }

    #[test]
    fn masks_and_searches() {
        assert_eq!(bit_mask(4, 4, false), 0xf0);
        assert_eq!(bit_mask(40, 4, false), 0);
        assert_eq!(sign_or_zero_extend(0x80, 8, false, true), 0xffff_ff80);
        assert_eq!(find_nth_set(0b1010, 0, 2), 3);
        assert_eq!(find_nth_set(0b1010, 3, -2), 1);
        assert_eq!(find_nth_set(0b1010, 0, 3), u32::MAX);
    }
}
