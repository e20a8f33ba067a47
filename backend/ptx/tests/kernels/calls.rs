use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::device::Arg::{Int, Pointer};
use crate::device::Device;
use vgpu_ptx::{GlobalSpace, LaunchError};

const TEXT: &str = include_str!("../../../../tests/ptx/calls.ptx");

#[test]
fn constants_are_initialised() {
    let device = Device::default();
    let module = device.load(TEXT);
    let values: Vec<f32> = (0..100).map(|i| (i * i % 31) as f32).collect();
    let out = device.zeros::<f32>(100);
    device.run(
        &module,
        "convolve",
        1,
        128,
        &[Pointer(device.upload(&values)), Pointer(out), Int(100)],
    );
    let got: Vec<f32> = device.read(out, 100);
    for i in 0..100i32 {
        let mut sum = 0f32;
        for (k, w) in [0.1f32, 0.2, 0.4, 0.2, 0.1].into_iter().enumerate() {
            sum = w.mul_add(values[(i + k as i32 - 2).clamp(0, 99) as usize], sum);
        }
        assert!((got[i as usize] - sum).abs() < 1e-5);
    }
    let spaces: Vec<_> = module
        .module()
        .globals()
        .iter()
        .map(|g| (g.name.as_str(), g.space))
        .collect();
    assert!(
        spaces.contains(&("weights", GlobalSpace::Const)),
        "{spaces:?}"
    );
    assert!(
        spaces.contains(&("counter", GlobalSpace::Global)),
        "{spaces:?}"
    );
}

#[test]
fn globals_point_at_each_other_and_keep_what_is_stored() {
    let device = Device::default();
    let module = device.load(TEXT);
    let out = device.zeros::<i32>(32);
    device.run(&module, "globals", 1, 32, &[Pointer(out)]);
    let table = [3, 1, 4, 1, 5, 0, 0, 0];
    let expected: Vec<i32> = (0..32)
        .map(|i| table[2 + (i & 1)] * 100 + table[i & 7] + if i == 0 { 17 } else { 0 })
        .collect();
    assert_eq!(device.read::<i32>(out, 32), expected);
    let counter = module.address_of("counter").unwrap();
    assert_eq!(device.read::<i32>(counter, 1), [99]);
    assert_eq!(module.address_of("fibonacci"), None);
}

#[test]
fn recursion_goes_as_deep_as_each_lane_wants() {
    let device = Device::default();
    let module = device.load(TEXT);
    let out = device.zeros::<i32>(64);
    device.run(&module, "recursion", 1, 64, &[Pointer(out)]);
    let fibonacci = [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144];
    let expected: Vec<i32> = (0..64).map(|t| fibonacci[t % 13]).collect();
    assert_eq!(device.read::<i32>(out, 64), expected);
}

#[test]
fn endless_recursion_is_a_stack_overflow() {
    let device = Device::default();
    let module = device.load(TEXT);
    let out = device.zeros::<i32>(1);
    let result = device.try_launch(
        &module,
        "endless_recursion",
        [1, 1, 1],
        [1, 1, 1],
        0,
        &[Pointer(out)],
    );
    assert!(
        matches!(result, Err(LaunchError::StackOverflow(_))),
        "{result:?}"
    );
}

#[test]
fn function_pointers_lead_each_lane_to_its_own_function() {
    let device = Device::default();
    let module = device.load(TEXT);
    let out = device.zeros::<i32>(50);
    device.run(&module, "function_pointers", 1, 50, &[Pointer(out)]);
    let expected: Vec<i32> = (0..50)
        .map(|i| [i + 7, i - 7, i * 7][i as usize % 3])
        .collect();
    assert_eq!(device.read::<i32>(out, 50), expected);
}

#[test]
fn virtual_functions_are_found_through_their_tables() {
    let device = Device::default();
    let module = device.load(TEXT);
    let out = device.zeros::<i32>(40);
    device.run(&module, "virtual_functions", 1, 40, &[Pointer(out)]);
    let expected: Vec<i32> = (0..40)
        .map(|i| if i & 1 != 0 { i * i * 2 } else { i * 3 + 2 })
        .collect();
    assert_eq!(device.read::<i32>(out, 40), expected);
}

