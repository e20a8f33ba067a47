//! A client's whole life against the software device, over the real link.

mod common;

use common::{Client, Daemon};
use vgpu_protocol::cuda::CUresult;
use vgpu_protocol::number::{call, internal};
use vgpu_protocol::wire::{self, *};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// `out[i] = in[i] + add` for one block.
const KERNEL: &[u8] = b".version 8.0
.target sm_80
.address_size 64
.visible .entry add(.param .u64 dst, .param .u64 src, .param .u32 amount)
{
    .reg .b64 %rd<8>;
    .reg .b32 %r<8>;
    ld.param.u64 %rd1, [dst];
    ld.param.u64 %rd2, [src];
    ld.param.u32 %r1, [amount];
    mov.u32 %r2, %tid.x;
    mul.wide.u32 %rd3, %r2, 4;
    add.s64 %rd4, %rd2, %rd3;
    ld.global.u32 %r3, [%rd4];
    add.u32 %r4, %r3, %r1;
    add.s64 %rd5, %rd1, %rd3;
    st.global.u32 [%rd5], %r4;
    ret;
}
";

fn launch(client: &Client, function: u64, params: &[u8], flags: u16) -> (CUresult, u32) {
    let launch = Launch {
        function,
        grid: [1; 3],
        block: [32, 1, 1],
        params_len: params.len() as u32,
        ..Launch::default()
    };
    if flags & RECORD_REPLY != 0 {
        let (status, _) = client.call(call::cuLaunchKernel, &[launch.as_bytes(), params]);
        return (status, 0);
    }
    let word = client.word.to_le_bytes();
    let stamp = client.post(
        call::cuLaunchKernel,
        flags,
        &[launch.as_bytes(), params, &word],
    );
    (CUresult::SUCCESS, stamp)
}

#[test]
fn a_kernel_runs_on_copied_data() {
    let daemon = Daemon::start(&[]);
    let client = daemon.connect();
    let snapshot = client.channel.snapshot();
    let (head, _) = Snapshot::read_from_prefix(&snapshot).unwrap();
    assert_eq!((head.init_status, head.device_count), (0, 1));
    assert_ne!(head.flags & SNAPSHOT_SOFTWARE, 0);
    client.retain();

    let (status, module) = client.load_module(KERNEL);
    assert_eq!(status, CUresult::SUCCESS);
    let function = client.function(module, "add");
    assert_eq!((function.param_count, function.params_len), (3, 20));

    let input: Vec<u8> = (0..32_u32).flat_map(u32::to_le_bytes).collect();
    let (src, dst) = (client.alloc(128), client.alloc(128));
    // Half in the record, half in shared memory.
    let copy = CopyIn {
        dst: src,
        len: 64,
        ..CopyIn::default()
    };
    client.post(
        call::cuMemcpyHtoDAsync_v2,
        0,
        &[copy.as_bytes(), &input[..64]],
    );
    let staged = client.share(&input[64..]);
    let copy = CopyIn {
        dst: src + 64,
        src: staged.addr,
        len: 64,
        stream: 0,
    };
    client.post(call::cuMemcpyHtoDAsync_v2, 0, &[copy.as_bytes()]);

    let mut params = Vec::new();
    params.extend(dst.to_le_bytes());
    params.extend(src.to_le_bytes());
    params.extend(7_u32.to_le_bytes());
    assert_eq!(
        launch(&client, function.handle, &params, RECORD_REPLY).0,
        CUresult::SUCCESS
    );
    let (_, stamp) = launch(&client, function.handle, &params, RECORD_FLUSH);
    client.reach(stamp);

    let result = client.share(&[0; 128]);
    let copy = CopyOut {
        dst: result.addr,
        src: dst,
        len: 128,
        stream: 0,
    };
    client.post(call::cuMemcpyDtoHAsync_v2, 0, &[copy.as_bytes()]);
    client.flush(0);
    let expected: Vec<u8> = (7..39_u32).flat_map(u32::to_le_bytes).collect();
    assert_eq!(client.read(result), expected);
    assert_eq!(
        client.call(call::cuCtxSynchronize, &[]).0,
        CUresult::SUCCESS
    );
}

