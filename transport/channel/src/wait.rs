//! Waiting: a short bounded spin, then sleep without losing a wake-up.
//!
//! [`SpinBudget`] decides how long to spin, by the number of CPUs this process may use. [`Gate`] lets any number of
//! threads sleep on one event descriptor: one of them, the *leader*, blocks on it, the others wait on a condition
//! variable of this process, and each signal makes all of them look at their own condition again.
//!
//! # No wake-up is lost
//!
//! A sleeper (1) notes the gate's generation, (2) sets its flag in shared memory and fences, (3) checks its condition,
//! (4) sleeps unless the generation has moved. The peer makes the condition true, fences, and signals if it sees the
//! flag. If the sleeper's check (3) misses the condition, the two fences make the peer see the flag and signal after
//! (2). That signal is either still in the event descriptor, so that a leader's poll returns at once; or a leader
//! already took it, and then moved the generation after (1), so that (4) does not sleep.

use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex, Ordering, fence, lock, spin_loop};

/// Why a wait ended without what was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// The peer is gone; nothing will ever come any more.
    #[error("The peer is gone")]
    PeerGone,
    /// The time given is over.
    #[error("The wait took too long")]
    TimedOut,
}

/// How one sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The event descriptor was signalled; the signal has been taken.
    Signalled,
    /// The time given is over.
    TimedOut,
    /// The peer is gone.
    PeerGone,
}

/// Something that one thread can block on: an event descriptor and the link.
pub trait Sleeper {
    /// Blocks until signalled, takes the signal, and says what happened. `None` waits without limit. May return
    /// [`Woken::Signalled`] for no reason.
    fn sleep(&self, timeout: Option<Duration>) -> Woken;
}

#[derive(Debug, Default)]
struct GateState {
    leader: bool,
    generation: u64,
    gone: bool,
}

/// Where the threads of one process sleep together. See the module documentation.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<GateState>,
    moved: Condvar,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// A gate without sleepers.
    #[must_use]
    pub fn new() -> Gate {
        Gate {
            state: Mutex::new(GateState::default()),
            moved: Condvar::new(),
        }
    }

    /// Whether the peer's end was noticed.
    pub fn is_gone(&self) -> bool {
        lock(&self.state).gone
    }

    /// Ends all waits, now and later, with [`WaitError::PeerGone`]. A leader inside [`Sleeper::sleep`] notices when that
    /// returns.
    pub fn close(&self) {
        let mut state = lock(&self.state);
        state.gone = true;
        state.generation = state.generation.wrapping_add(1);
        drop(state);
        self.moved.notify_all();
    }

    /// Sleeps until `ready` says true. `arm` sets whatever flag makes the peer signal; it is called again before every
    /// sleep, because the peer clears it when it signals.
    ///
    /// # Errors
    ///
    /// [`WaitError::PeerGone`], [`WaitError::TimedOut`] after `timeout`. What is ready counts as ready all the same.
    pub fn wait(
        &self,
        sleeper: &impl Sleeper,
        mut arm: impl FnMut(),
        mut ready: impl FnMut() -> bool,
        timeout: Option<Duration>,
    ) -> Result<(), WaitError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let seen = lock(&self.state).generation;
            arm();
            fence(Ordering::SeqCst);
            if ready() {
                return Ok(());
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(WaitError::TimedOut);
            }
            let mut state = lock(&self.state);
            if state.gone {
                return if ready() {
                    Ok(())
                } else {
                    Err(WaitError::PeerGone)
                };
            }
            if state.generation != seen {
                continue;
            }
            if state.leader {
                self.follow(state, left);
                continue;
            }
            state.leader = true;
            drop(state);
            let woken = sleeper.sleep(left);
            let mut state = lock(&self.state);
            state.leader = false;
            state.generation = state.generation.wrapping_add(1);
            state.gone |= woken == Woken::PeerGone;
            drop(state);
            self.moved.notify_all();
        }
    }

    /// Waits until the leader moves the gate, or `left` is over.
    fn follow(&self, state: crate::sync::MutexGuard<'_, GateState>, left: Option<Duration>) {
        match left {
            None => drop(self.moved.wait(state)),
            Some(left) => drop(self.moved.wait_timeout(state, left)),
        }
    }
}

