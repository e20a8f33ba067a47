//! Batches of memory operations: words that a stream or a node waits for or writes.

use crate::device;
use crate::foreign::Outcome;
use crate::work::{Comparison, MemoryWord, Work};
use std::sync::Arc;
use vgpu_protocol::cuda::{CUresult, CUstreamBatchMemOpParams};

/// Most operations of a batch.
const MOST: usize = 256;

/// `CU_STREAM_WAIT_VALUE_FLUSH`: remote writes are flushed after the wait. There are none.
const WAIT_FLUSH: u32 = 1 << 30;
/// `CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER`: the barrier may be left out. It is cheap here.
const WRITE_NO_BARRIER: u32 = 1;

/// `CUstreamBatchMemOpType`.
mod kind {
    pub(super) const WAIT_32: u32 = 1;
    pub(super) const WRITE_32: u32 = 2;
    pub(super) const FLUSH_REMOTE_WRITES: u32 = 3;
    pub(super) const WAIT_64: u32 = 4;
    pub(super) const WRITE_64: u32 = 5;
    pub(super) const BARRIER: u32 = 6;
}

/// A batch that was checked.
#[derive(Clone)]
pub(crate) struct Operations {
    /// As the caller gave them.
    pub(crate) params: Arc<[CUstreamBatchMemOpParams]>,
    work: Arc<Vec<Work>>,
}

fn word(addr: u64, value: u64, wide: bool) -> Outcome<MemoryWord> {
    let word = MemoryWord { addr, value, wide };
    if !addr.is_multiple_of(word.size()) {
        return Err(CUresult::INVALID_VALUE);
    }
    device::memory().check(addr, word.size())?;
    Ok(word)
}

fn work(params: &CUstreamBatchMemOpParams) -> Outcome<Work> {
    let [addr, value, flags, ..] = params.words;
    let flags = flags as u32;
    match params.operation {
        kind::WRITE_32 | kind::WRITE_64 => {
            if flags & !WRITE_NO_BARRIER != 0 {
                return Err(CUresult::INVALID_VALUE);
            }
            let wide = params.operation == kind::WRITE_64;
            Ok(Work::Write(word(addr, value, wide)?))
        }
        kind::WAIT_32 | kind::WAIT_64 => {
            let comparison = match flags & !WAIT_FLUSH {
                0 => Comparison::GreaterOrEqual,
                1 => Comparison::Equal,
                2 => Comparison::And,
                3 => Comparison::Nor,
                _ => return Err(CUresult::INVALID_VALUE),
            };
            let wide = params.operation == kind::WAIT_64;
            Ok(Work::Wait(word(addr, value, wide)?, comparison))
        }
        // Memory is coherent.
        kind::FLUSH_REMOTE_WRITES | kind::BARRIER => Ok(Work::Nothing),
        _ => Err(CUresult::INVALID_VALUE),
    }
}

/// The description of a write or a wait by itself.
pub(crate) fn alone(
    (narrow, wide_kind): (u32, u32),
    addr: u64,
    value: u64,
    wide: bool,
    flags: u32,
) -> CUstreamBatchMemOpParams {
    CUstreamBatchMemOpParams {
        operation: if wide { wide_kind } else { narrow },
        words: [addr, value, flags.into(), 0, 0],
        ..CUstreamBatchMemOpParams::default()
    }
}

/// The kinds of a write, with 32 and 64 bits.
pub(crate) const WRITE: (u32, u32) = (kind::WRITE_32, kind::WRITE_64);
/// The kinds of a wait.
pub(crate) const WAIT: (u32, u32) = (kind::WAIT_32, kind::WAIT_64);

impl Operations {
    /// Checks a batch.
    ///
    /// # Errors
    /// `INVALID_VALUE` for unknown operations and flags, for words that are misaligned or in no live
    /// range, for no operation and for too many.
    pub(crate) fn checked(params: &[CUstreamBatchMemOpParams], flags: u32) -> Outcome<Self> {
        if params.is_empty() || params.len() > MOST || flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        let work = params.iter().map(work).collect::<Outcome<Vec<_>>>()?;
        Ok(Self {
            params: params.into(),
            work: Arc::new(work),
        })
    }

    /// The command that does them, one after the other.
    pub(crate) fn work(&self) -> Work {
        match self.work.as_slice() {
            [one] => one.clone(),
            _ => Work::Graph(Arc::clone(&self.work)),
        }
    }
}
