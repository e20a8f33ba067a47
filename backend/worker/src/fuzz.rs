//! Entry for fuzzing: one record against a driver without functions, so that nothing but decoding,
//! checking and answering runs.

use crate::call::{Executor, Request, execute};
use crate::output::Output;
use crate::state::{Addresses, Parts, Worker};
use std::sync::{Arc, LazyLock};
use vgpu_channel::link::Hello;
use vgpu_channel::loopback;
use vgpu_channel::ring::RecordHeader;
use vgpu_channel::server::Config;
use vgpu_driver::Driver;

/// The channel of this process's fuzzing.
struct Bench {
    worker: Arc<Worker>,
    /// Keeps the channel's memory and link.
    _sides: (
        vgpu_channel::client::Channel,
        vgpu_channel::server::Consumer,
    ),
    slot: u64,
}

fn bench() -> Option<&'static Bench> {
    static BENCH: LazyLock<Option<Bench>> = LazyLock::new(|| {
        let pair = loopback::pair(&Config::default(), Hello::new(0, 0), &[]).ok()?;
        let slot = pair.client.alloc_reply().ok()?;
        let worker = Worker::new(Parts {
            driver: Driver::default(),
            channel: pair.server,
            quota: 1 << 30,
            addresses: Addresses::Window,
            output: Output::none(),
            devices: 1,
            primaries: vec![0x1000],
        });
        Some(Bench {
            worker,
            _sides: (pair.client, pair.consumer),
            slot,
        })
    });
    BENCH.as_ref()
}

/// Executes the record that `bytes` spell: number, flags and thread (2 bytes each), scope and reply
/// address (8 bytes each, reply address 0 for a valid slot), then the payload.
pub fn fuzz_record(bytes: &[u8]) {
    let Some(bench) = bench() else { return };
    let (Some(head), payload) = (bytes.first_chunk::<22>(), bytes.get(22..).unwrap_or(&[])) else {
        return;
    };
    let word = |at: usize| {
        head.get(at..at + 8)
            .and_then(|bytes| bytes.first_chunk::<8>())
            .map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    let reply_address = match word(14) {
        0 => bench.slot,
        other => other,
    };
    let request = Request {
        header: RecordHeader {
            call: u16::from_le_bytes([head[0], head[1]]),
            flags: u16::from_le_bytes([head[2], head[3]]),
            thread: u32::from(u16::from_le_bytes([head[4], head[5]])),
            reply_sequence: 1,
            reply_address,
            scope: word(6),
        },
        position: 1,
        prohibited: false,
    };
    let mut thread = Executor::new(&bench.worker.driver, 0);
    execute(&bench.worker, &mut thread, request, payload);
}
