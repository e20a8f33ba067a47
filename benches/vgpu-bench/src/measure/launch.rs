//! Launches: how soon they return, how many a second, and how soon they are done.

use vgpu_protocol::cuda::{CU_EVENT_BLOCKING_SYNC, CU_EVENT_DISABLE_TIMING};

use super::sample::{self, bursts, each, nanoseconds, per_second};
use super::{Case, Plan, Samples, Session};
use crate::cuda::{Cuda, DeviceBuffer, Event, Failure, Kernels, Stream};
use crate::metric::{Target, Unit};

/// Floats in a [`Counter`].
const FLOATS: usize = 32;

/// Device memory that a launch of four parameters counts up by one: at the end it says how many
/// launches were really executed. Exact up to 2²⁴.
pub(super) struct Counter<'c> {
    ones: DeviceBuffer<'c>,
    counts: DeviceBuffer<'c>,
}

impl<'c> Counter<'c> {
    /// Starts at zero.
    pub fn new(cuda: &'c Cuda) -> Result<Self, Failure> {
        let ones = DeviceBuffer::holding(cuda, &1.0_f32.to_le_bytes().repeat(FLOATS))?;
        let counts = DeviceBuffer::holding(cuda, &[0; 4 * FLOATS])?;
        // Copies on the default stream and the streams of a measurement do not wait for each other.
        cuda.synchronize()?;
        Ok(Self { ones, counts })
    }

    /// Counts one.
    #[inline]
    pub fn launch(&self, session: &Session<'_>, stream: &Stream) -> Result<(), Failure> {
        self.launch_with(&session.kernels, stream)
    }

    /// Counts one with the kernels of another context than the session's.
    #[inline]
    pub fn launch_with(&self, kernels: &Kernels<'_>, stream: &Stream) -> Result<(), Failure> {
        kernels.saxpy(1.0, &self.ones, &self.counts, stream)
    }

    /// Fails unless exactly `expected` launches were executed.
    pub fn check(&self, cuda: &Cuda, expected: usize) -> Result<(), Failure> {
        cuda.synchronize()?;
        let mut bytes = [0xff; 4 * FLOATS];
        self.counts.read(&mut bytes)?;
        let wrong = bytes
            .chunks_exact(4)
            .map(|float| f32::from_le_bytes(float.try_into().unwrap_or_default()))
            .find(|&count| f64::from(count) != expected as f64);
        match wrong {
            None => Ok(()),
            Some(count) => Err(Failure::Content(format!(
                "{expected} launches counted as {count}"
            ))),
        }
    }
}

/// The rows of this file.
pub fn cases(plan: Plan) -> Vec<Case> {
    let Plan {
        burst, sustained, ..
    } = plan;
    let soon = Target::AtMost(300.0);
    let native = Target::RatioAtMost(1.0);
    vec![
        Case::time(
            "launch_burst",
            format!("launch returns in, bursts of {burst}"),
            soon,
            move |session| burst_of_null(session, plan),
        ),
        Case::time(
            "launch_burst_params",
            format!("launch with 4 parameters returns in, bursts of {burst}"),
            soon,
            move |session| burst_of_counts(session, plan),
        ),
        Case::time(
            "launch_sustained",
            format!("launch returns in, {sustained} in a row"),
            native,
            move |session| in_a_row(session, plan, false).map(|row| row.returned),
        ),
        Case::time(
            "launch_sustained_params",
            format!("launch with 4 parameters returns in, {sustained} in a row"),
            native,
            move |session| in_a_row(session, plan, true).map(|row| row.returned),
        ),
        Case::new(
            "launches",
            format!("launches per second, {sustained} to the last one done"),
            Unit::PerSecond,
            Target::RatioAtLeast(1.0),
            move |session| in_a_row(session, plan, false).map(|row| per_second(row.done)),
        ),
        Case::new(
            "launches_params",
            format!("launches per second with 4 parameters, {sustained} to the last one done"),
            Unit::PerSecond,
            Target::RatioAtLeast(1.0),
            move |session| in_a_row(session, plan, true).map(|row| per_second(row.done)),
        ),
        Case::time(
            "launch_sync",
            "launch + cuStreamSynchronize",
            native,
            move |session| {
                let stream = Stream::new(session.cuda)?;
                each(plan.warm_up(), plan.calls, || {
                    session.kernels.null(&stream)?;
                    stream.synchronize()
                })
            },
        ),
        Case::time(
            "launch_sync_default",
            "launch + cuCtxSynchronize, default stream",
            native,
            move |session| {
                let stream = Stream::legacy(session.cuda);
                each(plan.warm_up(), plan.calls, || {
                    session.kernels.null(&stream)?;
                    session.cuda.synchronize()
                })
            },
        ),
        Case::time(
            "launch_sync_blocking",
            "launch + wait for a BLOCKING_SYNC event",
            Target::None,
            move |session| {
                let stream = Stream::new(session.cuda)?;
                let flags = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING;
                let event = Event::new(session.cuda, flags)?;
                each(plan.warm_up(), plan.calls, || {
                    session.kernels.null(&stream)?;
                    event.record(&stream)?;
                    event.synchronize()
                })
            },
        ),
        Case::time(
            "graph_sync",
            format!(
                "graph of {} kernel nodes: launch + cuStreamSynchronize",
                plan.nodes
            ),
            native,
            move |session| graph(session, plan, true),
        ),
        Case::time(
            "graph_launch",
            format!("graph of {} kernel nodes: launch returns in", plan.nodes),
            Target::None,
            move |session| graph(session, plan, false),
        ),
    ]
}