#[test]
fn errors_of_posts_are_left_behind_and_calls_answer_theirs() {
    let daemon = Daemon::start(&["--memory", "64MiB"]);
    let client = daemon.connect();
    assert_eq!(
        client.refusal(call::cuMemAlloc_v2, &[&64_u64.to_le_bytes()]),
        CUresult::INVALID_CONTEXT
    );
    client.retain();
    // The quota.
    assert_eq!(
        client.refusal(call::cuMemAlloc_v2, &[&(65_u64 << 20).to_le_bytes()]),
        CUresult::OUT_OF_MEMORY
    );
    let info: wire::cuMemGetInfo_v2::Reply = client.ask(call::cuMemGetInfo_v2, &[]);
    assert_eq!(info.total.0, 64 << 20);
    // A posted launch of nothing.
    let _ = launch(&client, 0xdead_0000, &[], 0);
    assert_eq!(client.call(internal::PING, &[]).0, CUresult::SUCCESS);
    let latched = client.channel.heap_word(client.slot + 16).unwrap();
    assert_eq!(
        latched.load(std::sync::atomic::Ordering::Acquire),
        CUresult::INVALID_HANDLE.0
    );
    // What this version does not know.
    assert_eq!(
        client.refusal(call::cuInit, &[&0_u64.to_le_bytes()]),
        CUresult::NOT_SUPPORTED
    );
    assert_eq!(client.refusal(0x7fff, &[]), CUresult::NOT_SUPPORTED);
    assert_eq!(client.refusal(0x8100, &[]), CUresult::NOT_SUPPORTED);
}

#[test]
fn forged_handles_and_addresses_are_refused() {
    let daemon = Daemon::start(&[]);
    let client = daemon.connect();
    client.retain();
    let forged = client.share(&[0x41; 4096]).addr;
    let word = forged.to_le_bytes();
    for number in [
        call::cuModuleUnload,
        call::cuLibraryUnload,
        call::cuEventDestroy_v2,
        call::cuEventQuery,
        call::cuStreamDestroy_v2,
        call::cuStreamSynchronize,
        call::cuGraphDestroy,
        call::cuGraphExecDestroy,
        call::cuMemPoolDestroy,
        call::cuKernelGetFunction,
        call::cuCtxDestroy_v2,
        call::cuGraphDestroyNode,
        call::cuMemRelease,
        call::cuLinkDestroy,
    ] {
        client.refused(number, &[&word]);
        // 1 is the legacy stream, which may be synchronised.
        client.refused(number, &[&0x10_u64.to_le_bytes()]);
    }
    for stream in [0_u64, 1, 2] {
        client.refused(call::cuStreamDestroy_v2, &[&stream.to_le_bytes()]);
    }
    let dst = client.alloc(4096);
    // Host addresses: the program's own, the control segment, beyond the heap, wrapping.
    let control = client.channel.segments().list()[0].address;
    let end = client.channel.segments().end();
    for (src, len) in [
        (0x5555_5555_0000, 64),
        (control, 64),
        (end - 32, 64),
        (end, 64),
        (forged, u64::MAX),
        (u64::MAX - 8, 64),
    ] {
        let copy = CopyIn {
            dst,
            src,
            len,
            stream: 0,
        };
        assert_eq!(
            client.refusal(call::cuMemcpyHtoDAsync_v2, &[copy.as_bytes()]),
            CUresult::INVALID_VALUE,
            "{src:#x}+{len:#x}"
        );
        let copy = CopyOut {
            dst: src,
            src: dst,
            len,
            stream: 0,
        };
        client.refused(call::cuMemcpyDtoHAsync_v2, &[copy.as_bytes()]);
        let load = LoadImage {
            image: Blob { addr: src, len },
            ..LoadImage::default()
        };
        client.refused(call::cuModuleLoadDataEx, &[load.as_bytes()]);
        // A payload that lies where it must not.
        let blob = Blob { addr: src, len };
        let (status, _) = client.call_with(call::cuMemAlloc_v2, RECORD_BLOB, &[blob.as_bytes()]);
        assert_eq!(status, CUresult::INVALID_VALUE);
    }
    // Device addresses outside the window.
    for dst in [0x5555_5555_0000, 0x7fff_ffff_0000, u64::MAX] {
        let mut args = wire::cuMemsetD8Async::Args::new_zeroed();
        (args.dst, args.count) = (Word(dst), Word(1));
        assert_eq!(
            client.refusal(call::cuMemsetD8Async, &[args.as_bytes()]),
            CUresult::INVALID_VALUE
        );
    }
    // Timeline words that are none.
    for word in [control, end, client.word + 2, 0] {
        let flush = Flush { stream: 0, word };
        client.refused(internal::FLUSH, &[flush.as_bytes()]);
    }
    assert_eq!(
        client.call(call::cuCtxSynchronize, &[]).0,
        CUresult::SUCCESS
    );
}

