//! Models of a reply slot: an answer that is seen is whole, a sleeping client is woken, a failure is delivered once.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p vgpu-channel --release --test loom_reply`
#![cfg(loom)]
#![allow(missing_docs)]

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU32;
use loom::sync::{Arc, Notify};
use loom::thread;
use vgpu_channel::reply::{ReplyError, Slot, SlotMemory};

/// Bytes of payload that the models use.
const PAYLOAD: usize = 8;
/// Where the payload starts.
const PAYLOAD_AT: u64 = 64;

/// A slot whose payload loom watches for races.
struct Memory {
    words: Vec<AtomicU32>,
    payload: UnsafeCell<[u8; PAYLOAD]>,
    wake: Notify,
}

#[derive(Clone)]
struct Shared(Arc<Memory>);

impl SlotMemory for Shared {
    fn word(&self, offset: u64) -> Result<&AtomicU32, ReplyError> {
        Ok(&self.0.words[offset as usize / 4])
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), ReplyError> {
        assert_eq!(offset, PAYLOAD_AT);
        // SAFETY: loom checks that nobody else accesses the cell meanwhile.
        self.0.payload.with_mut(|payload| unsafe {
            (&mut (*payload))[..bytes.len()].copy_from_slice(bytes);
        });
        Ok(())
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), ReplyError> {
        assert_eq!(offset, PAYLOAD_AT);
        // SAFETY: loom checks that nobody writes the cell meanwhile.
        self.0.payload.with(|payload| unsafe {
            into.copy_from_slice(&(&(*payload))[..into.len()]);
        });
        Ok(())
    }
}

fn slot() -> (Slot<Shared>, Shared) {
    let memory = Shared(Arc::new(Memory {
        words: (0..5).map(|_| AtomicU32::new(0)).collect(),
        payload: UnsafeCell::new([0; PAYLOAD]),
        wake: Notify::new(),
    }));
    (Slot::new(memory.clone()), memory)
}

fn answer(slot: &Slot<Shared>, memory: &Shared, sequence: u32) {
    let bytes = [sequence as u8; PAYLOAD];
    if slot
        .complete(sequence, -(sequence as i32), &bytes[..sequence as usize])
        .unwrap()
    {
        memory.0.wake.notify();
    }
}

/// The answer with `sequence`, whole.
fn check(slot: &Slot<Shared>, sequence: u32) {
    let (status, len) = slot.outcome();
    assert_eq!(
        (status, len),
        (-(sequence as i32), sequence as usize),
        "status and length of another answer"
    );
    let mut bytes = [0; PAYLOAD];
    slot.payload(&mut bytes[..len]).unwrap();
    assert!(bytes[..len].iter().all(|byte| *byte == sequence as u8));
}

#[test]
fn an_answer_that_is_seen_is_whole() {
    loom::model(|| {
        let (client, memory) = slot();
        let server = {
            let slot = client.clone();
            thread::spawn(move || answer(&slot, &memory, 1))
        };
        if client.is_complete(1) {
            check(&client, 1);
        }
        server.join().unwrap();
        assert!(client.is_complete(1));
        check(&client, 1);
    });
}

/// The client asks, sleeps, takes the answer and asks again: the slot carries both answers, one after the other.
#[test]
fn a_sleeping_client_is_woken_for_each_answer() {
    loom::model(|| {
        let (client, memory) = slot();
        let asked = Arc::new(AtomicU32::new(1));
        let server = {
            let (slot, memory, asked) = (client.clone(), memory.clone(), Arc::clone(&asked));
            thread::spawn(move || {
                answer(&slot, &memory, 1);
                while asked.load(loom::sync::atomic::Ordering::Acquire) != 2 {
                    thread::yield_now();
                }
                answer(&slot, &memory, 2);
            })
        };
        for sequence in 1..=2 {
            asked.store(sequence, loom::sync::atomic::Ordering::Release);
            loop {
                // Before each sleep, as `Gate::wait` does: the server may take the flag for the answer before.
                client.arm();
                if client.is_complete(sequence) {
                    break;
                }
                // Nothing else ends this sleep: a wake-up that is lost is a deadlock, which loom reports.
                memory.0.wake.wait();
            }
            check(&client, sequence);
        }
        server.join().unwrap();
    });
}

#[test]
fn the_first_failure_is_delivered_once() {
    loom::model(|| {
        let (client, _) = slot();
        let servers: Vec<_> = [700, 719]
            .map(|error| {
                let slot = client.clone();
                thread::spawn(move || slot.latch(error))
            })
            .into();
        let early = client.take_latched();
        for server in servers {
            server.join().unwrap();
        }
        let late = client.take_latched();
        let delivered = [early, late].into_iter().filter(|error| *error != 0);
        assert!(delivered.clone().count() >= 1, "a failure was lost");
        assert!(delivered.clone().all(|error| error == 700 || error == 719));
        assert!(
            early == 0 || early != late,
            "failure {early} was delivered twice"
        );
        assert_eq!(client.take_latched(), 0);
    });
}
