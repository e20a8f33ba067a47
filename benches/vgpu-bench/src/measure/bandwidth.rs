//! Large copies, in bytes per second.

use super::sample::{self, bytes_per_second, each, noise};
use super::{Case, Plan, Samples, Session};
use crate::cuda::{DeviceBuffer, PinnedBuffer, Stream};
use crate::metric::{Target, Unit, size_id, size_label};
use crate::pin;

/// Copies before the first timed one.
const WARM_UP: usize = 2;

/// The CPUs above which copying with several threads can pay.
const CPUS_FOR_COPIERS: usize = 2;

/// The rows of this file. Not bound to a CPU: both libraries may copy with several threads.
pub fn cases(plan: Plan) -> Vec<Case> {
    let many_cpus = pin::allowed().is_ok_and(|cpus| cpus.len() > CPUS_FOR_COPIERS);
    let pageable = |ratio| {
        if many_cpus {
            Target::RatioAtLeast(ratio)
        } else {
            Target::None
        }
    };
    let mut cases = Vec::new();
    let mut row = |id: &str,
                   label: &str,
                   bytes: usize,
                   target,
                   run: fn(&Session<'_>, Plan, usize) -> Samples| {
        let case = Case::new(
            format!("{id}_{}", size_id(bytes)),
            format!("{label} {}", size_label(bytes)),
            Unit::BytesPerSecond,
            target,
            move |session| Ok(bytes_per_second(bytes, run(session, plan, bytes)?)),
        );
        cases.push(case.unbound());
    };
    for &bytes in plan.large {
        row(
            "h2d_pinned",
            "host to device, pinned,",
            bytes,
            Target::RatioAtLeast(0.99),
            pinned_to_device,
        );
        row(
            "d2h_pinned",
            "device to host, pinned,",
            bytes,
            Target::RatioAtLeast(0.99),
            pinned_to_host,
        );
        row(
            "h2d_pageable",
            "host to device, pageable,",
            bytes,
            pageable(2.0),
            pageable_to_device,
        );
        row(
            "d2h_pageable",
            "device to host, pageable,",
            bytes,
            pageable(1.5),
            pageable_to_host,
        );
        row(
            "d2d",
            "device to device",
            bytes,
            Target::None,
            device_to_device,
        );
    }
    cases
}

fn pinned_to_device(session: &Session<'_>, plan: Plan, bytes: usize) -> Samples {
    let stream = Stream::new(session.cuda)?;
    let device = DeviceBuffer::new(session.cuda, bytes)?;
    let mut host = PinnedBuffer::new(session.cuda, bytes)?;
    host.copy_from_slice(&noise(bytes, 19));
    let samples = each(WARM_UP, plan.large_repeats, || {
        device.write_async(&host, &stream, || ())
    })?;
    let mut back = vec![0; bytes];
    device.read(&mut back)?;
    sample::same(&back, &host, "the copy to the device")?;
    Ok(samples)
}

fn pinned_to_host(session: &Session<'_>, plan: Plan, bytes: usize) -> Samples {
    let stream = Stream::new(session.cuda)?;
    let expected = noise(bytes, 23);
    let device = DeviceBuffer::holding(session.cuda, &expected)?;
    session.cuda.synchronize()?;
    let mut host = PinnedBuffer::new(session.cuda, bytes)?;
    let samples = each(WARM_UP, plan.large_repeats, || {
        device.read_async(&mut host, &stream)
    })?;
    sample::same(&host, &expected, "the copy to the host")?;
    Ok(samples)
}

fn pageable_to_device(session: &Session<'_>, plan: Plan, bytes: usize) -> Samples {
    let source = noise(bytes, 29);
    let device = DeviceBuffer::new(session.cuda, bytes)?;
    // A pageable copy may return when the last piece is staged: done is what counts here.
    let samples = each(WARM_UP, plan.large_repeats, || {
        device.write(&source)?;
        session.cuda.synchronize()
    })?;
    let mut back = vec![0; bytes];
    device.read(&mut back)?;
    sample::same(&back, &source, "the copy to the device")?;
    Ok(samples)
}

fn pageable_to_host(session: &Session<'_>, plan: Plan, bytes: usize) -> Samples {
    let expected = noise(bytes, 31);
    let device = DeviceBuffer::holding(session.cuda, &expected)?;
    session.cuda.synchronize()?;
    // Filled, so that no page of it is touched for the first time while timing.
    let mut back = vec![0x5a; bytes];
    let samples = each(WARM_UP, plan.large_repeats, || device.read(&mut back))?;
    sample::same(&back, &expected, "the copy to the host")?;
    Ok(samples)
}

fn device_to_device(session: &Session<'_>, plan: Plan, bytes: usize) -> Samples {
    let stream = Stream::new(session.cuda)?;
    let expected = noise(bytes, 37);
    let from = DeviceBuffer::holding(session.cuda, &expected)?;
    let to = DeviceBuffer::new(session.cuda, bytes)?;
    session.cuda.synchronize()?;
    let samples = each(WARM_UP, plan.large_repeats, || {
        to.copy_from(&from, &stream)?;
        stream.synchronize()
    })?;
    let mut back = vec![0; bytes];
    to.read(&mut back)?;
    sample::same(&back, &expected, "the copy on the device")?;
    Ok(samples)
}
