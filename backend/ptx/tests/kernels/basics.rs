use crate::device::Arg::{Bytes, Float, Int, Pointer};
use crate::device::{Device, Numbers};

const TEXT: &str = include_str!("../../../../tests/ptx/basics.ptx");

#[test]
fn vector_add_leaves_the_rest_alone() {
    let device = Device::default();
    let module = device.load(TEXT);
    let mut numbers = Numbers(1);
    let n = 1000;
    let a: Vec<f32> = (0..n).map(|_| numbers.float()).collect();
    let b: Vec<f32> = (0..n).map(|_| numbers.float()).collect();
    let c = device.upload(&vec![-1f32; 1024]);
    let args = [
        Pointer(device.upload(&a)),
        Pointer(device.upload(&b)),
        Pointer(c),
        Int(n),
    ];
    device.run(&module, "vector_add", 8, 128, &args);
    let got: Vec<f32> = device.read(c, 1024);
    for (i, v) in got.iter().enumerate() {
        assert_eq!(*v, if i < n as usize { a[i] + b[i] } else { -1.0 }, "{i}");
    }
}

#[test]
fn saxpy_fuses() {
    let device = Device::default();
    let module = device.load(TEXT);
    let mut numbers = Numbers(2);
    let x: Vec<f32> = (0..777).map(|_| numbers.float()).collect();
    let y: Vec<f32> = (0..777).map(|_| numbers.float()).collect();
    let out = device.upload(&y);
    device.run(
        &module,
        "saxpy",
        3,
        96,
        &[
            Float(1.7),
            Pointer(device.upload(&x)),
            Pointer(out),
            Int(777),
        ],
    );
    let expected: Vec<f32> = x
        .iter()
        .zip(&y)
        .map(|(x, y)| 1.7f32.mul_add(*x, *y))
        .collect();
    assert_eq!(device.read::<f32>(out, 777), expected);
}

#[test]
fn tiled_matmul() {
    let device = Device::default();
    let module = device.load(TEXT);
    let mut numbers = Numbers(3);
    let n = 64usize;
    let a: Vec<f32> = (0..n * n).map(|_| numbers.float()).collect();
    let b: Vec<f32> = (0..n * n).map(|_| numbers.float()).collect();
    let c = device.zeros::<f32>(n * n);
    let args = [
        Pointer(device.upload(&a)),
        Pointer(device.upload(&b)),
        Pointer(c),
        Int(n as i32),
    ];
    device
        .try_launch(&module, "matmul", [4, 4, 1], [16, 16, 1], 0, &args)
        .unwrap();
    let got: Vec<f32> = device.read(c, n * n);
    for row in 0..n {
        for col in 0..n {
            let sum = (0..n).fold(0f32, |s, k| a[row * n + k].mul_add(b[k * n + col], s));
            assert_eq!(got[row * n + col], sum, "{row},{col}");
        }
    }
    assert_eq!(
        module.kernel("matmul").unwrap().static_shared_bytes(),
        2 * 16 * 16 * 4
    );
}

#[test]
fn transpose_with_ragged_edges() {
    let device = Device::default();
    let module = device.load(TEXT);
    let (w, h) = (70usize, 45usize);
    let input: Vec<u32> = (0..(w * h) as u32).map(|i| i * 3).collect();
    let out = device.zeros::<u32>(w * h);
    let args = [
        Pointer(device.upload(&input)),
        Pointer(out),
        Int(w as i32),
        Int(h as i32),
    ];
    device
        .try_launch(&module, "transpose", [3, 2, 1], [32, 8, 1], 0, &args)
        .unwrap();
    let got: Vec<u32> = device.read(out, w * h);
    for y in 0..h {
        for x in 0..w {
            assert_eq!(got[x * h + y], input[y * w + x]);
        }
    }
}

#[test]
fn mandelbrot_diverges_and_comes_together() {
    let device = Device::default();
    let module = device.load(TEXT);
    let (w, h, limit) = (60, 40, 300);
    let out = device.zeros::<i32>(w * h);
    device.run(
        &module,
        "mandelbrot",
        19,
        128,
        &[Pointer(out), Int(w as i32), Int(h as i32), Int(limit)],
    );
    let got: Vec<i32> = device.read(out, w * h);
    let mut differing = 0;
    for (i, got) in got.iter().enumerate() {
        let cx = (i % w) as f64 / w as f64 * 3.0 - 2.25;
        let cy = (i / w) as f64 / h as f64 * 2.5 - 1.25;
        let (mut x, mut y, mut n) = (0f64, 0f64, 0);
        while n < limit && x.mul_add(x, y * y) < 4.0 {
            let t = x.mul_add(x, -(y * y)) + cx;
            y = (2.0 * x).mul_add(y, cy);
            x = t;
            n += 1;
        }
        differing += i32::from(n != *got);
    }
    // On the boundary one rounding more or less decides.
    assert!(
        differing <= (w * h / 50) as i32,
        "{differing} of {} pixels differ",
        w * h
    );
}

