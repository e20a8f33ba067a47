//! Calls that need no device, one that does, and a process at rest.

use rustix::time::{ClockId, clock_gettime};
use std::hint::black_box;
use std::time::{Duration, Instant};

use vgpu_protocol::cuda::{CU_MEMORYTYPE_DEVICE, CUcontext};

use super::sample::{bursts, each, nanoseconds};
use super::{Case, Plan, Samples, Session};
use crate::cuda::{DeviceBuffer, Failure};
use crate::metric::{Target, Unit};

/// `CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT`.
const MULTIPROCESSOR_COUNT: u32 = 16;

/// The rows of this file.
pub fn cases(plan: Plan) -> Vec<Case> {
    let local = Target::AtMost(20.0);
    vec![
        Case::time(
            "ctx_get_current",
            "cuCtxGetCurrent",
            local,
            move |session| {
                let mut seen = CUcontext::NULL;
                let samples = many(plan, || {
                    seen = black_box(session.cuda.current()?);
                    Ok(())
                })?;
                if seen != session.context {
                    return Err(Failure::Content("another context is current".into()));
                }
                Ok(samples)
            },
        ),
        Case::time(
            "device_attribute",
            "cuDeviceGetAttribute",
            local,
            move |session| {
                let mut count = 0;
                let samples = many(plan, || {
                    count = black_box(
                        session
                            .cuda
                            .device_attribute(MULTIPROCESSOR_COUNT, session.device)?,
                    );
                    Ok(())
                })?;
                if count <= 0 {
                    return Err(Failure::Content(format!("{count} multiprocessors")));
                }
                Ok(samples)
            },
        ),
        Case::time(
            "pointer_attribute",
            "cuPointerGetAttribute",
            local,
            move |session| {
                let buffer = DeviceBuffer::new(session.cuda, 4096)?;
                let mut kind = 0;
                let samples = many(plan, || {
                    kind = black_box(session.cuda.memory_type(&buffer)?);
                    Ok(())
                })?;
                if kind != CU_MEMORYTYPE_DEVICE {
                    return Err(Failure::Content(format!("device memory is of type {kind}")));
                }
                Ok(samples)
            },
        ),
        Case::time(
            "memory_info",
            "cuMemGetInfo",
            Target::None,
            move |session| {
                each(plan.warm_up(), plan.calls, || {
                    let (free, total) = session.cuda.memory_info()?;
                    if free > total {
                        return Err(Failure::Content(format!("{free} of {total} bytes free")));
                    }
                    Ok(())
                })
            },
        ),
        Case::new(
            "idle_cpu",
            format!("CPU used by the process while idle for {:?}", plan.idle),
            Unit::PercentOfCpu,
            // Nothing but the thread that sleeps; a tenth of a per cent is the tolerance.
            Target::AtMost(0.1),
            move |session| idle(session, plan),
        )
        .unbound(),
    ]
}

fn many(plan: Plan, call: impl FnMut() -> Result<(), Failure>) -> Samples {
    bursts(plan.bursts, plan.local_calls, call, || Ok(()))
}

fn idle(session: &Session<'_>, plan: Plan) -> Samples {
    // What is idle has done something before.
    session.cuda.synchronize()?;
    let (cpu, wall) = (cpu_time(), Instant::now());
    std::thread::sleep(plan.idle);
    let used = cpu_time().saturating_sub(cpu);
    Ok(vec![
        100.0 * nanoseconds(used) / nanoseconds(wall.elapsed()),
    ])
}

/// CPU time of all threads of this process so far.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}
