//! Several threads, streams and devices, and copies behind work in progress.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use vgpu_protocol::cuda::{CU_EVENT_DISABLE_TIMING, CUcontext};

use super::launch::Counter;
use super::sample::{self, nanoseconds, noise, per_second};
use super::{Case, Plan, Samples, Session};
use crate::cuda::{Cuda, DeviceBuffer, Event, Failure, Kernels, Stream};
use crate::metric::{Target, Unit};

/// Bytes of the copy behind a busy stream.
const COPY: usize = 1 << 20;

/// The rows of this file.
pub fn cases(plan: Plan) -> Vec<Case> {
    let Plan {
        threads,
        streams,
        busy,
        ..
    } = plan;
    vec![
        Case::new(
            "launches_threads",
            format!("launches per second, {threads} threads × {streams} streams"),
            Unit::PerSecond,
            Target::None,
            move |session| {
                let places = vec![(session.context, session.kernels); threads];
                in_threads(session, plan, &places, streams)
            },
        )
        .unbound(),
        Case::new(
            "launches_devices",
            "launches per second, 2 devices × 2 threads",
            Unit::PerSecond,
            Target::None,
            move |session| on_two_devices(session, plan),
        )
        .unbound(),
        Case::time(
            "event_heavy",
            format!(
                "record + wait + launch across two streams, {} in a row",
                plan.events
            ),
            Target::None,
            move |session| event_heavy(session, plan),
        ),
        Case::time(
            "busy_copy_same",
            format!(
                "cuMemcpyHtoDAsync 1 MiB, pageable, behind {busy:?} of the same stream returns in"
            ),
            Target::None,
            move |session| behind_busy(session, plan, true),
        ),
        Case::time(
            "busy_copy_other",
            format!(
                "cuMemcpyHtoDAsync 1 MiB, pageable, beside {busy:?} of another stream returns in"
            ),
            Target::None,
            move |session| behind_busy(session, plan, false),
        ),
    ]
}

