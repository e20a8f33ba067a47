use crate::device::Arg::{Int, Pointer};
use crate::device::{Device, Numbers};

const TEXT: &str = include_str!("../../../../tests/ptx/numbers.ptx");

fn odd_floats() -> Vec<f32> {
    let mut out = vec![
        0.0,
        -0.0,
        1.0,
        -1.5,
        2.5,
        -2.5,
        0.5,
        1e-8,
        6e-8,
        65504.0,
        65520.0,
        -70000.0,
        1e10,
        -1e10,
        3e38,
        1e-40,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        255.5,
        -0.25,
        2147483648.0,
        1.0 + f32::EPSILON,
    ];
    let mut numbers = Numbers(6);
    out.extend((0..200).map(|_| (numbers.float() - 0.5) * 3000.0));
    out
}

#[test]
fn halves_round_to_nearest() {
    let device = Device::default();
    let module = device.load(TEXT);
    let values = odd_floats();
    let n = values.len();
    let (bits, back) = (device.zeros::<u16>(n), device.zeros::<f32>(n));
    let args = [
        Pointer(device.upload(&values)),
        Pointer(bits),
        Pointer(back),
        Int(n as i32),
    ];
    device.run(&module, "half_conversion", 2, 128, &args);
    let (bits, back) = (device.read::<u16>(bits, n), device.read::<f32>(back, n));
    for (i, v) in values.iter().enumerate() {
        let expected = half::f16::from_f32(*v);
        if v.is_nan() {
            assert!(half::f16::from_bits(bits[i]).is_nan() && back[i].is_nan());
        } else {
            assert_eq!(bits[i], expected.to_bits(), "{v}");
            assert_eq!(back[i], expected.to_f32() * 2.0, "{v}");
        }
    }
}

#[test]
fn floats_become_integers_by_clamping() {
    let device = Device::default();
    let module = device.load(TEXT);
    let values = odd_floats();
    let n = values.len();
    let (s, u, l, b) = (
        device.zeros::<i32>(n),
        device.zeros::<u32>(n),
        device.zeros::<i64>(n),
        device.zeros::<u8>(n),
    );
    let args = [
        Pointer(device.upload(&values)),
        Pointer(s),
        Pointer(u),
        Pointer(l),
        Pointer(b),
        Int(n as i32),
    ];
    device.run(&module, "float_conversion", 2, 128, &args);
    let (s, u, l, b) = (
        device.read::<i32>(s, n),
        device.read::<u32>(u, n),
        device.read::<i64>(l, n),
        device.read::<u8>(b, n),
    );
    for (i, v) in values.iter().enumerate() {
        assert_eq!(s[i], *v as i32, "{v}");
        assert_eq!(u[i], v.round_ties_even() as u32, "{v}");
        assert_eq!(
            l[i],
            if v.is_nan() {
                i64::MIN
            } else {
                v.floor() as i64
            },
            "{v}"
        );
        assert_eq!(b[i], v.ceil() as u8, "{v}");
    }
}

#[test]
fn directed_roundings_bracket_the_exact_result() {
    let device = Device::default();
    let module = device.load(TEXT);
    let mut numbers = Numbers(7);
    let n = 300;
    let mut number = || (numbers.float() - 0.3) * [1.0, 1e-20, 1e15][(numbers.next() % 3) as usize];
    let a: Vec<f32> = (0..n).map(|_| number()).collect();
    let b: Vec<f32> = (0..n).map(|_| number()).collect();
    let out = device.zeros::<f32>(20 * n);
    let args = [
        Pointer(device.upload(&a)),
        Pointer(device.upload(&b)),
        Pointer(out),
        Int(n as i32),
    ];
    device.run(&module, "rounding", 3, 128, &args);
    let got: Vec<f32> = device.read(out, 20 * n);
    for i in 0..n {
        let (x, y) = (a[i], b[i]);
        let nearest = [x + y, x * y, x / y, x.mul_add(y, x), x.sqrt()];
        for (k, near) in nearest.iter().enumerate() {
            let [rn, rz, rm, rp] = got[20 * i + 4 * k..][..4] else {
                panic!()
            };
            if near.is_nan() {
                assert!(rn.is_nan() && rz.is_nan() && rm.is_nan() && rp.is_nan());
                continue;
            }
            assert_eq!(rn, *near, "{x} {y} op {k}");
            assert!(
                rm <= rn && rn <= rp && (rm == rp || rm.next_up() == rp),
                "{x} {y} op {k}: {rm} {rn} {rp}"
            );
            assert_eq!(rz, if *near > 0.0 { rm } else { rp }, "{x} {y} op {k}");
            // In doubles the products are exact, and show which side is the right one.
            if k == 1 && near.is_normal() {
                let exact = f64::from(x) * f64::from(y);
                assert!(f64::from(rm) <= exact && exact <= f64::from(rp));
            }
        }
    }
}

#[test]
fn double_arithmetic_is_exact() {
    let device = Device::default();
    let module = device.load(TEXT);
    let values: Vec<f64> = (1..200).map(|i| f64::from(i) * 0.37 - 5.0).collect();
    let n = values.len();
    let out = device.zeros::<f64>(6 * n);
    device.run(
        &module,
        "double_math",
        2,
        128,
        &[Pointer(device.upload(&values)), Pointer(out), Int(n as i32)],
    );
    let got: Vec<f64> = device.read(out, 6 * n);
    for (i, v) in values.iter().enumerate() {
        let expected = [
            v.sqrt(),
            1.0 / v,
            v.mul_add(*v, -1.0),
            v.ceil().mul_add(0.5, v.floor()),
            (v * 1000.0) as i64 as f64 + f64::from(*v as f32),
            v.min(2.5) + v.abs(),
        ];
        for k in 0..6 {
            let got = got[6 * i + k];
            assert!(
                got == expected[k] || got.is_nan() && expected[k].is_nan(),
                "{v} {k}: {got} {}",
                expected[k]
            );
        }
    }
}