#[test]
fn printf_formats_each_thread() {
    let device = Device::default();
    let module = device.load(TEXT);
    assert!(module.kernel("print").unwrap().uses_printf());
    assert!(!module.kernel("check").unwrap().uses_printf());
    device.run(&module, "print", 1, 64, &[]);
    let mut printed: Vec<String> = device
        .printed
        .lock()
        .unwrap()
        .iter()
        .map(|p| String::from_utf8(p.clone()).unwrap())
        .collect();
    printed.sort();
    let expected: Vec<String> = [3, 19, 35, 51]
        .iter()
        .map(|t| {
            format!(
                "thread {t:03} value {:6.2} lane {} 100%\n",
                f64::from(*t) * 0.5,
                1u64 << 40
            )
        })
        .collect();
    assert_eq!(printed, expected);
}

#[test]
fn assertions_and_traps_say_where() {
    let device = Device::default();
    let module = device.load(TEXT);
    let values = device.upload(&[1, 2, -3, 4]);
    let result = device.try_launch(
        &module,
        "check",
        [1, 1, 1],
        [4, 1, 1],
        0,
        &[Pointer(values)],
    );
    let Err(LaunchError::Assert(why)) = result else {
        panic!("{result:?}")
    };
    assert!(
        why.starts_with("calls.cu:87: check: `in[i] >= 0` failed in thread 2"),
        "{why}"
    );
    let result = device.try_launch(&module, "trap", [1, 1, 1], [32, 1, 1], 0, &[]);
    let Err(LaunchError::Trap(why)) = result else {
        panic!("{result:?}")
    };
    assert!(why.contains("kernel 'trap' at ptx line"), "{why}");
}

#[test]
fn stray_accesses_are_caught() {
    let device = Device::default();
    let module = device.load(TEXT);
    let p = device.zeros::<i32>(4);
    device.run(&module, "out_of_bounds", 1, 1, &[Pointer(p), Int(3)]);
    for at in [4, -1, i32::MAX, i32::MIN] {
        let result = device.try_launch(
            &module,
            "out_of_bounds",
            [1, 1, 1],
            [1, 1, 1],
            0,
            &[Pointer(p), Int(at)],
        );
        let Err(LaunchError::IllegalAddress(why)) = result else {
            panic!("{at}: {result:?}")
        };
        assert!(
            why.contains("'out_of_bounds'") && why.contains("block [0,0,0]"),
            "{why}"
        );
    }
    let null = device.try_launch(
        &module,
        "out_of_bounds",
        [1, 1, 1],
        [1, 1, 1],
        0,
        &[Pointer(0), Int(0)],
    );
    assert!(matches!(null, Err(LaunchError::IllegalAddress(_))));
    let result = device.try_launch(
        &module,
        "misaligned",
        [1, 1, 1],
        [1, 1, 1],
        0,
        &[Pointer(p)],
    );
    assert!(
        matches!(result, Err(LaunchError::Misaligned(_))),
        "{result:?}"
    );
}

#[test]
fn endless_kernels_end_by_budget_or_cancellation() {
    let mut device = Device::default();
    device.budget = Some(100_000);
    let module = device.load(TEXT);
    let flag = device.zeros::<i32>(1);
    let result = device.try_launch(
        &module,
        "forever",
        [2, 1, 1],
        [64, 1, 1],
        0,
        &[Pointer(flag)],
    );
    assert!(matches!(result, Err(LaunchError::Budget(_))), "{result:?}");

    device.budget = None;
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            device.cancel.store(true, Relaxed);
        });
        device.try_launch(
            &module,
            "forever",
            [2, 1, 1],
            [64, 1, 1],
            0,
            &[Pointer(flag)],
        )
    });
    assert!(
        matches!(result, Err(LaunchError::Cancelled(_))),
        "{result:?}"
    );
}

#[test]
fn launches_outside_the_limits_are_refused() {
    let device = Device::default();
    let module = device.load(TEXT);
    let refused = |grid, block, shared| {
        let result = device.try_launch(&module, "trap", grid, block, shared, &[]);
        assert!(
            matches!(result, Err(LaunchError::InvalidConfiguration(_))),
            "{grid:?} {block:?} {shared}: {result:?}"
        );
    };
    refused([0, 1, 1], [1, 1, 1], 0);
    refused([1, 65536, 1], [1, 1, 1], 0);
    refused([1, 1, 1], [0, 1, 1], 0);
    refused([1, 1, 1], [1025, 1, 1], 0);
    refused([1, 1, 1], [u32::MAX, u32::MAX, 64], 0);
    refused([1, 1, 1], [1, 1, 65], 0);
    refused([1, 1, 1], [1, 1, 1], u32::MAX);
}
