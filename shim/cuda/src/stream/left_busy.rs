//! Contexts in which streams were destroyed before they were seen idle: their work goes on, and only the driver can say when
//! it is over.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vgpu_protocol::cuda::CUcontext;

/// By context, how many such streams there were when the latest was destroyed.
#[derive(Debug)]
struct Marks {
    by_context: BTreeMap<u64, u64>,
    count: u64,
}

static MARKS: Mutex<Marks> = Mutex::new(Marks {
    by_context: BTreeMap::new(),
    count: 0,
});

/// Contexts with a mark, for one load where none has any: records of events ask. It is changed under the lock.
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn marks() -> MutexGuard<'static, Marks> {
    MARKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes that a busy stream of `ctx` is being destroyed.
pub fn mark(ctx: CUcontext) {
    let mut marks = marks();
    marks.count += 1;
    let count = marks.count;
    marks.by_context.insert(ctx.0, count);
    // A thread that knows of the stream's end by the one that ended it sees the count.
    COUNT.store(marks.by_context.len(), Ordering::Release);
}

/// The mark of `ctx`, if its work may go on. To be taken before the driver is asked to wait, so that a stream which is
/// destroyed meanwhile counts for the next time.
pub fn of(ctx: CUcontext) -> Option<u64> {
    if COUNT.load(Ordering::Acquire) == 0 {
        return None;
    }
    marks().by_context.get(&ctx.0).copied()
}

/// All marks, with their contexts.
pub fn all() -> Vec<(CUcontext, u64)> {
    let marks = marks();
    let all = marks.by_context.iter();
    all.map(|(ctx, mark)| (CUcontext(*ctx), *mark)).collect()
}

/// The driver has waited for all of `ctx` since `mark` was taken.
pub fn is_over(ctx: CUcontext, mark: u64) {
    let mut marks = marks();
    if marks.by_context.get(&ctx.0) == Some(&mark) {
        marks.by_context.remove(&ctx.0);
        COUNT.store(marks.by_context.len(), Ordering::Release);
    }
}

/// The context is gone.
pub fn forget(ctx: CUcontext) {
    let mut marks = marks();
    marks.by_context.remove(&ctx.0);
    COUNT.store(marks.by_context.len(), Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_is_destroyed_during_a_wait_counts_for_the_next() {
        let ctx = CUcontext(0x7e57);
        assert_eq!(of(ctx), None);
        mark(ctx);
        let first = of(ctx).expect("a mark");
        mark(ctx);
        is_over(ctx, first);
        let second = of(ctx).expect("still a mark");
        assert!(all().contains(&(ctx, second)));
        is_over(ctx, second);
        assert_eq!(of(ctx), None);
        mark(ctx);
        forget(ctx);
        assert_eq!(of(ctx), None);
    }
}
