//! Models of the callback ring: a request that is seen is whole, entries are used again only when they were acknowledged,
//! and neither a sleeping dispatcher nor a server that waits is left asleep.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p vgpu-channel --release --test loom_callback`
#![cfg(loom)]
#![allow(missing_docs)]

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, AtomicU64};
use loom::sync::{Arc, Notify};
use loom::thread;
use vgpu_channel::callback::{Callback, CallbackMemory, Receiver, Sender};

/// Bytes of an entry behind its first word.
const REST: usize = 56;

/// Ring memory whose payload loom watches for races.
struct Memory {
    publish: Vec<AtomicU64>,
    acks: Vec<AtomicU64>,
    rest: Vec<UnsafeCell<[u8; REST]>>,
    sleeping: AtomicU32,
    ack_wanted: AtomicU32,
    /// Wakes the dispatcher.
    wake: Notify,
    /// Wakes the server.
    doorbell: Notify,
}

#[derive(Clone)]
struct Shared(Arc<Memory>);

impl CallbackMemory for Shared {
    fn entries(&self) -> u64 {
        self.0.publish.len() as u64
    }

    fn publish(&self, entry: u64) -> Option<&AtomicU64> {
        self.0.publish.get(entry as usize)
    }

    fn ack(&self, entry: u64) -> Option<&AtomicU64> {
        self.0.acks.get(entry as usize)
    }

    fn dispatcher_sleeping(&self) -> Option<&AtomicU32> {
        Some(&self.0.sleeping)
    }

    fn ack_wanted(&self) -> Option<&AtomicU32> {
        Some(&self.0.ack_wanted)
    }

    fn write(&self, entry: u64, bytes: &[u8]) -> Option<()> {
        // SAFETY: loom checks that nobody else accesses the cell meanwhile.
        self.0.rest[entry as usize].with_mut(|rest| unsafe {
            (*rest).copy_from_slice(bytes);
        });
        Some(())
    }

    fn read(&self, entry: u64, into: &mut [u8]) -> Option<()> {
        // SAFETY: loom checks that nobody writes the cell meanwhile.
        self.0.rest[entry as usize].with(|rest| unsafe {
            into.copy_from_slice(&*rest);
        });
        Some(())
    }
}

fn ring(entries: usize) -> (Sender<Shared>, Receiver<Shared>, Shared) {
    let memory = Shared(Arc::new(Memory {
        publish: (0..entries).map(|_| AtomicU64::new(0)).collect(),
        acks: (0..entries).map(|_| AtomicU64::new(0)).collect(),
        rest: (0..entries).map(|_| UnsafeCell::new([0; REST])).collect(),
        sleeping: AtomicU32::new(0),
        ack_wanted: AtomicU32::new(0),
        wake: Notify::new(),
        doorbell: Notify::new(),
    }));
    (
        Sender::over(memory.clone()),
        Receiver::over(memory.clone()),
        memory,
    )
}

fn request(number: u64) -> Callback {
    Callback {
        function: number,
        user: number,
        kind: number as u32,
        status: number as u32,
        id: number,
        args: [number; 3],
    }
}

fn push(sender: &Sender<Shared>, memory: &Shared, number: u64) -> u64 {
    loop {
        if let Some((position, wake)) = sender.try_push(&request(number)) {
            if wake {
                memory.0.wake.notify();
            }
            return position;
        }
        thread::yield_now();
    }
}

fn acknowledge(receiver: &Receiver<Shared>, memory: &Shared, position: u64) {
    if receiver.ack(position) {
        memory.0.doorbell.notify();
    }
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(check);
}

#[test]
fn a_request_that_is_seen_is_whole_and_comes_in_its_turn() {
    model(|| {
        let (sender, receiver, memory) = ring(2);
        let server = thread::spawn(move || {
            push(&sender, &memory, 1);
            push(&sender, &memory, 2);
        });
        for number in 1..=2 {
            loop {
                if let Some((position, callback)) = receiver.pop() {
                    assert_eq!((position, callback), (number - 1, request(number)));
                    break;
                }
                thread::yield_now();
            }
        }
        assert!(receiver.pop().is_none());
        server.join().unwrap();
    });
}

/// With one entry each request waits for the acknowledgement of the one before; an entry that were written earlier would
/// be a race with the dispatcher's reading.
#[test]
fn an_entry_is_used_again_only_when_it_was_acknowledged() {
    model(|| {
        let (sender, receiver, memory) = ring(1);
        let server = {
            let memory = memory.clone();
            thread::spawn(move || {
                for number in 1..=2 {
                    let position = push(&sender, &memory, number);
                    assert_eq!(position, number - 1);
                }
            })
        };
        for number in 1..=2 {
            let (position, callback) = loop {
                if let Some(popped) = receiver.pop() {
                    break popped;
                }
                thread::yield_now();
            };
            assert_eq!(callback, request(number));
            acknowledge(&receiver, &memory, position);
        }
        server.join().unwrap();
    });
}

#[test]
fn two_threads_of_the_server_do_not_disturb_each_other() {
    model(|| {
        let (sender, receiver, memory) = ring(2);
        let sender = Arc::new(sender);
        let other = {
            let (sender, memory) = (Arc::clone(&sender), memory.clone());
            thread::spawn(move || push(&sender, &memory, 1))
        };
        let mine = push(&sender, &memory, 2);
        assert_ne!(other.join().unwrap(), mine);
        let mut seen: Vec<u64> = (0..2)
            .map(|_| receiver.pop().expect("both are published").1.id)
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
    });
}

#[test]
fn a_sleeping_dispatcher_is_always_woken() {
    model(|| {
        let (sender, receiver, memory) = ring(2);
        let server = {
            let memory = memory.clone();
            thread::spawn(move || {
                push(&sender, &memory, 1);
                push(&sender, &memory, 2);
            })
        };
        for number in 1..=2 {
            loop {
                // Before each sleep: the server takes the flag when it signals.
                receiver.arm();
                if receiver.ready() {
                    break;
                }
                // Nothing else ends this sleep: a wake-up that is lost is a deadlock, which loom reports.
                memory.0.wake.wait();
            }
            receiver.disarm();
            assert_eq!(receiver.pop().map(|(_, seen)| seen), Some(request(number)));
        }
        server.join().unwrap();
    });
}

#[test]
fn a_server_that_waits_hears_of_the_acknowledgement() {
    model(|| {
        let (sender, receiver, memory) = ring(1);
        let client = {
            let memory = memory.clone();
            thread::spawn(move || {
                loop {
                    if let Some((position, _)) = receiver.pop() {
                        acknowledge(&receiver, &memory, position);
                        return;
                    }
                    thread::yield_now();
                }
            })
        };
        let position = push(&sender, &memory, 1);
        loop {
            sender.want_ack();
            if sender.acknowledged(position) {
                break;
            }
            memory.0.doorbell.wait();
        }
        client.join().unwrap();
    });
}