/// How long to spin before sleeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpinBudget {
    /// Checks without any pause between them.
    tight: u32,
    /// How long to go on with pauses.
    paused: Duration,
    /// How often to give the CPU away after that.
    yields: u32,
    /// Whether the CPU is given away between pauses, too.
    polite: bool,
}

/// A spin that nobody who needs the CPU notices: far less than a time slice.
const MOMENT: Duration = Duration::from_micros(50);

/// Checks between two looks at the clock.
const CHECKS_PER_LOOK: u32 = 32;

impl SpinBudget {
    /// Never spin.
    pub const NONE: SpinBudget = SpinBudget {
        tight: 1,
        paused: Duration::ZERO,
        yields: 0,
        polite: false,
    };

    /// Spin for `time` when this process may use more than two CPUs. On one or two the CPU is given away at once, since
    /// the peer probably needs this very one.
    #[must_use]
    pub fn new(time: Duration) -> SpinBudget {
        SpinBudget::for_cpus(usable_cpus(), time)
    }

    /// As [`SpinBudget::new`], for a known number of CPUs.
    #[must_use]
    pub const fn for_cpus(cpus: usize, time: Duration) -> SpinBudget {
        if cpus > 2 {
            SpinBudget {
                tight: 256,
                paused: time,
                yields: 0,
                polite: false,
            }
        } else {
            SpinBudget {
                tight: 16,
                paused: Duration::ZERO,
                yields: 8,
                polite: false,
            }
        }
    }

    /// For a peer on CPUs that this process has no share in ([`FEATURE_APART`](crate::control::FEATURE_APART)): spins for
    /// `time` even on two CPUs, giving them away between checks, since this process's other threads may need them. On one
    /// CPU only for a moment: whoever carries a signal to the peer needs that very one, and giving it away does not bring
    /// him on soon.
    #[must_use]
    pub fn apart(time: Duration) -> SpinBudget {
        SpinBudget::apart_for_cpus(usable_cpus(), time)
    }

    /// As [`SpinBudget::apart`], for a known number of CPUs.
    #[must_use]
    pub fn apart_for_cpus(cpus: usize, time: Duration) -> SpinBudget {
        SpinBudget {
            tight: 256,
            paused: if cpus > 1 { time } else { time.min(MOMENT) },
            yields: 0,
            polite: cpus <= 2,
        }
    }

    /// Checks `ready` for as long as the budget lasts; whether it became true.
    #[inline]
    pub fn spin(&self, mut ready: impl FnMut() -> bool) -> bool {
        for _ in 0..self.tight {
            if ready() {
                return true;
            }
            spin_loop();
        }
        self.spin_on(ready)
    }

    #[cold]
    fn spin_on(&self, mut ready: impl FnMut() -> bool) -> bool {
        if !self.paused.is_zero() {
            let start = Instant::now();
            while start.elapsed() < self.paused {
                for _ in 0..CHECKS_PER_LOOK {
                    if ready() {
                        return true;
                    }
                    spin_loop();
                }
                if self.polite {
                    std::thread::yield_now();
                }
            }
        }
        for _ in 0..self.yields {
            std::thread::yield_now();
            if ready() {
                return true;
            }
        }
        false
    }
}

/// How long either side spins for the other where a wake-up goes through a virtual machine's monitor, and without interrupts
/// through its agent's next look: about what that costs, so that no wait costs more than twice the shorter way.
pub const APART_SPIN: Duration = Duration::from_micros(200);

impl Default for SpinBudget {
    /// 20 µs: a few times what a wake-up costs.
    fn default() -> Self {
        SpinBudget::new(Duration::from_micros(20))
    }
}

