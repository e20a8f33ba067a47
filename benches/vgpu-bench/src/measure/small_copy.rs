//! Copies of a few bytes: what `.item()`, indices and arguments cost.

use super::sample::{self, bursts, each, nanoseconds, noise};
use super::{Case, Plan, Samples, Session};
use crate::cuda::{DeviceBuffer, PinnedBuffer, Stream};
use crate::metric::{Target, size_id, size_label};

/// Copies to the device between two waits: natively they are done or staged when they return.
const BURST: usize = 16;

/// Size of copies from and to page-locked memory, in bytes.
const PINNED: usize = 64;

/// Sizes above this have no target: they are on the way to being a matter of bandwidth.
const LARGEST_WITH_TARGET: usize = 16 << 10;

/// The rows of this file.
pub fn cases(plan: Plan) -> Vec<Case> {
    let target = |bytes, ratio| match bytes {
        0..=LARGEST_WITH_TARGET => Target::RatioAtMost(ratio),
        _ => Target::None,
    };
    let mut cases = Vec::new();
    for &bytes in plan.small {
        cases.push(Case::time(
            format!("h2d_{}", size_id(bytes)),
            format!("cuMemcpyHtoD {}, pageable", size_label(bytes)),
            target(bytes, 0.5),
            move |session| to_device(session, plan, bytes),
        ));
    }
    for &bytes in plan.small {
        cases.push(Case::time(
            format!("h2d_done_{}", size_id(bytes)),
            format!(
                "cuMemcpyHtoD {}, pageable, + cuCtxSynchronize",
                size_label(bytes)
            ),
            Target::None,
            move |session| to_device_done(session, plan, bytes),
        ));
    }
    for &bytes in plan.small {
        cases.push(Case::time(
            format!("d2h_{}", size_id(bytes)),
            format!("cuMemcpyDtoH {}, pageable", size_label(bytes)),
            target(bytes, 1.0),
            move |session| to_host(session, plan, bytes),
        ));
    }
    cases.push(Case::time(
        "h2d_async_sync",
        "cuMemcpyHtoDAsync 64 B, pinned, + cuStreamSynchronize",
        Target::None,
        move |session| pinned(session, plan, true),
    ));
    cases.push(Case::time(
        "d2h_async_sync",
        "cuMemcpyDtoHAsync 64 B, pinned, + cuStreamSynchronize",
        Target::None,
        move |session| pinned(session, plan, false),
    ));
    cases
}

fn to_device(session: &Session<'_>, plan: Plan, bytes: usize) -> Samples {
    // Every copy of a burst carries other bytes, so that the check sees whether the last came last.
    let sources: Vec<Vec<u8>> = (0..BURST).map(|n| noise(bytes, n as u64)).collect();
    let device = DeviceBuffer::new(session.cuda, bytes)?;
    let mut next = sources.iter().cycle();
    let copy = || device.write(next.next().map_or(&[], Vec::as_slice));
    let count = plan.calls.div_ceil(BURST);
    let samples = bursts(count, BURST, copy, || session.cuda.synchronize())?;
    let mut back = vec![0; bytes];
    device.read(&mut back)?;
    sample::same(
        &back,
        sources.last().map_or(&[], Vec::as_slice),
        "the last copy to the device",
    )?;
    Ok(samples)
}

fn to_device_done(session: &Session<'_>, plan: Plan, bytes: usize) -> Samples {
    let source = noise(bytes, 7);
    let device = DeviceBuffer::new(session.cuda, bytes)?;
    let samples = each(plan.warm_up(), plan.calls, || {
        device.write(&source)?;
        session.cuda.synchronize()
    })?;
    let mut back = vec![0; bytes];
    device.read(&mut back)?;
    sample::same(&back, &source, "the copy to the device")?;
    Ok(samples)
}

fn to_host(session: &Session<'_>, plan: Plan, bytes: usize) -> Samples {
    let expected = noise(bytes, 11);
    let device = DeviceBuffer::holding(session.cuda, &expected)?;
    session.cuda.synchronize()?;
    let mut back = vec![0; bytes];
    let mut samples = Vec::with_capacity(plan.calls);
    for call in 0..plan.warm_up() + plan.calls {
        // A copy that does not arrive must not be hidden by the one before.
        back.fill(0x5a);
        let took = sample::time(|| device.read(&mut back))?;
        sample::same(&back, &expected, "a copy to the host")?;
        if call >= plan.warm_up() {
            samples.push(nanoseconds(took));
        }
    }
    Ok(samples)
}

fn pinned(session: &Session<'_>, plan: Plan, to_device: bool) -> Samples {
    let stream = Stream::new(session.cuda)?;
    let expected = noise(PINNED, 13);
    let device = DeviceBuffer::holding(session.cuda, &expected)?;
    session.cuda.synchronize()?;
    let mut host = PinnedBuffer::new(session.cuda, PINNED)?;
    if to_device {
        let other = noise(PINNED, 17);
        host.copy_from_slice(&other);
        let samples = each(plan.warm_up(), plan.calls, || {
            device.write_async(&host, &stream, || ())
        })?;
        let mut back = [0; PINNED];
        device.read(&mut back)?;
        sample::same(&back, &other, "the copy to the device")?;
        return Ok(samples);
    }
    let samples = each(plan.warm_up(), plan.calls, || {
        device.read_async(&mut host, &stream)
    })?;
    sample::same(&host, &expected, "the copy to the host")?;
    Ok(samples)
}
