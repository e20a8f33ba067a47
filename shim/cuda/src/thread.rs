//! What CUDA keeps per thread: the context stack, the capture mode, and, once a thread talks to the
//! worker, its index and reply slot.

use crate::client::{self, Client};
use crate::{function, held, stream};
use core::cell::{Cell, RefCell};
use core::mem::ManuallyDrop;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use vgpu_protocol::cuda::{CU_STREAM_CAPTURE_MODE_GLOBAL, CUcontext, CUresult, CUstream};
use vgpu_protocol::number::internal;

/// State of one thread that needs no channel.
pub struct Thread {
    /// Contexts pushed below the current one.
    pub pushed: RefCell<Vec<CUcontext>>,
    /// The current context, or null.
    pub current: Cell<CUcontext>,
    /// `CU_STREAM_CAPTURE_MODE_*`.
    pub capture_mode: Cell<u32>,
    /// Set on the thread that runs host functions: CUDA calls are not permitted there.
    pub in_host_function: Cell<bool>,
    /// The thread's own default streams, by context (`semantics.md` 8).
    pub own_streams: RefCell<Vec<(CUcontext, CUstream)>>,
    lane: RefCell<Option<Rc<Lane>>>,
}

/// A thread's place in the channel.
pub struct Lane {
    /// Index by which the worker knows the thread.
    pub index: u32,
    /// Address of the reply slot in the heap.
    pub slot: u64,
    /// Sequence of the last reply waited for; never 0 once used.
    pub sequence: Cell<u32>,
}

thread_local! {
    /// Without a destructor, so that it serves exit handlers, which run after destructors of this
    /// kind; what must happen at a thread's end, [`End`] does.
    static THREAD: ManuallyDrop<Thread> = const { ManuallyDrop::new(Thread {
        pushed: RefCell::new(Vec::new()),
        current: Cell::new(CUcontext::NULL),
        capture_mode: Cell::new(CU_STREAM_CAPTURE_MODE_GLOBAL),
        in_host_function: Cell::new(false),
        own_streams: RefCell::new(Vec::new()),
        lane: RefCell::new(None),
    }) };

    static END: End = const { End };
}

/// Gives a thread's place in the channel back when the thread ends.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        THREAD.with(|thread| thread.end());
        stream::forget_recent();
        function::forget_recent();
    }
}

/// Thread indices and reply slots of threads that ended, for reuse.
static FREE: Mutex<Free> = Mutex::new(Free {
    next: 0,
    lanes: Vec::new(),
});

struct Free {
    next: u32,
    lanes: Vec<(u32, u64)>,
}

/// Runs `body` with the calling thread's state.
pub fn with<T>(body: impl FnOnce(&Thread) -> Result<T, CUresult>) -> Result<T, CUresult> {
    THREAD.with(|thread| body(thread))
}

/// Whether the calling thread is the one that runs the program's host functions.
#[inline]
pub fn in_host_function() -> bool {
    THREAD.with(|thread| thread.in_host_function.get())
}

impl Thread {
    /// The thread's place in the channel, taken on first use.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`.
    pub fn lane(&self, client: &Client) -> Result<Rc<Lane>, CUresult> {
        if let Some(lane) = self.lane.borrow().as_ref() {
            return Ok(Rc::clone(lane));
        }
        let reused = FREE
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .lanes
            .pop();
        let (index, slot) = match reused {
            Some(lane) => lane,
            None => {
                let slot = client.new_reply_slot()?;
                let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
                let index = free.next;
                free.next += 1;
                (index, slot)
            }
        };
        client.reset_reply_slot(slot);
        let lane = Rc::new(Lane {
            index,
            slot,
            sequence: Cell::new(0),
        });
        *self.lane.borrow_mut() = Some(Rc::clone(&lane));
        // Registers the destructor; in an exit handler it has already run, and the process ends.
        let _ = END.try_with(|_| ());
        Ok(lane)
    }

    /// Gives the place back.
    fn end(&self) {
        if self.lane.borrow().is_none() {
            return;
        }
        // In a forked child, or with the worker gone, there is nobody to tell.
        let Ok(client) = client::entered() else {
            return;
        };
        // Some may be of the thread's own streams.
        held::release(client);
        let Some(lane) = self.lane.borrow_mut().take() else {
            return;
        };
        let own = self.own_streams.take();
        let told = stream::end_own(client, &lane, &own)
            .and_then(|()| client.notify(lane.index, lane.slot, internal::THREAD_EXIT, &[]));
        if told.is_ok() {
            FREE.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .lanes
                .push((lane.index, lane.slot));
        }
    }
}

/// Starts a thread of ours in the program's process, with all signals blocked: they are for the
/// program's own threads.
///
/// # Errors
/// The system's error.
pub fn spawn_quiet(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    // SAFETY: plain signal set operations on locals; a new thread inherits the mask.
    unsafe {
        let mut all: libc::sigset_t = core::mem::zeroed();
        let mut before: libc::sigset_t = core::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let started = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(body);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, core::ptr::null_mut());
        started.map(|_| ())
    }
}
