//! Models of the gate: threads that share one event descriptor never miss a wake-up.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p vgpu-channel --release --test loom_wait`
#![cfg(loom)]
#![allow(missing_docs)]

use std::time::Duration;

use loom::sync::atomic::{AtomicU32, Ordering, fence};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use vgpu_channel::wait::{Gate, Sleeper, WaitError, Woken};

/// An event descriptor, and the peer's end.
struct Event {
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Event {
    fn new() -> Event {
        Event {
            state: Mutex::new((false, false)),
            changed: Condvar::new(),
        }
    }

    fn signal(&self) {
        self.state.lock().unwrap().0 = true;
        self.changed.notify_all();
    }

    fn hang_up(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

impl Sleeper for Event {
    fn sleep(&self, _timeout: Option<Duration>) -> Woken {
        let mut state = self.state.lock().unwrap();
        loop {
            if state.1 {
                return Woken::PeerGone;
            }
            if state.0 {
                state.0 = false;
                return Woken::Signalled;
            }
            state = self.changed.wait(state).unwrap();
        }
    }
}

/// What one sleeper waits for: a value that the server stores, and the flag that it wants to be woken.
struct Slot {
    value: AtomicU32,
    waiting: AtomicU32,
}

impl Slot {
    fn new() -> Slot {
        Slot {
            value: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
        }
    }
}

struct World {
    gate: Gate,
    event: Event,
    slots: [Slot; 2],
}

fn world() -> Arc<World> {
    Arc::new(World {
        gate: Gate::new(),
        event: Event::new(),
        slots: [Slot::new(), Slot::new()],
    })
}

fn wait(world: &World, index: usize) -> Result<(), WaitError> {
    let slot = &world.slots[index];
    world.gate.wait(
        &world.event,
        || slot.waiting.store(1, Ordering::Relaxed),
        || slot.value.load(Ordering::Acquire) == 1,
        None,
    )
}

fn complete(world: &World, index: usize) {
    let slot = &world.slots[index];
    slot.value.store(1, Ordering::Release);
    fence(Ordering::SeqCst);
    if slot.waiting.load(Ordering::Relaxed) != 0 && slot.waiting.swap(0, Ordering::Relaxed) != 0 {
        world.event.signal();
    }
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(2);
    builder.check(check);
}

#[test]
fn one_sleeper_is_woken() {
    model(|| {
        let world = world();
        let other = Arc::clone(&world);
        let server = thread::spawn(move || complete(&other, 0));
        assert_eq!(wait(&world, 0), Ok(()));
        server.join().unwrap();
    });
}

#[test]
fn leader_and_follower_are_both_woken() {
    model(|| {
        let world = world();
        let sleepers: Vec<_> = (0..2)
            .map(|index| {
                let world = Arc::clone(&world);
                thread::spawn(move || assert_eq!(wait(&world, index), Ok(())))
            })
            .collect();
        complete(&world, 0);
        complete(&world, 1);
        for sleeper in sleepers {
            sleeper.join().unwrap();
        }
    });
}

#[test]
fn the_peers_end_wakes_everyone() {
    model(|| {
        let world = world();
        let other = Arc::clone(&world);
        let sleeper = thread::spawn(move || wait(&other, 1));
        let other = Arc::clone(&world);
        let peer = thread::spawn(move || {
            complete(&other, 0);
            other.event.hang_up();
        });
        assert_eq!(
            wait(&world, 0),
            Ok(()),
            "what arrived before the end counts"
        );
        peer.join().unwrap();
        assert_eq!(sleeper.join().unwrap(), Err(WaitError::PeerGone));
    });
}