#[test]
fn short_and_long_payloads_are_refused() {
    let daemon = Daemon::start(&[]);
    let client = daemon.connect();
    client.retain();
    let stream: wire::cuStreamCreate::Reply =
        client.ask(call::cuStreamCreate, &[&1_u64.to_le_bytes()]);
    for info in vgpu_protocol::number::CALLS {
        // A context gone by luck would make the rest meaningless.
        if info.place == vgpu_protocol::number::Place::Guest {
            continue;
        }
        for len in [1, 7, 9, 1023] {
            let (status, _) = client.call(info.number, &[&vec![0xff; len]]);
            assert_ne!(status, CUresult::SUCCESS, "{} with {len} bytes", info.name);
        }
    }
    let synchronise: wire::cuStreamSynchronize::Reply =
        client.ask(call::cuStreamSynchronize, &[stream.stream.as_bytes()]);
    let _ = synchronise;
}

#[test]
fn random_records_end_nobody() {
    let daemon = Daemon::start(&[]);
    let honest = daemon.connect();
    // A generator with a fixed seed: what fails once fails again.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    honest.retain();
    let slot_of_nobody = honest.channel.alloc_reply().unwrap();
    for _ in 0..20_000 {
        let number = match random() % 8 {
            0 => random() as u16,
            1 => 0x8001 + (random() % 8) as u16,
            _ => 1 + (random() % 230) as u16,
        };
        // Destroying the context, or waiting for a value that never comes, is a client's right.
        if matches!(
            number,
            call::cuDevicePrimaryCtxReset_v2
                | call::cuDevicePrimaryCtxRelease_v2
                | call::cuCtxDestroy_v2
                | call::cuStreamWaitValue32_v2
                | call::cuStreamWaitValue64_v2
                | call::cuLaunchHostFunc
                | call::cuStreamAddCallback
                | call::cuStreamBeginCapture_v2
        ) {
            continue;
        }
        let words: Vec<u64> = (0..random() % 24)
            .map(|_| match random() % 6 {
                0 => 0,
                1 => random() % 16,
                2 => honest.scope.get(),
                3 => honest.word,
                4 => slot_of_nobody + random() % 4096,
                _ => random(),
            })
            .collect();
        let mut header = honest.header(number, random() as u16 & 0x1f & !RECORD_REPLY, 0);
        header.reply_address = match random() % 4 {
            0 => random(),
            1 => slot_of_nobody + 1,
            _ => slot_of_nobody,
        };
        header.thread = (random() % 4) as u32;
        let bytes = words.as_bytes();
        let cut = bytes.len() - (random() as usize % 8).min(bytes.len());
        honest.channel.post(&header, &[&bytes[..cut]]).unwrap();
    }
    assert_eq!(honest.call(internal::PING, &[]).0, CUresult::SUCCESS);
}

