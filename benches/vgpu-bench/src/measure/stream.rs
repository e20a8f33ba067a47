//! Streams and events: asking, recording, waiting.

use vgpu_protocol::cuda::CU_EVENT_DISABLE_TIMING;

use super::sample::{bursts, each};
use super::{Case, Plan};
use crate::cuda::{Event, Stream};
use crate::metric::Target;

/// Records between two waits.
const RECORDS: usize = 100;

/// The rows of this file.
pub fn cases(plan: Plan) -> Vec<Case> {
    let soon = Target::AtMost(100.0);
    vec![
        Case::time(
            "stream_sync_idle",
            "cuStreamSynchronize, idle stream",
            soon,
            move |session| {
                let stream = Stream::new(session.cuda)?;
                session.kernels.null(&stream)?;
                stream.synchronize()?;
                bursts(
                    plan.bursts,
                    plan.local_calls.div_ceil(10),
                    || stream.synchronize(),
                    || Ok(()),
                )
            },
        ),
        Case::time(
            "stream_query_idle",
            "cuStreamQuery, idle stream",
            Target::None,
            move |session| {
                let stream = Stream::new(session.cuda)?;
                session.kernels.null(&stream)?;
                stream.synchronize()?;
                bursts(
                    plan.bursts,
                    plan.local_calls.div_ceil(10),
                    || stream.query(),
                    || Ok(()),
                )
            },
        ),
        Case::time(
            "event_query_done",
            "cuEventQuery, event done",
            soon,
            move |session| {
                let stream = Stream::new(session.cuda)?;
                let event = Event::new(session.cuda, CU_EVENT_DISABLE_TIMING)?;
                session.kernels.null(&stream)?;
                event.record(&stream)?;
                event.synchronize()?;
                bursts(
                    plan.bursts,
                    plan.local_calls.div_ceil(10),
                    || event.query(),
                    || Ok(()),
                )
            },
        ),
        Case::time(
            "event_record",
            "cuEventRecord returns in",
            Target::None,
            move |session| {
                let stream = Stream::new(session.cuda)?;
                let event = Event::new(session.cuda, CU_EVENT_DISABLE_TIMING)?;
                bursts(
                    plan.bursts,
                    RECORDS,
                    || event.record(&stream),
                    || stream.synchronize(),
                )
            },
        ),
        Case::time(
            "event_record_timing",
            "cuEventRecord with timing returns in",
            Target::None,
            move |session| {
                let stream = Stream::new(session.cuda)?;
                let event = Event::new(session.cuda, 0)?;
                bursts(
                    plan.bursts,
                    RECORDS,
                    || event.record(&stream),
                    || stream.synchronize(),
                )
            },
        ),
        Case::time(
            "event_record_sync",
            "cuEventRecord + cuEventSynchronize",
            Target::None,
            move |session| {
                let stream = Stream::new(session.cuda)?;
                let event = Event::new(session.cuda, CU_EVENT_DISABLE_TIMING)?;
                each(plan.warm_up(), plan.calls, || {
                    event.record(&stream)?;
                    event.synchronize()
                })
            },
        ),
    ]
}
