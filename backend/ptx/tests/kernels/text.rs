//! Short hand-written kernels, for what the compiler does not readily emit.

use crate::device::Arg::{Int, Pointer};
use crate::device::Device;
use vgpu_ptx::{LowerError, Module};

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// Runs `body` with one warp; `%rd1` is an array of 32 results, `%r0` the lane. Gives the array.
fn run(body: &str) -> Vec<u32> {
    let device = Device::default();
    let module = device.load(&kernel(body));
    let out = device.zeros::<u32>(32);
    device.run(&module, "k", 1, 32, &[Pointer(out)]);
    device.read(out, 32)
}

fn kernel(body: &str) -> String {
    format!(
        "{HEAD}.visible .entry k(.param .u64 out) {{
        .reg .b16 %h<9>; .reg .b32 %r<40>; .reg .b64 %rd<20>; .reg .f32 %f<20>; .reg .f64 %fd<20>; .reg .pred %p<9>;
        ld.param.u64 %rd1, [out]; mov.u32 %r0, %laneid; mad.wide.u32 %rd2, %r0, 4, %rd1;
        {body}
        st.global.u32 [%rd2], %r1; ret; }}"
    )
}

fn refusal(body: &str) -> String {
    let module = Module::parse(&kernel(body)).unwrap().link(&[]).unwrap();
    module.kernel("k").unwrap_err().to_string()
}