#[test]
fn the_heap_grows_and_is_registered() {
    let daemon = Daemon::start(&[]);
    let client = daemon.connect();
    client.retain();
    let before = client.channel.segments().list().len();
    let big = client.channel.alloc(48 << 20, 4096).unwrap();
    assert!(client.channel.segments().list().len() > before);
    client.channel.copy_in(big + (40 << 20), b"grown").unwrap();
    let dptr = client.alloc(8);
    let copy = CopyIn {
        dst: dptr,
        src: big + (40 << 20),
        len: 5,
        stream: 0,
    };
    let (status, _) = client.call(call::cuMemcpyHtoDAsync_v2, &[copy.as_bytes()]);
    assert_eq!(status, CUresult::SUCCESS);
    let back = client.share(&[0; 5]);
    let copy = CopyOut {
        dst: back.addr,
        src: dptr,
        len: 5,
        stream: 0,
    };
    client.post(call::cuMemcpyDtoHAsync_v2, 0, &[copy.as_bytes()]);
    client.flush(0);
    assert_eq!(client.read(back), b"grown");
}

#[test]
fn only_the_heaps_pages_are_registered() {
    let daemon = Daemon::start(&[]);
    let client = daemon.connect();
    client.retain();
    let block = client.channel.alloc(8192, 4096).unwrap();
    let segments = client.channel.segments();
    let (control, end) = (segments.list()[0].address, segments.end());
    // As programs have their own memory: among what the worker filled to steer its driver.
    let own = 0x7e12_3456_7000_u64;
    let asked = |address: u64, bytes: u64, block: u64, flags: u32| {
        let register = RegisterHost {
            address,
            bytes,
            block,
            flags,
            pad: 0,
        };
        client
            .call(call::cuMemHostRegister_v2, &[register.as_bytes()])
            .0
    };
    let unregister = |address: u64| {
        client
            .call(call::cuMemHostUnregister, &[address.as_bytes()])
            .0
    };
    let driver = client.alloc(4096);
    for (what, address, bytes, block, flags) in [
        ("the control segment", own, 8192, control, 0),
        ("behind the heap", own, 8192, end - 4096, 0),
        ("no memory of the channel's", own, 8192, own, 0),
        ("no page", own, 4096, block + 64, 0),
        ("the heap itself", block, 8192, block, 0),
        ("device memory", driver, 4096, block, 0),
        ("no bytes", own, 0, block, 0),
        ("beyond all addresses", u64::MAX - 4096, 8192, block, 0),
        ("the kernel's", 0xffff_8000_0000_0000, 4096, block, 0),
        ("the first page", 0, 4096, block, 0),
        ("memory of devices", own, 8192, block, 4),
    ] {
        let refused = asked(address, bytes, block, flags);
        assert_eq!(refused, CUresult::INVALID_VALUE, "{what}");
    }
    assert_eq!(unregister(own), CUresult::HOST_MEMORY_NOT_REGISTERED);

    let dptr = client.alloc(8192);
    let copied = |src: u64, len: u64| {
        let copy = CopyIn {
            dst: dptr,
            src,
            len,
            stream: 0,
        };
        client
            .call(call::cuMemcpyHtoDAsync_v2, &[copy.as_bytes()])
            .0
    };
    for _ in 0..2 {
        assert_eq!(copied(own + 100, 64), CUresult::INVALID_VALUE);
        client.channel.copy_in(block + 164, b"registered").unwrap();
        assert_eq!(asked(own + 100, 6000, block, 3), CUresult::SUCCESS);
        for (address, bytes) in [
            (own + 100, 6000),
            (own, 4096),
            (own + 4096, 4096),
            (own - 4096, 16384),
        ] {
            let twice = asked(address, bytes, block, 0);
            assert_eq!(
                twice,
                CUresult::HOST_MEMORY_ALREADY_REGISTERED,
                "{address:#x}"
            );
        }
        assert_eq!(copied(own + 164, 10), CUresult::SUCCESS);
        let back = client.share(&[0; 10]);
        let copy = CopyOut {
            dst: back.addr,
            src: dptr,
            len: 10,
            stream: 0,
        };
        client.post(call::cuMemcpyDtoHAsync_v2, 0, &[copy.as_bytes()]);
        client.flush(0);
        assert_eq!(client.read(back), b"registered");
        for (src, len) in [
            (own, 64),
            (own + 100, 6001),
            (own + 6099, 2),
            (own + 100, u64::MAX),
        ] {
            assert_eq!(
                copied(src, len),
                CUresult::INVALID_VALUE,
                "{src:#x}+{len:#x}"
            );
        }
        assert_eq!(unregister(own), CUresult::HOST_MEMORY_NOT_REGISTERED);
        assert_eq!(unregister(own + 100), CUresult::SUCCESS);
        assert_eq!(unregister(own + 100), CUresult::HOST_MEMORY_NOT_REGISTERED);
    }
}