#[test]
fn approximations_are_close() {
    let device = Device::default();
    let module = device.load(TEXT);
    let values: Vec<f32> = (1..300).map(|i| i as f32 * 0.02).collect();
    let n = values.len();
    let out = device.zeros::<f32>(7 * n);
    device.run(
        &module,
        "approximations",
        3,
        128,
        &[Pointer(device.upload(&values)), Pointer(out), Int(n as i32)],
    );
    let got: Vec<f32> = device.read(out, 7 * n);
    for (i, v) in values.iter().enumerate() {
        let w = f64::from(*v);
        let expected = [
            w.sin(),
            w.cos(),
            w.exp2(),
            w.log2(),
            1.0 / w.sqrt(),
            1.0 / w,
            w / 3.0,
        ];
        for k in 0..7 {
            let (got, expected) = (f64::from(got[7 * i + k]), expected[k]);
            assert!(
                (got - expected).abs() <= 2e-6 * expected.abs().max(0.1),
                "{v} {k}: {got} {expected}"
            );
        }
    }
}

#[test]
fn integer_instructions() {
    let device = Device::default();
    let module = device.load(TEXT);
    let mut numbers = Numbers(8);
    let mut a = vec![0, 1, -1, i32::MIN, i32::MAX, 7];
    let mut b = vec![0, 0, 3, -1, 31, -2];
    for i in 0..300 {
        a.push(numbers.next() as i32);
        b.push(if i % 3 == 0 {
            (numbers.next() % 64) as i32
        } else {
            numbers.next() as i32
        });
    }
    let n = a.len();
    let out = device.zeros::<i64>(16 * n);
    let args = [
        Pointer(device.upload(&a)),
        Pointer(device.upload(&b)),
        Pointer(out),
        Int(n as i32),
    ];
    device.run(&module, "integers", 3, 128, &args);
    let got: Vec<i64> = device.read(out, 16 * n);
    for i in 0..n {
        let (x, y) = (a[i], b[i]);
        let (ux, uy) = (x as u32, y as u32);
        let bytes = |v: u32| v.to_le_bytes();
        let mut permuted = [0u8; 4];
        let both = [bytes(ux), bytes(uy)].concat();
        for (n, s) in [9usize, 0, 5, 2].into_iter().enumerate() {
            permuted[n] = if s & 8 != 0 {
                ((both[s & 7] as i8) >> 7) as u8
            } else {
                both[s & 7]
            };
        }
        let dot = (0..4).fold(i as u32, |s, k| {
            s.wrapping_add((i32::from(bytes(ux)[k] as i8) * i32::from(bytes(uy)[k])) as u32)
        });
        let sh = uy & 63;
        let (sum, carry) = ux.overflowing_add(uy);
        let field_mask = 0x1ffu32 << 5;
        let i_ = i as u32;
        let expected: [i64; 16] = [
            if y == 0 {
                0
            } else {
                i64::from(x.wrapping_div(y))
            },
            if y == 0 {
                0
            } else {
                i64::from(x.wrapping_rem(y))
            },
            i64::from(ux / if y == 0 { 1 } else { uy }),
            i64::from(x) * i64::from(y),
            (i64::from(x) * i64::from(y)) >> 32,
            ((u64::from(ux) * u64::from(uy)) >> 32) as u32 as i32 as i64,
            i64::from(ux.count_ones() + ux.leading_zeros() * 100),
            i64::from(ux.reverse_bits()),
            ((u64::from(ux) << sh) ^ ((i64::from(x) >> sh) as u64)) as i64,
            i64::from(i32::from(x as i16) * i32::from(y as i16) + i32::from(x as i8)),
            i64::from(ux >> (uy & 31) & 0x7f),
            i64::from(uy & !field_mask | ux << 5 & field_mask),
            i64::from(u32::from_le_bytes(permuted)),
            // 0xd8: c chooses between b (where set) and a.
            i64::from((0..32).fold(0u32, |r, bit| {
                let row = (ux >> bit & 1) << 2 | (uy >> bit & 1) << 1 | (i_ >> bit & 1);
                r | (0xd8 >> row & 1) << bit
            })),
            i64::from(dot),
            i64::from(sum.wrapping_add(u32::from(carry))),
        ];
        for k in 0..16 {
            // mulhi_ui is declared to give an int, which widens by its sign or not.
            let same = got[16 * i + k] == expected[k]
                || k == 5 && got[16 * i + k] as u32 == expected[k] as u32;
            assert!(same, "{x} {y} {k}: {} {}", got[16 * i + k], expected[k]);
        }
    }
}

#[test]
fn wide_products_carry() {
    let device = Device::default();
    let module = device.load(TEXT);
    let mut numbers = Numbers(9);
    let n = 100;
    let mut a: Vec<u64> = (0..n).map(|_| numbers.next()).collect();
    let b: Vec<u64> = (0..n).map(|i| numbers.next() >> (i % 60)).collect();
    a[0] = u64::MAX;
    let out = device.zeros::<u64>(4 * n);
    let args = [
        Pointer(device.upload(&a)),
        Pointer(device.upload(&b)),
        Pointer(out),
        Int(n as i32),
    ];
    device.run(&module, "wide_integers", 1, 128, &args);
    let got: Vec<u64> = device.read(out, 4 * n);
    for i in 0..n {
        let p = u128::from(a[i]) * u128::from(b[i]) + 12345;
        let d = b[i] | 1;
        assert_eq!(
            got[4 * i..4 * i + 4],
            [p as u64, (p >> 64) as u64, a[i] / d, a[i] % d]
        );
    }
}