#[test]
fn branch_tables() {
    let got = run("and.b32 %r2, %r0, 3;
        ts: .branchtargets A, B, C, A;
        brx.idx %r2, ts;
        A: mov.u32 %r1, 10; bra D;
        B: mov.u32 %r1, 20; bra D;
        C: mov.u32 %r1, 30;
        D:");
    let expected: Vec<u32> = (0..32).map(|l| [10, 20, 30, 10][l & 3]).collect();
    assert_eq!(got, expected);
}

#[test]
fn redux_and_match_all() {
    let got = run("redux.sync.add.u32 %r3, %r0, 0xffffffff;
        redux.sync.max.s32 %r4, %r0, -1;
        match.all.sync.b32 %r5|%p1, %r3, -1;
        selp.u32 %r6, 1, 0, %p1;
        add.u32 %r1, %r3, %r4; add.u32 %r1, %r1, %r6;");
    assert_eq!(got, [496 + 31 + 1; 32]);
}

#[test]
fn warp_wide_instructions_gather_diverged_lanes() {
    // The lanes arrive one path after the other and still exchange values.
    let got = run("setp.lt.u32 %p1, %r0, 16;
        mov.u32 %r2, %r0;
        @%p1 bra HERE;
        add.u32 %r2, %r2, 100;
        HERE: shfl.sync.bfly.b32 %r1, %r2, 16, 31, -1;");
    let expected: Vec<u32> = (0..32)
        .map(|l| if l < 16 { l + 116 } else { l - 16 })
        .collect();
    assert_eq!(got, expected);
}

#[test]
fn warp_barriers_meet_at_different_places() {
    let got = run("setp.lt.u32 %p1, %r0, 7; mov.u32 %r1, 1;
        @%p1 bra THERE;
        bar.warp.sync -1; add.u32 %r1, %r1, 1; bra DONE;
        THERE: bar.warp.sync -1; add.u32 %r1, %r1, 2;
        DONE:");
    let expected: Vec<u32> = (0..32).map(|l| if l < 7 { 3 } else { 2 }).collect();
    assert_eq!(got, expected);
}

#[test]
fn shared_memory_has_generic_addresses_and_asynchronous_copies() {
    let got = run(".shared .align 16 .b8 box[512];
        mov.u64 %rd3, box; cvta.shared.u64 %rd4, %rd3;
        mul.wide.u32 %rd5, %r0, 16; add.u64 %rd6, %rd4, %rd5; add.u64 %rd7, %rd3, %rd5;
        st.u32 [%rd6+4], %r0;
        ld.shared.u32 %r2, [%rd7+4]; st.global.u32 [%rd2], %r2;
        cp.async.ca.shared.global [%rd7], [%rd2], 4;
        cp.async.commit_group; cp.async.wait_group 0;
        isspacep.shared %p1, %rd6; isspacep.global %p2, %rd2;
        ld.v2.u32 {%r3, %r4}, [%rd6];
        add.u32 %r1, %r3, %r4;
        @!%p1 mov.u32 %r1, 0; @!%p2 mov.u32 %r1, 0;");
    let expected: Vec<u32> = (0..32).map(|l| 2 * l).collect();
    assert_eq!(got, expected);
}

#[test]
fn packed_halves_and_packing() {
    let got = run("cvt.rn.f32.u32 %f1, %r0;
        cvt.rn.f16x2.f32 %r2, %f1, 0f3F800000;
        fma.rn.f16x2 %r3, %r2, %r2, %r2;
        mov.b32 {%h1, %h2}, %r3;
        cvt.f32.f16 %f2, %h1; cvt.f32.f16 %f3, %h2;
        fma.rn.f32 %f4, %f3, 0f42C80000, %f2;
        cvt.rzi.u32.f32 %r1, %f4;");
    let expected: Vec<u32> = (0..32).map(|l| (l * l + l) * 100 + 2).collect();
    assert_eq!(got, expected);
}

#[test]
fn loads_extend_by_their_type() {
    let got = run("st.global.u32 [%rd2], 0x0000ff80;
        ld.global.s8 %r2, [%rd2]; ld.global.u8 %r3, [%rd2]; ld.global.s16 %rd3, [%rd2];
        cvt.u32.u64 %r4, %rd3; add.u32 %r1, %r2, %r3; sub.u32 %r1, %r1, %r4;");
    assert_eq!(got, [128; 32]);
}

#[test]
fn scopes_have_registers_and_labels_of_their_own() {
    let got = run("mov.u32 %r1, 5;
        { .reg .b32 t; mov.u32 t, 7; bra L; add.u32 t, t, 100; L: add.u32 %r1, %r1, t; }
        { .reg .b32 t; mov.u32 t, 9; bra L; add.u32 t, t, 100; L: add.u32 %r1, %r1, t; }");
    assert_eq!(got, [21; 32]);
}

#[test]
fn refusals_name_kernel_line_and_instruction() {
    let why = refusal("wmma.load.a.sync.aligned.row.m16n16k16.global.f16 {%r1}, [%rd1];");
    assert_eq!(
        why,
        "kernel 'k': line 7: instruction 'wmma.load.a.sync.aligned.row.m16n16k16.global.f16': \
         not supported by the software device"
    );
    assert!(
        refusal("tex.2d.v4.f32.f32 {%f1,%f2,%f3,%f4}, [t, {%f1,%f2}];")
            .contains("'tex.2d.v4.f32.f32'")
    );
    assert!(refusal("frobnicate.b32 %r1, %r2;").contains("'frobnicate.b32'"));
    assert!(refusal("add.s32.strange %r1, %r2, %r3;").contains("not supported"));
    assert!(refusal("add.s32 %r1, %rd1, %r3;").contains("'%rd1' is not 32 bits wide"));
    let module = Module::parse(&kernel("")).unwrap().link(&[]).unwrap();
    assert!(matches!(
        module.kernel("other"),
        Err(LowerError::NotFound(_))
    ));
}

#[test]
fn required_blocks_are_enforced() {
    let text = format!("{HEAD}.visible .entry k(.param .u32 n) .reqntid 8, 2, 1 {{ ret; }}");
    let device = Device::default();
    let module = device.load(&text);
    let kernel = module.kernel("k").unwrap();
    assert_eq!(
        (kernel.max_threads(), kernel.required_block()),
        (16, Some([8, 2, 1]))
    );
    assert!(
        device
            .try_launch(&module, "k", [1, 1, 1], [8, 2, 1], 0, &[Int(1)])
            .is_ok()
    );
    assert!(
        device
            .try_launch(&module, "k", [1, 1, 1], [16, 1, 1], 0, &[Int(1)])
            .is_err()
    );
}
