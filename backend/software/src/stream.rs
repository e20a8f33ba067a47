//! Streams: queues of commands, each executed by a thread of its own.
//!
//! The executor thread starts with the first command and sleeps while there is none. At most
//! [`CAPACITY`] commands are pending; whoever submits one more waits, as with NVIDIA's driver.
//!
//! Order between streams is kept by [`Mark`]s: a command carries the marks it has to wait for. The
//! legacy default stream waits for all blocking streams and they for it; both follow from marks
//! taken at submission under the context's order lock, so marks only ever point backwards and
//! cannot form a circle.

use crate::context::{Context, Core};
use crate::current;
use crate::foreign::Outcome;
use crate::table::{Kind, Table, unique};
use crate::work::Work;
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use vgpu_protocol::cuda::{CU_STREAM_NON_BLOCKING, CUlaunchAttributeValue, CUresult, CUstream};

/// Commands a stream holds before submitting waits.
pub(crate) const CAPACITY: u64 = 1024;
/// Priorities: numerically least and greatest. They are accepted and change nothing.
pub(crate) const PRIORITIES: (i32, i32) = (0, -5);

/// How a stream relates to the legacy default stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It is the legacy default stream.
    Legacy,
    /// In order with it.
    Blocking,
    /// Independent of it.
    NonBlocking,
}

/// A point in a stream: everything up to the `count`th command.
#[derive(Clone)]
pub(crate) struct Mark {
    stream: Arc<Stream>,
    count: u64,
}

impl Mark {
    /// Everything submitted to the stream so far, or `None` if that is executed already.
    pub(crate) fn pending(stream: &Arc<Stream>) -> Option<Self> {
        let queue = stream.queue.lock();
        (queue.completed < queue.submitted).then(|| Self {
            stream: Arc::clone(stream),
            count: queue.submitted,
        })
    }

    /// Whether everything up to here is executed.
    pub(crate) fn is_reached(&self) -> bool {
        self.stream.queue.lock().completed >= self.count
    }

    /// Waits until everything up to here is executed, or dropped because its context has failed.
    pub(crate) fn wait(&self) {
        let mut queue = self.stream.queue.lock();
        while queue.completed < self.count {
            self.stream.progress.wait(&mut queue);
        }
    }
}

struct Command {
    work: Work,
    after: Vec<Mark>,
}

#[derive(Default)]
struct Queue {
    pending: VecDeque<Command>,
    submitted: u64,
    completed: u64,
    started: bool,
    closed: bool,
}

/// A stream.
pub(crate) struct Stream {
    /// As given out, or null for the default streams.
    pub(crate) handle: CUstream,
    /// `cuStreamGetId`.
    pub(crate) id: u64,
    /// Names the stream within this crate: unlike the id also for default streams.
    pub(crate) key: u64,
    pub(crate) role: Role,
    pub(crate) priority: i32,
    pub(crate) core: Arc<Core>,
    pub(crate) context: Weak<Context>,
    /// Attributes that were set (`CUlaunchAttributeID`).
    pub(crate) attributes: Mutex<BTreeMap<u32, CUlaunchAttributeValue>>,
    queue: Mutex<Queue>,
    work: Condvar,
    progress: Condvar,
}

static STREAMS: Table<Stream> = Table::new(Kind::Stream);

/// The live stream of a handle, special values included, with its context.
///
/// # Errors
/// `INVALID_HANDLE` for what is no stream; what [`current::context`] refuses; the fault of the
/// stream's context.
pub(crate) fn get(handle: CUstream) -> Outcome<(Arc<Context>, Arc<Stream>)> {
    let current = current::context()?;
    match handle {
        CUstream::NULL | CUstream::LEGACY => {
            let stream = current.legacy();
            Ok((current, stream))
        }
        CUstream::PER_THREAD => {
            let stream = current.per_thread();
            Ok((current, stream))
        }
        _ => {
            let stream = STREAMS.get(handle.0).ok_or(CUresult::INVALID_HANDLE)?;
            stream.core.check()?;
            let context = stream.context.upgrade();
            Ok((context.ok_or(CUresult::CONTEXT_IS_DESTROYED)?, stream))
        }
    }
}

/// Creates a stream in a context.
pub(crate) fn create(context: &Arc<Context>, flags: u32, priority: i32) -> Outcome<CUstream> {
    let role = match flags {
        0 => Role::Blocking,
        CU_STREAM_NON_BLOCKING => Role::NonBlocking,
        _ => return Err(CUresult::INVALID_VALUE),
    };
    let priority = priority.clamp(PRIORITIES.1, PRIORITIES.0);
    let stream = STREAMS.insert_shared(|handle| {
        // Ids below 16 are those of the default streams.
        Stream::build(context, handle, 16 + unique(), role, priority)
    });
    Ok(stream.handle)
}