/// Longest wait that an [`AdaptiveSpin`] spins through: beyond it a wake-up of some ten microseconds is lost in the wait.
const LONGEST_SPIN: Duration = Duration::from_micros(400);

/// A spin that learns from the waits before: one that ended in a sleep although it took less than 400 µs in all makes the
/// next ones spin for twice as long as it took, a longer one takes the spin back to its beginning. Work that comes every
/// hundred microseconds is then met awake, and work that comes every millisecond costs no more than it did.
#[derive(Clone, Copy, Debug)]
pub struct AdaptiveSpin {
    least: SpinBudget,
    now: SpinBudget,
}

impl AdaptiveSpin {
    /// Starts with, and never spins shorter than, `least`.
    #[must_use]
    pub const fn new(least: SpinBudget) -> AdaptiveSpin {
        AdaptiveSpin { least, now: least }
    }

    /// How long to spin in the next wait.
    #[must_use]
    pub const fn budget(&self) -> SpinBudget {
        self.now
    }

    /// Notes that a wait outlived its spin and slept for `slept`.
    pub fn outlived(&mut self, slept: Duration) {
        let waited = self.now.paused.saturating_add(slept);
        // Where the CPU is given away at once it stays so.
        if self.least.paused.is_zero() {
            return;
        }
        self.now.paused = if waited > LONGEST_SPIN {
            self.least.paused
        } else {
            waited.saturating_mul(2).min(LONGEST_SPIN)
        };
    }
}

/// CPUs that this process may use: the more of what its main thread and the calling thread may; 1 when the system does
/// not say.
#[must_use]
pub fn usable_cpus() -> usize {
    #[cfg(any(loom, miri))]
    return 1;
    #[cfg(not(any(loom, miri)))]
    [None, Some(rustix::process::getpid())]
        .into_iter()
        .filter_map(|thread| rustix::thread::sched_getaffinity(thread).ok())
        .fold(1, |most, set| most.max(set.count() as usize))
}

/// Sleep times for a wait that nobody wakes: an eighth of the time already waited, between 1 µs and 50 µs.
#[must_use]
pub fn unwoken_sleep(waited: Duration) -> Duration {
    (waited / 8).clamp(Duration::from_micros(1), Duration::from_micros(50))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const fn micros(time: u64) -> Duration {
        Duration::from_micros(time)
    }

    #[test]
    fn a_spin_grows_to_twice_a_short_wait_and_falls_back_after_a_long_one() {
        let mut spin = AdaptiveSpin::new(SpinBudget::for_cpus(8, micros(20)));
        spin.outlived(micros(50));
        assert_eq!(spin.budget().paused, micros(140));
        spin.outlived(micros(100));
        assert_eq!(spin.budget().paused, LONGEST_SPIN);
        spin.outlived(micros(1));
        assert_eq!(spin.budget().paused, micros(20));
    }

    #[test]
    fn without_a_spare_cpu_a_spin_never_grows() {
        let least = SpinBudget::for_cpus(2, micros(20));
        let mut spin = AdaptiveSpin::new(least);
        spin.outlived(micros(1));
        assert_eq!(spin.budget(), least);
    }

    #[test]
    fn a_peer_apart_is_looked_for_even_on_two_cpus() {
        for cpus in [2, 64] {
            let start = Instant::now();
            let later = || start.elapsed() > Duration::from_millis(5);
            assert!(SpinBudget::apart_for_cpus(cpus, Duration::from_secs(60)).spin(later));
        }
        assert!(!SpinBudget::apart_for_cpus(2, Duration::from_millis(1)).spin(|| false));
        assert!(!SpinBudget::apart_for_cpus(1, Duration::from_secs(60)).spin(|| false));
        assert!(!SpinBudget::for_cpus(1, Duration::from_secs(60)).spin(|| false));
    }
}
