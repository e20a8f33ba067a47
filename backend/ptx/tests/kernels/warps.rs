use crate::device::Arg::{Int, Pointer};
use crate::device::{Device, Numbers};
use vgpu_ptx::LaunchError;

const TEXT: &str = include_str!("../../../../tests/ptx/warps.ptx");

#[test]
fn reduction_by_shuffles() {
    let device = Device::default();
    let module = device.load(TEXT);
    let values: Vec<i32> = (0..10_000).map(|i| (i * 37) % 1000 - 300).collect();
    let out = device.zeros::<u64>(1);
    device.run(
        &module,
        "reduce",
        7,
        256,
        &[Pointer(device.upload(&values)), Pointer(out), Int(10_000)],
    );
    let sum: i64 = values.iter().map(|v| i64::from(*v)).sum();
    assert_eq!(device.read::<i64>(out, 1)[0], sum);
}

#[test]
fn scan_in_dynamic_shared_memory() {
    let device = Device::default();
    let module = device.load(TEXT);
    let values: Vec<u32> = (0..512).map(|i| i % 17).collect();
    let out = device.zeros::<u32>(512);
    let args = [Pointer(device.upload(&values)), Pointer(out)];
    device
        .try_launch(&module, "scan", [2, 1, 1], [256, 1, 1], 2 * 256 * 4, &args)
        .unwrap();
    let got: Vec<u32> = device.read(out, 512);
    for block in 0..2 {
        let mut sum = 0;
        for i in 0..256 {
            sum += values[block * 256 + i];
            assert_eq!(got[block * 256 + i], sum);
        }
    }
    // Without the memory it asks for, the same kernel runs into the end of what there is.
    let short = device.try_launch(&module, "scan", [1, 1, 1], [256, 1, 1], 64, &args);
    assert!(
        matches!(short, Err(LaunchError::IllegalAddress(_))),
        "{short:?}"
    );
}

#[test]
fn scan_of_a_warp() {
    let device = Device::default();
    let module = device.load(TEXT);
    let values: Vec<i32> = (0..64).map(|i| i * i - 5).collect();
    let p = device.upload(&values);
    device.run(&module, "warp_scan", 1, 64, &[Pointer(p)]);
    let got: Vec<i32> = device.read(p, 64);
    for warp in 0..2 {
        let mut sum = 0;
        for i in 0..32 {
            sum += values[warp * 32 + i];
            assert_eq!(got[warp * 32 + i], sum);
        }
    }
}

#[test]
fn histogram_by_atomics() {
    let device = Device::default();
    let module = device.load(TEXT);
    let mut numbers = Numbers(5);
    let values: Vec<u8> = (0..50_000).map(|_| (numbers.next() % 200) as u8).collect();
    let bins = device.zeros::<u32>(256);
    device.run(
        &module,
        "histogram",
        6,
        192,
        &[Pointer(device.upload(&values)), Pointer(bins), Int(50_000)],
    );
    let mut expected = vec![0u32; 256];
    values.iter().for_each(|v| expected[usize::from(*v)] += 1);
    assert_eq!(device.read::<u32>(bins, 256), expected);
}

#[test]
fn votes_and_matches() {
    let device = Device::default();
    let module = device.load(TEXT);
    let values: Vec<i32> = (0..64)
        .map(|i| if i < 32 { (i * 13) % 40 } else { 50 + i })
        .collect();
    let out = device.zeros::<u32>(256);
    device.run(
        &module,
        "votes",
        2,
        32,
        &[Pointer(device.upload(&values)), Pointer(out)],
    );
    let got: Vec<u32> = device.read(out, 256);
    for i in 0..64 {
        let warp = &values[i / 32 * 32..][..32];
        let mask =
            |f: &dyn Fn(i32) -> bool| (0..32).fold(0u32, |m, l| m | u32::from(f(warp[l])) << l);
        let all = u32::from(warp.iter().all(|v| *v > 0));
        let any = u32::from(warp.iter().any(|v| *v > 90));
        assert_eq!(got[4 * i], mask(&|v| v > 10));
        assert_eq!(got[4 * i + 1], all | any << 1 | 1 << 2);
        assert_eq!(got[4 * i + 2], mask(&|v| v & 3 == values[i] & 3));
        let odd = if i & 1 != 0 {
            mask(&|v| v & 4 != 0) & 0xaaaa_aaaa
        } else {
            0
        };
        assert_eq!(got[4 * i + 3], odd);
    }
}

