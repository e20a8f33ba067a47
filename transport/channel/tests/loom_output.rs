//! Models of the output ring: text arrives whole and in order, room is used again only when it was read, and a dispatcher
//! that sleeps for it is woken.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p vgpu-channel --release --test loom_output`
#![cfg(loom)]
#![allow(missing_docs)]

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, AtomicU64};
use loom::sync::{Arc, Notify};
use loom::thread;
use vgpu_channel::callback::{self, CallbackMemory};
use vgpu_channel::output::{OutputMemory, Receiver, Sender};

/// Ring memory of which loom watches each byte for races.
struct Memory {
    bytes: Vec<UnsafeCell<u8>>,
    head: AtomicU64,
    tail: AtomicU64,
    sleeping: AtomicU32,
    wake: Notify,
}

#[derive(Clone)]
struct Shared(Arc<Memory>);

impl OutputMemory for Shared {
    fn size(&self) -> usize {
        self.0.bytes.len()
    }

    fn head(&self) -> Option<&AtomicU64> {
        Some(&self.0.head)
    }

    fn tail(&self) -> Option<&AtomicU64> {
        Some(&self.0.tail)
    }

    fn write(&self, offset: usize, bytes: &[u8]) -> Option<()> {
        for (cell, byte) in self.0.bytes.get(offset..)?.iter().zip(bytes) {
            // SAFETY: loom checks that nobody else accesses the cell meanwhile.
            cell.with_mut(|cell| unsafe { *cell = *byte });
        }
        Some(())
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> Option<()> {
        for (cell, byte) in self.0.bytes.get(offset..)?.iter().zip(into) {
            // SAFETY: loom checks that nobody writes the cell meanwhile.
            cell.with(|cell| unsafe { *byte = *cell });
        }
        Some(())
    }
}

/// A callback ring without requests: its flag is what text wakes the dispatcher by.
impl CallbackMemory for Shared {
    fn entries(&self) -> u64 {
        1
    }

    fn publish(&self, _: u64) -> Option<&AtomicU64> {
        None
    }

    fn ack(&self, _: u64) -> Option<&AtomicU64> {
        None
    }

    fn dispatcher_sleeping(&self) -> Option<&AtomicU32> {
        Some(&self.0.sleeping)
    }

    fn ack_wanted(&self) -> Option<&AtomicU32> {
        None
    }

    fn write(&self, _: u64, _: &[u8]) -> Option<()> {
        None
    }

    fn read(&self, _: u64, _: &mut [u8]) -> Option<()> {
        None
    }
}

fn ring(bytes: usize) -> (Sender<Shared>, Receiver<Shared>, Shared) {
    let memory = Shared(Arc::new(Memory {
        bytes: (0..bytes).map(|_| UnsafeCell::new(0)).collect(),
        head: AtomicU64::new(0),
        tail: AtomicU64::new(0),
        sleeping: AtomicU32::new(0),
        wake: Notify::new(),
    }));
    (
        Sender::over(memory.clone()),
        Receiver::over(memory.clone()),
        memory,
    )
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(check);
}

/// More text than the ring holds, written as room comes: it wraps, and each byte is used twice.
#[test]
fn text_arrives_whole_and_in_order() {
    const TEXT: &[u8] = b"abc";
    model(|| {
        let (sender, receiver, _) = ring(2);
        let server = thread::spawn(move || {
            let mut rest = TEXT;
            while !rest.is_empty() {
                match sender.write(rest) {
                    0 => thread::yield_now(),
                    taken => rest = &rest[taken..],
                }
            }
        });
        let mut seen = Vec::new();
        while seen.len() < TEXT.len() {
            let mut into = [0; 2];
            match receiver.read(&mut into) {
                0 => thread::yield_now(),
                len => seen.extend_from_slice(&into[..len]),
            }
        }
        assert_eq!(seen, TEXT);
        assert!(!receiver.ready());
        server.join().unwrap();
    });
}

#[test]
fn what_there_is_no_room_for_is_counted() {
    model(|| {
        let (sender, receiver, _) = ring(2);
        let sender = Arc::new(sender);
        let server = {
            let sender = Arc::clone(&sender);
            thread::spawn(move || {
                sender.write_or_drop(b"ab");
                sender.write_or_drop(b"cd");
            })
        };
        let mut into = [0; 4];
        let mut len = receiver.read(&mut into);
        server.join().unwrap();
        // What was taken is whole, from the front, and the rest is counted.
        loop {
            let more = receiver.read(&mut into[len..]);
            if more == 0 {
                break;
            }
            len += more;
        }
        assert_eq!(len as u64 + sender.dropped(), 4);
        assert_eq!(&into[..len], &b"abcd"[..len]);
    });
}

#[test]
fn a_dispatcher_that_sleeps_is_woken_for_text() {
    model(|| {
        let (sender, receiver, memory) = ring(2);
        let server = {
            let memory = memory.clone();
            let callbacks = callback::Sender::over(memory.clone());
            thread::spawn(move || {
                for byte in [b"a", b"b"] {
                    assert_eq!(sender.write(byte), 1);
                    if callbacks.must_wake() {
                        memory.0.wake.notify();
                    }
                }
            })
        };
        let callbacks = callback::Receiver::over(memory.clone());
        let mut seen = Vec::new();
        while seen.len() < 2 {
            callbacks.arm();
            if receiver.ready() {
                callbacks.disarm();
                let mut into = [0; 2];
                let len = receiver.read(&mut into);
                seen.extend_from_slice(&into[..len]);
            } else {
                // Nothing else ends this sleep: a wake-up that is lost is a deadlock, which loom reports.
                memory.0.wake.wait();
            }
        }
        assert_eq!(seen, b"ab");
        server.join().unwrap();
    });
}
