//! Entry for fuzzing: one record against a driver that says yes to everything and does nothing, with a
//! few live handles of each kind, so that decoding, checking, bookkeeping and answering run.

use crate::call::{Executor, Request, execute};
use crate::live::{Entry, KINDS_OF_HANDLES, Kind, Layout};
use crate::state::{Addresses, Parts, Worker};
use std::ffi::{c_char, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use vgpu_channel::link::Hello;
use vgpu_channel::loopback;
use vgpu_channel::ring::RecordHeader;
use vgpu_channel::server::Config;
use vgpu_driver::Driver;
use vgpu_protocol::cuda::*;
use vgpu_protocol::cuda_calls;
use vgpu_protocol::wire::Param;

/// Handles of each kind that are live, from 1 on. The driver gives out these, too.
const HANDLES: u64 = 8;

/// Bytes of the parameters of every function.
const PARAM_BYTES: u32 = 8;

/// The next handle that the driver gives out.
fn fresh() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed) % HANDLES + 1
}

/// C type of a parameter, from its direction and type in the table.
macro_rules! parameter {
    (out $ty:ty) => { *mut $ty };
    (opt $ty:ty) => { *mut $ty };
    (new $ty:ty) => { *mut $ty };
    (src $ty:ty) => { *const $ty };
    ($by_value:ident $ty:ty) => { $ty };
}

/// Writes a new handle; other results stay as the caller initialised them.
macro_rules! result {
    (new $arg:ident $ty:ty) => {
        // SAFETY: the worker gives room for a result, or null.
        if let Some(result) = unsafe { $arg.as_mut() } {
            *result = <$ty as Scalar>::from_word(fresh());
        }
    };
    ($other:ident $arg:ident $ty:ty) => {
        let _ = $arg;
    };
}

macro_rules! willing_driver {
    ($($number:literal $class:ident / $place:ident / $capture:tt $shim:ident / $backend:ident
       $name:ident @ $since:literal $(| $twin:ident @ $twin_since:literal)?
       ($($arg:ident : $dir:ident $ty:ty),*);)*) => {
        /// A driver whose functions all succeed.
        fn willing_driver() -> Driver {
            $(
                #[allow(non_snake_case)]
                unsafe extern "C" fn $name($($arg: parameter!($dir $ty)),*) -> CUresult {
                    $( result!($dir $arg $ty); )*
                    CUresult::SUCCESS
                }
            )*
            Driver { $($name: Some($name),)* }
        }
    };
}
cuda_calls!(willing_driver);

/// Functions have two parameters; a driver that knew no end of them would be another one's fault.
unsafe extern "C" fn two_params(
    _: CUfunction,
    index: usize,
    offset: *mut usize,
    size: *mut usize,
) -> CUresult {
    if index >= 2 {
        return CUresult::INVALID_VALUE;
    }
    // SAFETY: the worker gives room for the results.
    unsafe { (*offset, *size) = (index * 4, 4) };
    CUresult::SUCCESS
}

/// Host functions wait for a client's dispatcher, and there is none.
unsafe extern "C" fn no_host_function(_: CUstream, _: CUhostFn, _: *mut c_void) -> CUresult {
    CUresult::NOT_SUPPORTED
}

unsafe extern "C" fn no_callback(
    _: CUstream,
    _: CUstreamCallback,
    _: *mut c_void,
    _: u32,
) -> CUresult {
    CUresult::NOT_SUPPORTED
}

/// Makes the handles live again that earlier records ended.
fn revive(worker: &Worker) {
    for kind in KINDS_OF_HANDLES {
        for handle in 1..=HANDLES {
            let layout = matches!(kind, Kind::Function | Kind::Kernel).then(|| {
                let param = |offset| Param { offset, size: 4 };
                Arc::new(Layout {
                    params: vec![param(0), param(4)],
                    len: PARAM_BYTES,
                    known: true,
                })
            });
            let entry = Entry {
                ctx: 1,
                owner: u64::from(handle > HANDLES / 2),
                data: 0,
                layout,
            };
            worker.live.enter_if_new(kind, handle, entry);
        }
    }
}

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
            quota: 1 << 30,
            addresses: Addresses::Window,
            primaries: vec![0x1000],
            archs: vec![90],
            ..Parts::bare(
                Driver {
                    cuFuncGetParamInfo: Some(two_params),
                    cuLaunchHostFunc: Some(no_host_function),
                    cuStreamAddCallback: Some(no_callback),
                    ..willing_driver()
                },
                pair.server,
            )
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
    revive(&bench.worker);
    let mut thread = Executor::new(&bench.worker.driver, 0);
    execute(&bench.worker, &mut thread, request, payload);
}