fn burst_of_null(session: &Session<'_>, plan: Plan) -> Samples {
    let stream = Stream::new(session.cuda)?;
    bursts(
        plan.bursts,
        plan.burst,
        || session.kernels.null(&stream),
        || stream.synchronize(),
    )
}

fn burst_of_counts(session: &Session<'_>, plan: Plan) -> Samples {
    let stream = Stream::new(session.cuda)?;
    let counter = Counter::new(session.cuda)?;
    let launch = || counter.launch(session, &stream);
    let samples = bursts(plan.bursts, plan.burst, launch, || stream.synchronize())?;
    // One more burst than samples: the warm-up.
    counter.check(session.cuda, (plan.bursts + 1) * plan.burst)?;
    Ok(samples)
}

/// Nanoseconds per launch of launches in a row.
struct InARow {
    /// Until the last launch returned.
    returned: Vec<f64>,
    /// Until the last launch was done.
    done: Vec<f64>,
}

fn in_a_row(session: &Session<'_>, plan: Plan, params: bool) -> Result<InARow, Failure> {
    let stream = Stream::new(session.cuda)?;
    let counter = Counter::new(session.cuda)?;
    let count = plan.sustained;
    let mut row = InARow {
        returned: Vec::new(),
        done: Vec::new(),
    };
    // The first round is warm-up.
    for round in 0..=plan.sustained_repeats {
        let begin = std::time::Instant::now();
        // The choice is made outside the loop, which is to hold the launch and nothing else.
        if params {
            (0..count).try_for_each(|_| counter.launch(session, &stream))?;
        } else {
            (0..count).try_for_each(|_| session.kernels.null(&stream))?;
        }
        let returned = begin.elapsed();
        stream.synchronize()?;
        let done = begin.elapsed();
        if round > 0 {
            row.returned.push(nanoseconds(returned) / count as f64);
            row.done.push(nanoseconds(done) / count as f64);
        }
    }
    if params {
        counter.check(session.cuda, count * (plan.sustained_repeats + 1))?;
    }
    Ok(row)
}

fn graph(session: &Session<'_>, plan: Plan, wait: bool) -> Samples {
    let stream = Stream::new(session.cuda)?;
    let counter = Counter::new(session.cuda)?;
    let graph =
        stream.capture(|| (0..plan.nodes).try_for_each(|_| counter.launch(session, &stream)))?;
    let (warm_up, calls) = (plan.warm_up().div_ceil(4), plan.calls.div_ceil(4));
    let mut launches = 0;
    let samples = if wait {
        each(warm_up, calls, || {
            launches += 1;
            graph.launch(&stream)?;
            stream.synchronize()
        })?
    } else {
        let mut samples = Vec::with_capacity(calls);
        for call in 0..warm_up + calls {
            let took = sample::time(|| graph.launch(&stream))?;
            stream.synchronize()?;
            launches += 1;
            if call >= warm_up {
                samples.push(nanoseconds(took));
            }
        }
        samples
    };
    counter.check(session.cuda, launches * plan.nodes)?;
    Ok(samples)
}