/// Destroys a stream: what is pending is still executed.
pub(crate) fn destroy(handle: CUstream) -> Outcome {
    let stream = STREAMS.remove(handle.0).ok_or(CUresult::INVALID_HANDLE)?;
    crate::capture::stream_ends(&stream);
    stream.close();
    Ok(())
}

/// Forgets the streams of a context that ends.
pub(crate) fn forget(owner: u64) {
    for stream in STREAMS.remove_if(|stream| stream.core.id == owner) {
        crate::capture::stream_ends(&stream);
    }
}

impl Stream {
    /// Makes a stream and enters it into its context's list.
    pub(crate) fn build(
        context: &Arc<Context>,
        handle: u64,
        id: u64,
        role: Role,
        priority: i32,
    ) -> Arc<Self> {
        let stream = Arc::new(Self {
            handle: CUstream(handle),
            id,
            key: unique(),
            role,
            priority,
            core: Arc::clone(&context.core),
            context: Arc::downgrade(context),
            attributes: Mutex::new(BTreeMap::new()),
            queue: Mutex::new(Queue::default()),
            work: Condvar::new(),
            progress: Condvar::new(),
        });
        let mut streams = context.streams.lock();
        streams.retain(|stream| stream.strong_count() > 0);
        streams.push(Arc::downgrade(&stream));
        stream
    }

    /// Appends a command that waits for `after` and, where the legacy default stream is involved,
    /// for what it has to be in order with. Waits while the stream is full.
    ///
    /// # Errors
    /// `CONTEXT_IS_DESTROYED`, the context's fault if it comes up while waiting, or
    /// `OPERATING_SYSTEM` if there can be no thread.
    pub(crate) fn submit(self: &Arc<Self>, work: Work, mut after: Vec<Mark>) -> Outcome<Mark> {
        let context = self
            .context
            .upgrade()
            .ok_or(CUresult::CONTEXT_IS_DESTROYED)?;
        loop {
            let order = context.streams.lock();
            let mut queue = self.queue.lock();
            if queue.closed || self.core.cancel.load(Ordering::Relaxed) {
                return Err(CUresult::CONTEXT_IS_DESTROYED);
            }
            if queue.submitted - queue.completed >= CAPACITY {
                drop(order);
                while queue.submitted - queue.completed >= CAPACITY {
                    self.progress.wait(&mut queue);
                }
                self.core.check()?;
                continue;
            }
            if !queue.started {
                self.start()?;
                queue.started = true;
            }
            if self.role != Role::NonBlocking {
                let others = order.iter().filter_map(Weak::upgrade);
                let ordered = others.filter(|other| self.is_ordered_with(other));
                after.extend(ordered.filter_map(|other| Mark::pending(&other)));
            }
            queue.pending.push_back(Command { work, after });
            queue.submitted += 1;
            self.work.notify_one();
            return Ok(Mark {
                stream: Arc::clone(self),
                count: queue.submitted,
            });
        }
    }

    /// Whether commands of this stream and another one of the context keep their order.
    fn is_ordered_with(&self, other: &Stream) -> bool {
        matches!(
            (self.role, other.role),
            (Role::Legacy, Role::Blocking) | (Role::Blocking, Role::Legacy)
        )
    }

    /// Marks that have to be reached before the stream counts as idle. For the legacy default
    /// stream those are the blocking streams', too.
    pub(crate) fn outstanding(self: &Arc<Self>) -> Vec<Mark> {
        if self.role == Role::Legacy
            && let Some(context) = self.context.upgrade()
        {
            return context.marks(|stream| stream.role != Role::NonBlocking);
        }
        Mark::pending(self).into_iter().collect()
    }

    /// Takes no more commands; the executor ends after the pending ones.
    pub(crate) fn close(&self) {
        self.queue.lock().closed = true;
        self.work.notify_all();
    }

    fn start(self: &Arc<Self>) -> Outcome {
        let stream = Arc::clone(self);
        std::thread::Builder::new()
            .name("vgpu-stream".into())
            .spawn(move || stream.execute())
            .map(drop)
            .map_err(|_| CUresult::OPERATING_SYSTEM)
    }

    /// The executor thread.
    fn execute(self: Arc<Self>) {
        while let Some(command) = self.next() {
            for mark in &command.after {
                mark.wait();
            }
            // A panic would be a defect of this crate; the stream must go on being drained.
            let ran = catch_unwind(AssertUnwindSafe(|| command.work.run(&self.core)));
            match ran {
                Ok(Ok(())) => {}
                Ok(Err(code)) => self.core.fail(code),
                Err(_) => self.core.fail(CUresult::UNKNOWN),
            }
            // Dropped before completion is announced: what the command kept alive is free then.
            drop(command);
            self.queue.lock().completed += 1;
            self.progress.notify_all();
        }
    }

    fn next(&self) -> Option<Command> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(command) = queue.pending.pop_front() {
                return Some(command);
            }
            if queue.closed {
                return None;
            }
            self.work.wait(&mut queue);
        }
    }
}