#[test]
fn a_capture_prohibits_what_cuda_prohibits() {
    let daemon = Daemon::start(&[]);
    let client = daemon.connect();
    client.retain();
    let stream: wire::cuStreamCreate::Reply =
        client.ask(call::cuStreamCreate, &[&1_u64.to_le_bytes()]);
    let stream = stream.stream.0;
    let begin = |mode: u64| {
        let args = [stream, mode];
        client
            .call(call::cuStreamBeginCapture_v2, &[args.as_bytes()])
            .0
    };
    let end = || {
        let (status, bytes) = client.call(call::cuStreamEndCapture, &[&stream.to_le_bytes()]);
        (
            status,
            u64::read_from_prefix(&bytes).map_or(0, |graph| graph.0),
        )
    };
    // Global capture, global thread: an allocation is prohibited and invalidates it.
    assert_eq!(begin(0), CUresult::SUCCESS);
    let refused = client.refusal(call::cuMemAlloc_v2, &[&64_u64.to_le_bytes()]);
    assert_eq!(refused, CUresult::STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(end().0, CUresult::STREAM_CAPTURE_INVALIDATED);
    // The same in relaxed mode is allowed, and gives a graph.
    assert_eq!(begin(0), CUresult::SUCCESS);
    let relaxed = 2 << RECORD_CAPTURE_MODE_SHIFT;
    let (status, _) = client.call_with(call::cuMemAlloc_v2, relaxed, &[&64_u64.to_le_bytes()]);
    assert_eq!(status, CUresult::SUCCESS);
    let (status, graph) = end();
    assert_eq!(status, CUresult::SUCCESS);
    assert_ne!(graph, 0);
    client.ask::<wire::cuGraphDestroy::Reply>(call::cuGraphDestroy, &[&graph.to_le_bytes()]);
    client.refused(call::cuGraphDestroy, &[&graph.to_le_bytes()]);
}

/// A client may flush a stream that another of its threads has begun to capture: no word is written there, and the graph has
/// what was captured.
#[test]
fn nothing_of_ours_gets_into_a_capture() {
    let daemon = Daemon::start(&[]);
    let client = daemon.connect();
    client.retain();
    let (_, module) = client.load_module(KERNEL);
    let function = client.function(module, "add").handle;
    let (src, dst) = (client.alloc(128), client.alloc(128));
    let stream: wire::cuStreamCreate::Reply =
        client.ask(call::cuStreamCreate, &[&1_u64.to_le_bytes()]);
    let stream = stream.stream.0;
    let mut params = Vec::new();
    params.extend(dst.to_le_bytes());
    params.extend(src.to_le_bytes());
    params.extend(7_u32.to_le_bytes());
    let launch = Launch {
        function,
        stream,
        grid: [1; 3],
        block: [32, 1, 1],
        params_len: params.len() as u32,
        ..Launch::default()
    };
    let word = client.word.to_le_bytes();
    let captured = [launch.as_bytes(), &params, &word];
    let begin = [stream, 2];
    let (status, _) = client.call(call::cuStreamBeginCapture_v2, &[begin.as_bytes()]);
    assert_eq!(status, CUresult::SUCCESS);
    client.post(call::cuLaunchKernel, RECORD_FLUSH, &captured);
    client.post(call::cuLaunchKernel, RECORD_FLUSH, &captured);
    let flush = Flush {
        stream,
        word: client.word,
    };
    client.post(internal::FLUSH, 0, &[flush.as_bytes()]);
    let graph: u64 = client.ask(call::cuStreamEndCapture, &[&stream.to_le_bytes()]);
    let list = ListRequest {
        object: graph,
        out: client.share(&[0; 64]),
        extra: 0,
    };
    let nodes: ListReply = client.ask(call::cuGraphGetNodes, &[list.as_bytes()]);
    assert_eq!(nodes.count, 2, "two launches were captured");
}

#[test]
fn a_host_function_runs_in_the_client_and_the_stream_waits() {
    let daemon = Daemon::start(&[]);
    let client = daemon.connect();
    client.retain();
    let function = HostFunc {
        stream: 0,
        function: 0x1234,
        user: 0x5678,
        kind: HOST_FUNC,
        pad: 0,
    };
    client.post(call::cuLaunchHostFunc, 0, &[function.as_bytes()]);
    let flush = Flush {
        stream: 0,
        word: client.word,
    };
    let stamp = client.post(internal::FLUSH, 0, &[flush.as_bytes()]);
    client
        .channel
        .wait_dispatch(|| false, Some(common::LONG))
        .unwrap();
    let (position, asked) = client.channel.callbacks().pop().unwrap();
    assert_eq!((asked.function, asked.user), (0x1234, 0x5678));
    let word = client.channel.heap_word(client.word).unwrap();
    assert_eq!(word.load(std::sync::atomic::Ordering::Acquire), 0);
    client.channel.acknowledge(position);
    client.reach(stamp);
}

#[test]
fn a_graph_of_added_nodes_runs_and_shows_its_parameters() {
    let daemon = Daemon::start(&[]);
    let client = daemon.connect();
    client.retain();
    let (_, module) = client.load_module(KERNEL);
    let function = client.function(module, "add").handle;
    let (src, dst) = (client.alloc(128), client.alloc(128));
    let graph: wire::cuGraphCreate::Reply =
        client.ask(call::cuGraphCreate, &[&0_u64.to_le_bytes()]);
    let graph = graph.graph.0;
    let add = |dependencies: &[u64]| AddNode {
        graph,
        count: dependencies.len() as u32,
        ..AddNode::default()
    };
    let fill = [src, 0, 4 << 32 | 5, 32, 1];
    let filled: u64 = client.ask(
        call::cuGraphAddMemsetNode,
        &[add(&[]).as_bytes(), fill.as_bytes()],
    );
    let mut params = Vec::new();
    params.extend(dst.to_le_bytes());
    params.extend(src.to_le_bytes());
    params.extend(7_u32.to_le_bytes());
    let launch = Launch {
        function,
        grid: [1; 3],
        block: [32, 1, 1],
        params_len: params.len() as u32,
        ..Launch::default()
    };
    let kernel: u64 = client.ask(
        call::cuGraphAddKernelNode_v2,
        &[
            add(&[filled]).as_bytes(),
            filled.as_bytes(),
            launch.as_bytes(),
            &params,
        ],
    );
    // A node that is none.
    client.refused(
        call::cuGraphAddEmptyNode,
        &[add(&[1]).as_bytes(), &0x40_u64.to_le_bytes()],
    );
    // Parameters come back as they went.
    let (status, shown) = client.call(call::cuGraphKernelNodeGetParams_v2, &[kernel.as_bytes()]);
    assert_eq!(status, CUresult::SUCCESS);
    let (header, shown) = Launch::read_from_prefix(&shown).unwrap();
    assert_eq!((header.function, header.block), (function, [32, 1, 1]));
    assert_eq!(shown, params);
    // So do the nodes.
    let room = client.share(&[0; 64]);
    let list = ListRequest {
        object: graph,
        out: room,
        extra: 0,
    };
    let nodes: ListReply = client.ask(call::cuGraphGetNodes, &[list.as_bytes()]);
    assert_eq!(nodes.count, 2);
    let listed = client.read(room);
    assert!(listed.chunks(8).any(|node| node == kernel.as_bytes()));

    let exec: wire::cuGraphInstantiateWithFlags::Reply = client.ask(
        call::cuGraphInstantiateWithFlags,
        &[graph.as_bytes(), &0_u64.to_le_bytes()],
    );
    client.post(
        call::cuGraphLaunch,
        0,
        &[exec.exec.as_bytes(), &0_u64.to_le_bytes()],
    );
    let result = client.share(&[0; 128]);
    let copy = CopyOut {
        dst: result.addr,
        src: dst,
        len: 128,
        stream: 0,
    };
    client.post(call::cuMemcpyDtoHAsync_v2, 0, &[copy.as_bytes()]);
    client.flush(0);
    assert_eq!(client.read(result), 12_u32.to_le_bytes().repeat(32));
    // Nodes die with their graph.
    client.ask::<wire::cuGraphDestroy::Reply>(call::cuGraphDestroy, &[graph.as_bytes()]);
    client.refused(call::cuGraphKernelNodeGetParams_v2, &[kernel.as_bytes()]);
}

#[test]
fn code_that_prints_switches_to_real_synchronisation_and_its_text_arrives() {
    const PRINTING: &[u8] = b".version 8.0
.target sm_80
.address_size 64
.extern .func (.param .b32 result) vprintf(.param .b64 format, .param .b64 arguments);
.global .align 1 .b8 text[7] = {104, 101, 108, 108, 111, 10, 0};
.visible .entry hello()
{
    .reg .b64 %rd<4>;
    .reg .b32 %r<4>;
    mov.u64 %rd1, text;
    cvta.global.u64 %rd2, %rd1;
    mov.u64 %rd3, 0;
    {
    .param .b64 param0;
    st.param.b64 [param0+0], %rd2;
    .param .b64 param1;
    st.param.b64 [param1+0], %rd3;
    .param .b32 retval0;
    call.uni (retval0), vprintf, (param0, param1);
    ld.param.b32 %r1, [retval0+0];
    }
    ret;
}
";
    let daemon = Daemon::start(&[]);
    let client = daemon.connect();
    client.retain();
    assert_eq!(client.channel.features(), 0);
    let (status, module) = client.load_module(PRINTING);
    assert_eq!(status, CUresult::SUCCESS);
    assert_eq!(
        client.channel.features(),
        vgpu_channel::control::FEATURE_REAL_SYNC
    );
    let launch = Launch {
        function: client.function(module, "hello").handle,
        grid: [1; 3],
        block: [1; 3],
        ..Launch::default()
    };
    client.post(call::cuLaunchKernel, 0, &[launch.as_bytes()]);
    assert_eq!(
        client.call(call::cuCtxSynchronize, &[]).0,
        CUresult::SUCCESS
    );
    // The text is there before the synchronisation returns.
    let mut text = [0; 64];
    let len = client.channel.output().read(&mut text);
    assert_eq!(&text[..len], b"hello\n");
}

#[test]
fn non_blocking_streams_wait_for_posted_copies() {
    let daemon = Daemon::start(&[]);
    let client = daemon.connect();
    client.retain();
    let stream: wire::cuStreamCreate::Reply =
        client.ask(call::cuStreamCreate, &[&1_u64.to_le_bytes()]);
    let stream = stream.stream.0;
    let dptr = client.alloc(4096);
    let result = client.share(&[0; 8]);
    for round in 1..200_u64 {
        // Something slow before the copy.
        let mut fill = wire::cuMemsetD8Async::Args::new_zeroed();
        (fill.dst, fill.count) = (Word(dptr), Word(4096));
        client.post(call::cuMemsetD8Async, 0, &[fill.as_bytes()]);
        let copy = CopyIn {
            dst: dptr,
            len: 8,
            ..CopyIn::default()
        };
        client.post(
            call::cuMemcpyHtoDAsync_v2,
            0,
            &[copy.as_bytes(), round.as_bytes()],
        );
        let copy = CopyOut {
            dst: result.addr,
            src: dptr,
            len: 8,
            stream,
        };
        client.post(call::cuMemcpyDtoHAsync_v2, 0, &[copy.as_bytes()]);
        client.flush(stream);
        assert_eq!(client.read(result), round.as_bytes());
    }
}