/// Launches per second of one thread for each of `places`, from the first launch to the last done.
fn in_threads(
    session: &Session<'_>,
    plan: Plan,
    places: &[(CUcontext, Kernels<'_>)],
    streams: usize,
) -> Samples {
    let mut samples = Vec::new();
    // The first round is warm-up.
    for round in 0..=plan.sustained_repeats {
        let gate = Barrier::new(places.len() + 1);
        let took = thread::scope(|scope| {
            let threads: Vec<_> = places
                .iter()
                .map(|&(context, kernels)| {
                    let gate = &gate;
                    scope.spawn(move || {
                        one_thread(session.cuda, plan, context, kernels, streams, gate)
                    })
                })
                .collect();
            gate.wait();
            let begin = Instant::now();
            gate.wait();
            let took = begin.elapsed();
            for thread in threads {
                let died = || Failure::Content("a launching thread died".into());
                thread.join().map_err(|_| died())??;
            }
            Ok::<Duration, Failure>(took)
        })?;
        if round > 0 {
            samples.push(nanoseconds(took) / (places.len() * plan.thread_launches) as f64);
        }
    }
    Ok(per_second(samples))
}

/// Waits at the gate, launches round robin on its own streams, waits for them, waits at the gate.
fn one_thread(
    cuda: &Cuda,
    plan: Plan,
    context: CUcontext,
    kernels: Kernels<'_>,
    streams: usize,
    gate: &Barrier,
) -> Result<(), Failure> {
    let prepare = || {
        cuda.set_current(context)?;
        (0..streams)
            .map(|_| Ok((Stream::new(cuda)?, Counter::new(cuda)?)))
            .collect::<Result<Vec<_>, Failure>>()
    };
    let prepared = prepare();
    // Also a thread that failed goes through the gate twice, or the others would wait for ever.
    gate.wait();
    let worked = prepared.and_then(|own| {
        for (stream, counter) in own.iter().cycle().take(plan.thread_launches) {
            counter.launch_with(&kernels, stream)?;
        }
        own.iter()
            .try_for_each(|(stream, _)| stream.synchronize())?;
        Ok(own)
    });
    gate.wait();
    for (at, (_, counter)) in worked?.iter().enumerate() {
        // Round robin: the first streams have one more if the launches do not divide evenly.
        let expected = plan.thread_launches.saturating_sub(at).div_ceil(streams);
        counter.check(cuda, expected)?;
    }
    Ok(())
}

fn on_two_devices(session: &Session<'_>, plan: Plan) -> Samples {
    let cuda = session.cuda;
    let count = cuda.device_count()?;
    if count < 2 {
        return Err(Failure::NotRun(format!("{count} device")));
    }
    let other = cuda.primary_context(cuda.device(1)?)?;
    cuda.set_current(other)?;
    let loaded = Kernels::load(cuda);
    cuda.set_current(session.context)?;
    let (here, there) = ((session.context, session.kernels), (other, loaded?));
    in_threads(session, plan, &[here, here, there, there], 1)
}

fn event_heavy(session: &Session<'_>, plan: Plan) -> Samples {
    let cuda = session.cuda;
    let streams = [Stream::new(cuda)?, Stream::new(cuda)?];
    let events = [
        Event::new(cuda, CU_EVENT_DISABLE_TIMING)?,
        Event::new(cuda, CU_EVENT_DISABLE_TIMING)?,
    ];
    let counter = Counter::new(cuda)?;
    let [left, right] = &streams;
    let [left_done, right_done] = &events;
    let mut samples = Vec::new();
    for round in 0..=plan.sustained_repeats {
        let took = sample::time(|| {
            // Both streams count in the same memory: if one did not wait for the other, counts
            // would be lost.
            for _ in 0..plan.events / 2 {
                counter.launch(session, left)?;
                left_done.record(left)?;
                right.wait(left_done)?;
                counter.launch(session, right)?;
                right_done.record(right)?;
                left.wait(right_done)?;
            }
            right.synchronize()
        })?;
        if round > 0 {
            samples.push(nanoseconds(took) / plan.events as f64);
        }
    }
    counter.check(cuda, (plan.sustained_repeats + 1) * (plan.events / 2) * 2)?;
    Ok(samples)
}

fn behind_busy(session: &Session<'_>, plan: Plan, same: bool) -> Samples {
    let cuda = session.cuda;
    let (busy, other) = (Stream::new(cuda)?, Stream::new(cuda)?);
    let copying = if same { &busy } else { &other };
    let cycles = cycles_for(session, plan.busy, &busy)?;
    let device = DeviceBuffer::holding(cuda, &vec![0; COPY])?;
    let mut back = vec![0; COPY];
    let mut samples = Vec::with_capacity(plan.busy_repeats);
    for repeat in 0..=plan.busy_repeats {
        let source = noise(COPY, 43 + repeat as u64);
        session.kernels.spin(cycles, &busy)?;
        let begin = Instant::now();
        let mut returned = Duration::ZERO;
        device.write_async(&source, copying, || returned = begin.elapsed())?;
        cuda.synchronize()?;
        device.read(&mut back)?;
        sample::same(&back, &source, "the copy behind a busy stream")?;
        if repeat > 0 {
            samples.push(nanoseconds(returned));
        }
    }
    Ok(samples)
}

/// Clock cycles that a spinning kernel needs for this time, found by timing one.
fn cycles_for(session: &Session<'_>, time: Duration, stream: &Stream) -> Result<u64, Failure> {
    const TRIAL: u64 = 1_000_000;
    let mut shortest = f64::INFINITY;
    for _ in 0..5 {
        let took = sample::time(|| {
            session.kernels.spin(TRIAL, stream)?;
            stream.synchronize()
        })?;
        shortest = shortest.min(nanoseconds(took));
    }
    // The rate of a clock is far below what 64 bits hold.
    Ok((TRIAL as f64 * nanoseconds(time) / shortest).max(1.0) as u64)
}
