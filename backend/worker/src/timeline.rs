//! Timeline words: the device writes a record's stamp behind the stream's earlier work, so that
//! waiting costs no host thread (`semantics.md` 3, 4).

use crate::call::{Call, Outcome};
use crate::rules;
use vgpu_protocol::cuda::{CUdeviceptr, CUresult, CUstream};

/// Streams remembered for the query before sleeping; more are not worth it.
const REMEMBERED: usize = 32;

/// Has the record's stamp written to `word` behind everything issued to `stream` so far. While the
/// stream is captured nothing is written; the client then waits by a real call.
///
/// # Errors
/// `INVALID_VALUE` when `word` is no aligned word of the heap; what the driver says.
#[inline]
pub fn write(call: &mut Call<'_>, stream: CUstream, word: u64) -> Outcome {
    if !word.is_multiple_of(4) {
        return Err(call.malformed());
    }
    call.worker.shared_range(word, 4)?;
    if !rules::may_touch(call, stream) {
        return Ok(());
    }
    let write = call
        .driver()
        .cuStreamWriteValue32_v2
        .ok_or(CUresult::NOT_SUPPORTED)?;
    // SAFETY: the stream is live, and the word lies in shared memory that stays mapped and is
    // registered with the driver.
    let result = unsafe { write(stream, CUdeviceptr(word), call.request.stamp(), 0) };
    call.result(result)?;
    let key = (call.request.header.scope, stream.0);
    let flushed = &mut call.thread.flushed;
    if flushed.last() != Some(&key) && flushed.len() < REMEMBERED && !flushed.contains(&key) {
        flushed.push(key);
    }
    Ok(())
}
