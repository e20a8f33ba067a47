//! Broken and hostile text: every answer is an error or a working kernel, never a panic.

use crate::device::{Arg, Device, Numbers};
use vgpu_ptx::{LaunchError, LowerError, Module};

const FIXTURES: [&str; 4] = [
    include_str!("../../../../tests/ptx/basics.ptx"),
    include_str!("../../../../tests/ptx/warps.ptx"),
    include_str!("../../../../tests/ptx/numbers.ptx"),
    include_str!("../../../../tests/ptx/calls.ptx"),
];

/// Parses, links and lowers every kernel; tells whether the text parsed.
fn take(text: &str) -> bool {
    let Ok(module) = Module::parse(text) else {
        return false;
    };
    let names: Vec<String> = module.kernels().map(str::to_string).collect();
    let addresses: Vec<u64> = (0..module.globals().len() as u64)
        .map(|i| 0x10_0000 + i * 4096)
        .collect();
    let Ok(linked) = module.link(&addresses) else {
        return true;
    };
    for index in 0..linked.module().globals().len() {
        linked.initial_bytes(index);
    }
    for name in names {
        match linked.kernel(&name) {
            Ok(kernel) => assert_eq!(kernel.name(), name),
            Err(LowerError::NotFound(_)) => panic!("'{name}' is listed but not found"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    true
}

#[test]
fn truncated_text() {
    for text in FIXTURES {
        let step = text.len() / 200;
        for end in (0..text.len()).step_by(step.max(1)) {
            take(&text[..end]);
        }
    }
}

#[test]
fn changed_bytes() {
    let mut numbers = Numbers(10);
    let mut parsed = 0;
    for round in 0..1500 {
        let mut bytes = FIXTURES[round % FIXTURES.len()].as_bytes().to_vec();
        for _ in 0..1 + numbers.next() % 4 {
            let at = numbers.next() as usize % bytes.len();
            match numbers.next() % 5 {
                0 => bytes[at] = numbers.next() as u8,
                1 => bytes[at] = b"0123456789"[numbers.next() as usize % 10],
                2 => bytes[at] = b"{}[]()<>;,.:%@!-+|\"\n "[numbers.next() as usize % 21],
                3 => {
                    let end = (at + numbers.next() as usize % 30).min(bytes.len());
                    bytes.drain(at..end);
                }
                _ => {
                    let end = (at + numbers.next() as usize % 60).min(bytes.len());
                    let part = bytes[at..end].to_vec();
                    let to = numbers.next() as usize % bytes.len();
                    bytes.splice(to..to, part);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        parsed += usize::from(take(&String::from_utf8_lossy(&bytes)));
    }
    // Were nothing to parse any more, lowering would not have been tried.
    assert!(parsed > 100, "{parsed}");
}

#[test]
fn changed_words() {
    let mut numbers = Numbers(11);
    let numbers_to_try = [
        "0",
        "-1",
        "4294967295",
        "18446744073709551615",
        "9223372036854775808",
        "65536",
        "%r1",
        "%rd9999",
        "_",
    ];
    for round in 0..800 {
        let text = FIXTURES[round % FIXTURES.len()];
        let mut words: Vec<&str> = text
            .split_inclusive([' ', '\t', ',', '.', ';', '<', '[', ']', '+'])
            .collect();
        for _ in 0..1 + numbers.next() % 3 {
            let at = numbers.next() as usize % words.len();
            if numbers.next().is_multiple_of(2) {
                words[at] = numbers_to_try[numbers.next() as usize % numbers_to_try.len()];
            } else {
                words[at] = words[numbers.next() as usize % words.len()];
            }
        }
        take(&words.concat());
    }
}

#[test]
fn huge_declarations() {
    let head = ".version 7.0\n.target sm_70\n.address_size 64\n";
    for body in [
        ".reg .b64 %r<4294967295>; mov.u64 %r4294967290, 1;",
        ".local .align 4096 .b8 a[1099511627776];",
        ".shared .b8 a[4294967295]; .reg .b64 %r; mov.u64 %r, a;",
        ".param .b8 p[65536];",
        ".reg .f32 %f; ld.param.f32 %f, [p0+4];",
        ".reg .f32 %f; ld.param.f32 %f, [p0+-4];",
        ".reg .f32 %f; ld.param.f32 %f, [p0+9223372036854775807];",
        ".reg .b32 %r; .local .b8 a[4]; ld.local.u32 %r, [a+18446744073709551615];",
        "bra nowhere;",
        "brx.idx %r1, nothing;",
        "call nothing, ();",
    ] {
        assert!(
            take(&format!("{head}.entry k(.param .u32 p0) {{ {body} ret; }}")),
            "{body}"
        );
    }
    let many: String = (0..200_000)
        .map(|i| format!(".reg .b64 %x{i}; mov.u64 %x{i}, {i};\n"))
        .collect();
    assert!(take(&format!("{head}.entry k() {{ {many} ret; }}")));
    assert!(!take(&format!(
        "{head}.global .b8 a[18446744073709551615][2];"
    )));
}

/// Changed kernels that still lower are run, on memory that holds nothing of value: whatever they
/// do, the launch ends by itself or by its budget.
#[test]
fn changed_kernels_run_to_an_end() {
    let mut numbers = Numbers(12);
    let mut ran = 0;
    for round in 0..600 {
        let text = FIXTURES[round % FIXTURES.len()];
        let mut words: Vec<&str> = text
            .split_inclusive([' ', '\t', ',', ';', '[', ']', '\n'])
            .collect();
        for _ in 0..1 + numbers.next() % 6 {
            let at = numbers.next() as usize % words.len();
            words[at] = words[numbers.next() as usize % words.len()];
        }
        let text = words.concat();
        let Ok(module) = Module::parse(&text) else {
            continue;
        };
        if module.globals().iter().any(|g| g.size > 1 << 20) {
            continue;
        }
        let mut device = Device::default();
        device.budget = Some(20_000);
        let Some(module) = device.try_load(module) else {
            continue;
        };
        let names: Vec<String> = module.module().kernels().map(str::to_string).collect();
        let name = &names[numbers.next() as usize % names.len()];
        let Ok(kernel) = module.kernel(name) else {
            continue;
        };
        let memory = device.zeros::<u64>(4096);
        let params: Vec<Vec<u8>> = kernel
            .params()
            .iter()
            .map(|p| match p.size {
                8 => memory.to_le_bytes().to_vec(),
                size => vec![3; size as usize],
            })
            .collect();
        let args: Vec<Arg<'_>> = params.iter().map(|p| Arg::Bytes(p)).collect();
        let result = device.try_launch(&module, name, [2, 1, 1], [64, 1, 1], 1024, &args);
        assert!(
            !matches!(result, Err(LaunchError::Internal(_))),
            "{name}: {result:?}"
        );
        ran += 1;
    }
    assert!(ran > 50, "{ran}");
}
