//! Getting and giving back memory, and filling it.

use super::sample::{bursts, each, noise};
use super::{Case, Plan, Samples, Session};
use crate::cuda::{DeviceBuffer, Failure, PinnedBuffer, Stream};
use crate::metric::{Target, size_id, size_label};

/// Pairs, or fills, between two waits.
const BURST: usize = 50;

/// Bytes of a small and a large allocation.
const SIZES: [usize; 2] = [1 << 20, 64 << 20];

/// Bytes of host memory that is registered.
const REGISTERED: usize = 64 << 20;

/// The rows of this file.
pub fn cases(plan: Plan) -> Vec<Case> {
    // Allocations cost tens of microseconds and more.
    let calls = plan.calls.div_ceil(10);
    let mut cases = Vec::new();
    for bytes in SIZES {
        cases.push(Case::time(
            format!("alloc_free_{}", size_id(bytes)),
            format!("cuMemAlloc + cuMemFree {}", size_label(bytes)),
            Target::None,
            move |session| {
                each(plan.warm_up().div_ceil(10), calls, || {
                    DeviceBuffer::new(session.cuda, bytes).map(drop)
                })
            },
        ));
    }
    cases.push(Case::time(
        "alloc_free_async",
        "cuMemAllocAsync + cuMemFreeAsync 1 MiB",
        Target::None,
        move |session| {
            let stream = Stream::new(session.cuda)?;
            let pair = || session.cuda.alloc_and_free_async(SIZES[0], &stream);
            bursts(plan.bursts, BURST, pair, || stream.synchronize())
        },
    ));
    cases.push(Case::time(
        "host_alloc_free",
        "cuMemHostAlloc + cuMemFreeHost 1 MiB",
        Target::None,
        move |session| {
            each(plan.warm_up().div_ceil(10), calls, || {
                PinnedBuffer::alloc_and_free(session.cuda, SIZES[0])
            })
        },
    ));
    cases.push(Case::time(
        "host_register",
        format!(
            "cuMemHostRegister + cuMemHostUnregister {}",
            size_label(REGISTERED)
        ),
        Target::None,
        move |session| {
            // Touched memory, as a program's would be.
            let mut memory = noise(REGISTERED, 41);
            each(1, plan.large_repeats, || {
                session.cuda.register_and_unregister(&mut memory)
            })
        },
    ));
    cases.push(Case::time(
        "memset",
        "cuMemsetD8Async 4 KiB returns in",
        Target::None,
        move |session| fill(session, plan),
    ));
    cases
}

fn fill(session: &Session<'_>, plan: Plan) -> Samples {
    let stream = Stream::new(session.cuda)?;
    let buffer = DeviceBuffer::holding(session.cuda, &[0; 4096])?;
    session.cuda.synchronize()?;
    let mut value = 0_u8;
    let one = || {
        value = value.wrapping_add(1);
        buffer.fill(value, &stream)
    };
    let samples = bursts(plan.bursts, BURST, one, || stream.synchronize())?;
    let mut back = [0; 4096];
    buffer.read(&mut back)?;
    if back.iter().any(|&byte| byte != value) {
        return Err(Failure::Content("the last fill did not come last".into()));
    }
    Ok(samples)
}
