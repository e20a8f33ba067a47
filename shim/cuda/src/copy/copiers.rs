//! Threads that help with large copies between the program's pageable memory and staging: one CPU
//! cannot keep up with the device (`semantics.md` 23).
//!
//! Helpers are made at the first large copy, at most three beside the caller and at most half of the
//! CPUs this process may use; the program's signals are blocked in them, and they end after a second
//! without work.

use crate::client::Client;
use crate::{stats, thread};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use vgpu_protocol::cuda::CUresult;

/// Helpers beside the calling thread.
const MOST_HELPERS: usize = 3;

/// How long a helper waits for work before it ends.
const IDLE: Duration = Duration::from_secs(1);

/// One stretch to copy.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// Address in the program's own memory.
    pub own: u64,
    /// Address in the channel's heap.
    pub shared: u64,
    /// Bytes.
    pub len: u64,
    /// From the program's memory to the heap, or back.
    pub inwards: bool,
}

impl Stretch {
    /// Copies it.
    ///
    /// # Safety
    /// The program's memory has `len` bytes at `own`, writable unless the copy goes inwards, that
    /// nobody else uses meanwhile.
    unsafe fn copy(&self, client: &Client) -> Result<(), CUresult> {
        let len = self.len as usize;
        let copied = if self.inwards {
            // SAFETY: the caller's contract.
            let from = unsafe { core::slice::from_raw_parts(self.own as *const u8, len) };
            client.channel().copy_in(self.shared, from)
        } else {
            // SAFETY: the caller's contract.
            let to = unsafe { core::slice::from_raw_parts_mut(self.own as *mut u8, len) };
            client.channel().copy_out(self.shared, to)
        };
        stats::copied_by_cpu(self.len);
        copied.map_err(|_| CUresult::UNKNOWN)
    }
}

/// A group of stretches whose owner waits for all of them.
#[derive(Debug)]
struct Group {
    left: AtomicUsize,
    failed: AtomicBool,
    owner: std::thread::Thread,
}

#[derive(Debug)]
struct Pool {
    jobs: VecDeque<(Stretch, Arc<Group>)>,
    helpers: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    jobs: VecDeque::new(),
    helpers: 0,
});
static WORK: Condvar = Condvar::new();

/// How many threads may copy at once, the caller included, of a process that may use `cpus` CPUs.
pub const fn width(cpus: usize) -> usize {
    match cpus / 2 {
        0 => 1,
        half if half > MOST_HELPERS => MOST_HELPERS + 1,
        half => half,
    }
}

/// Copies all stretches, with helpers if there are CPUs for them, and returns when all are done.
///
/// # Errors
/// `UNKNOWN` if a stretch lies outside of the heap.
///
/// # Safety
/// As [`Stretch::copy`], for each; stretches do not overlap.
pub unsafe fn copy_all(client: &'static Client, stretches: &[Stretch]) -> Result<(), CUresult> {
    let Some((first, rest)) = stretches.split_first() else {
        return Ok(());
    };
    if rest.is_empty() {
        // SAFETY: the caller's contract.
        return unsafe { first.copy(client) };
    }
    let group = Arc::new(Group {
        left: AtomicUsize::new(rest.len()),
        failed: AtomicBool::new(false),
        owner: std::thread::current(),
    });
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    pool.jobs
        .extend(rest.iter().map(|stretch| (*stretch, Arc::clone(&group))));
    let wanted = rest.len().min(client.copy_width().saturating_sub(1));
    while pool.helpers < wanted {
        if thread::spawn_quiet("vgpu-copy", move || help(client)).is_err() {
            // Without helpers the owner does it all.
            break;
        }
        pool.helpers += 1;
    }
    drop(pool);
    WORK.notify_all();
    // SAFETY: the caller's contract.
    let mut outcome = unsafe { first.copy(client) };
    // What no helper has taken yet, the owner does.
    while let Some((stretch, of)) = take() {
        finish(client, &stretch, &of);
    }
    while group.left.load(Ordering::Acquire) != 0 {
        std::thread::park_timeout(Duration::from_millis(1));
    }
    if group.failed.load(Ordering::Relaxed) {
        outcome = Err(CUresult::UNKNOWN);
    }
    outcome
}

fn take() -> Option<(Stretch, Arc<Group>)> {
    POOL.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .jobs
        .pop_front()
}

fn finish(client: &Client, stretch: &Stretch, group: &Group) {
    // SAFETY: the owner of the group waits until this is done, and its caller vouches for the memory.
    if unsafe { stretch.copy(client) }.is_err() {
        group.failed.store(true, Ordering::Relaxed);
    }
    // Pairs with the owner's load: what was copied is visible when nothing is left.
    if group.left.fetch_sub(1, Ordering::AcqRel) == 1 {
        group.owner.unpark();
    }
}

/// A helper's life.
fn help(client: &'static Client) {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Some((stretch, group)) = pool.jobs.pop_front() {
            drop(pool);
            finish(client, &stretch, &group);
            pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        let (back, waited) = WORK
            .wait_timeout(pool, IDLE)
            .unwrap_or_else(PoisonError::into_inner);
        pool = back;
        if waited.timed_out() && pool.jobs.is_empty() {
            pool.helpers -= 1;
            return;
        }
    }
}
