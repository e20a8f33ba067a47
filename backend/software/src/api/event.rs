//! Events.

use crate::dispatch::record;
use crate::entry::entries;
use crate::foreign::{Out, Outcome};
use crate::{capture, current, event, pool, stream};
use vgpu_protocol::cuda::{CU_EVENT_RECORD_EXTERNAL, CUevent, CUresult, CUstream};

fn elapsed(ms: &Out<f32>, start: CUevent, end: CUevent) -> Outcome {
    ms.require()?;
    let (start, end) = (event::get(start)?, event::get(end)?);
    ms.put(event::elapsed(&start, &end)?)
}

entries! {
    ready fn cuEventCreate(out event: CUevent, val flags: u32) {
        event.require()?;
        let context = current::context()?;
        event.put(event::create(&context.core, flags)?)
    }

    ready fn cuEventRecord(val event: CUevent, val stream: CUstream) {
        let (_, stream) = stream::get(stream)?;
        record(&stream, &event::get(event)?, 0)
    }

    ready fn cuEventRecordWithFlags(val event: CUevent, val stream: CUstream, val flags: u32) {
        let (_, stream) = stream::get(stream)?;
        if flags & !CU_EVENT_RECORD_EXTERNAL != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        record(&stream, &event::get(event)?, flags)
    }

    ready fn cuEventQuery(val event: CUevent) {
        let event = event::get(event)?;
        capture::refuse_event(&event)?;
        capture::prohibit()?;
        let done = event.mark()?.is_none_or(|mark| mark.is_reached())
            && event.point().is_none_or(|point| point.is_reached());
        event.core.check()?;
        if done { Ok(()) } else { Err(CUresult::NOT_READY) }
    }

    ready fn cuEventSynchronize(val event: CUevent) {
        let event = event::get(event)?;
        capture::refuse_event(&event)?;
        capture::prohibit()?;
        if let Some(mark) = event.mark()? {
            mark.wait();
        }
        if let Some(point) = event.point() {
            point.wait(&event.core);
        }
        pool::synchronised();
        event.core.check()
    }

    ready fn cuEventDestroy_v2(val event: CUevent) {
        event::destroy(event)
    }

    ready fn cuEventElapsedTime(out ms: f32, val start: CUevent, val end: CUevent) {
        elapsed(&ms, start, end)
    }

    ready fn cuEventElapsedTime_v2(out ms: f32, val start: CUevent, val end: CUevent) {
        elapsed(&ms, start, end)
    }
}