#[test]
fn nbody_in_double_precision() {
    let device = Device::default();
    let module = device.load(TEXT);
    let mut numbers = Numbers(4);
    let n = 200usize;
    let bodies: Vec<f64> = (0..4 * n).map(|_| f64::from(numbers.float())).collect();
    let out = device.zeros::<f64>(3 * n);
    device.run(
        &module,
        "nbody",
        2,
        128,
        &[Pointer(device.upload(&bodies)), Pointer(out), Int(n as i32)],
    );
    let got: Vec<f64> = device.read(out, 3 * n);
    for i in 0..n {
        for axis in 0..3 {
            let mut sum = 0.0;
            for j in 0..n {
                let d: Vec<f64> = (0..3)
                    .map(|a| bodies[4 * j + a] - bodies[4 * i + a])
                    .collect();
                let r2 = d.iter().map(|d| d * d).sum::<f64>() + 1e-3;
                sum += bodies[4 * j + 3] * d[axis] / (r2 * r2.sqrt());
            }
            let got = got[3 * i + axis];
            assert!(
                (got - sum).abs() <= 1e-10 * sum.abs().max(1.0),
                "{got} {sum}"
            );
        }
    }
}

#[test]
fn divergent_paths_take_each_lane_where_it_belongs() {
    let device = Device::default();
    let module = device.load(TEXT);
    let n = 500;
    let out = device.upload(&vec![-77i32; n]);
    device.run(
        &module,
        "divergence",
        4,
        128,
        &[Pointer(out), Int(n as i32)],
    );
    let expected: Vec<i32> = (0..n as i32)
        .map(|i| {
            let mut v = i;
            for k in 0..i % 7 {
                if k & 1 != 0 {
                    v = v * 3 + 1;
                    if v % 5 == 0 {
                        continue;
                    }
                } else {
                    v ^= k << 3;
                }
                if v % 11 == 3 {
                    break;
                }
                v += 7;
            }
            match i % 6 {
                0 => v + 100,
                1 => v - 100,
                2 => (v * 5) ^ 0x55,
                3 => v ^ 0x55,
                4 => -77,
                _ => -v,
            }
        })
        .collect();
    assert_eq!(device.read::<i32>(out, n), expected);
}

#[test]
fn local_arrays_are_private() {
    let device = Device::default();
    let module = device.load(TEXT);
    let order: Vec<i32> = (0..16).map(|k| (k * 7 + 3) % 16).collect();
    let out = device.zeros::<i32>(64);
    device.run(
        &module,
        "local_array",
        2,
        32,
        &[Pointer(device.upload(&order)), Pointer(out)],
    );
    let expected: Vec<i32> = (0..64i32)
        .map(|i| {
            let mut values = [0i32; 16];
            for k in 0..16 {
                values[order[k as usize] as usize] = k * i;
            }
            (0..16).fold(0i32, |s, k| {
                s.wrapping_mul(3)
                    .wrapping_add(values[((order[k] + i) & 15) as usize])
            })
        })
        .collect();
    assert_eq!(device.read::<i32>(out, 64), expected);
    assert!(module.kernel("local_array").unwrap().local_bytes() >= 64);
}

#[test]
fn structs_are_passed_by_value() {
    let device = Device::default();
    let module = device.load(TEXT);
    let mut settings = Vec::new();
    settings.extend(5i32.to_le_bytes());
    settings.extend([2u8, 0]);
    settings.extend((-100i16).to_le_bytes());
    let wide = [1i64 << 40, -3, 7];
    wide.iter().for_each(|w| settings.extend(w.to_le_bytes()));
    let out = device.zeros::<i64>(32);
    device.run(
        &module,
        "struct_param",
        1,
        32,
        &[Bytes(&settings), Pointer(out), Int(1)],
    );
    let expected: Vec<i64> = (0..32i64)
        .map(|i| i * 5 + (-100 >> 2) + wide[((1 + i) % 3) as usize])
        .collect();
    assert_eq!(device.read::<i64>(out, 32), expected);
    let kernel = module.kernel("struct_param").unwrap();
    let layout: Vec<_> = kernel.params().iter().map(|p| (p.offset, p.size)).collect();
    assert_eq!(layout, [(0, 32), (32, 8), (40, 4)]);
}