#[test]
fn atomics_of_every_type() {
    let device = Device::default();
    let module = device.load(TEXT);
    let n = 256i64;
    let i = device.upload(&[0i32, 1000, -1000, -1, 0, 0]);
    let u = device.upload(&[0u32, 3, 0, 1]);
    let l = device.upload(&[0i64, 0]);
    let ul = device.zeros::<u64>(1);
    let f = device.zeros::<f32>(1);
    let d = device.zeros::<f64>(1);
    let args = [i, u, l, ul, f, d].map(Pointer);
    device.run(&module, "atomics", 4, 64, &args);
    let xor = (0..n as i32).fold(0, |x, t| x ^ (t * 77));
    assert_eq!(
        device.read::<i32>(i, 6),
        [(n * (n - 1) / 2) as i32, 100 - 255, 155, !0xffff, -1, xor]
    );
    let product = (0..n).fold(1u32, |p, _| p.wrapping_mul(3).wrapping_add(1));
    let mut down = 3u32;
    (0..n).for_each(|_| down = if down == 0 || down > 9 { 9 } else { down - 1 });
    assert_eq!(
        device.read::<u32>(u, 4),
        [n as u32 % 10, down, 255 * 3, product]
    );
    assert_eq!(
        device.read::<i64>(l, 2),
        [(n * (n - 1) / 2) << 33, -255 * 255]
    );
    assert_eq!(device.read::<u64>(ul, 1), [255 << 40]);
    assert_eq!(device.read::<f32>(f, 1), [128.0]);
    assert_eq!(device.read::<f64>(d, 1), [64.0]);
}

#[test]
fn a_lock_within_a_warp_does_not_hang() {
    let device = Device::default();
    let module = device.load(TEXT);
    let lock = device.zeros::<i32>(1);
    let counter = device.zeros::<i32>(1);
    device.run(
        &module,
        "spinlock",
        4,
        96,
        &[Pointer(lock), Pointer(counter)],
    );
    assert_eq!(device.read::<i32>(counter, 1), [4 * 96]);
    assert_eq!(device.read::<i32>(lock, 1), [0]);
}

#[test]
fn named_barriers_and_reductions() {
    let device = Device::default();
    let module = device.load(TEXT);
    let out = device.zeros::<i32>(67);
    device.run(&module, "named_barriers", 1, 128, &[Pointer(out)]);
    let got: Vec<i32> = device.read(out, 67);
    for t in 0..64i32 {
        assert_eq!(got[t as usize], (63 - t) * (63 - t));
    }
    assert_eq!(got[64], 43);
    assert_ne!(got[65], 0);
    assert_eq!(got[66], 0);
}

#[test]
fn threads_that_are_gone_are_not_waited_for() {
    let device = Device::default();
    let module = device.load(TEXT);
    let out = device.zeros::<i32>(100);
    device.run(&module, "early_exit", 1, 100, &[Pointer(out)]);
    let got: Vec<i32> = device.read(out, 100);
    assert!((0..100).all(|t| got[t] == i32::from(t % 3 != 0)));
}

#[test]
fn a_deadlock_is_reported() {
    let device = Device::default();
    let module = device.load(TEXT);
    let out = device.zeros::<i32>(64);
    let result = device.try_launch(
        &module,
        "deadlock",
        [1, 1, 1],
        [64, 1, 1],
        0,
        &[Pointer(out)],
    );
    let Err(LaunchError::Deadlock(why)) = result else {
        panic!("{result:?}")
    };
    assert!(
        why.contains("64 of 64 threads") && why.contains("'deadlock'"),
        "{why}"
    );
}
