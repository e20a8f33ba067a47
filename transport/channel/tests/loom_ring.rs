//! Models of the command ring: every interleaving and every allowed reordering of small programs.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p vgpu-channel --release --test loom_ring`
#![cfg(loom)]
#![allow(missing_docs)]

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use loom::sync::{Arc, Notify};
use loom::thread;
use vgpu_channel::ring::{
    Consumer, Producer, RecordBuf, RecordHeader, ReserveError, RingMemory, SLOT_BYTES,
};

const WORD: usize = 8;
const REST: usize = SLOT_BYTES - WORD;

/// Ring memory whose payload loom watches for races. The first word of each slot is an atomic, as in real memory it is
/// both publish word and payload.
struct Memory {
    words: Vec<AtomicU64>,
    rest: Vec<UnsafeCell<[u8; REST]>>,
    tail: AtomicU64,
    sleeping: AtomicU32,
    bell: Notify,
}

#[derive(Clone)]
struct Shared(Arc<Memory>);

impl Shared {
    fn new(slots: usize) -> Shared {
        Shared(Arc::new(Memory {
            words: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            rest: (0..slots).map(|_| UnsafeCell::new([0; REST])).collect(),
            tail: AtomicU64::new(0),
            sleeping: AtomicU32::new(0),
            bell: Notify::new(),
        }))
    }

    /// Blocks until the bell was rung, and takes that.
    fn wait_for_bell(&self) {
        self.0.bell.wait();
    }

    /// The pieces of `offset .. offset + len`: slot, offset in the slot, offset in the buffer, length.
    fn pieces(offset: usize, len: usize) -> Vec<(usize, usize, usize, usize)> {
        let (mut at, mut done, mut pieces) = (offset, 0, Vec::new());
        while done < len {
            let (slot, within) = (at / SLOT_BYTES, at % SLOT_BYTES);
            let limit = if within < WORD { WORD } else { SLOT_BYTES };
            let piece = (limit - within).min(len - done);
            pieces.push((slot, within, done, piece));
            at += piece;
            done += piece;
        }
        pieces
    }
}

impl RingMemory for Shared {
    fn slots(&self) -> u64 {
        self.0.words.len() as u64
    }
    fn tail(&self) -> &AtomicU64 {
        &self.0.tail
    }
    fn sleeping(&self) -> &AtomicU32 {
        &self.0.sleeping
    }
    fn publish_word(&self, slot: u64) -> &AtomicU64 {
        &self.0.words[slot as usize]
    }
    fn wake(&self) {
        self.0.bell.notify();
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        for (slot, within, done, len) in Self::pieces(offset, bytes.len()) {
            let piece = &bytes[done..done + len];
            if within < WORD {
                let mut word = self.0.words[slot].load(Ordering::Relaxed).to_le_bytes();
                word[within..within + len].copy_from_slice(piece);
                self.0.words[slot].store(u64::from_le_bytes(word), Ordering::Relaxed);
            } else {
                // SAFETY: loom checks that nobody else accesses the cell meanwhile.
                self.0.rest[slot].with_mut(|rest| unsafe {
                    (&mut (*rest))[within - WORD..within - WORD + len].copy_from_slice(piece);
                });
            }
        }
    }
    fn read(&self, offset: usize, into: &mut [u8]) {
        for (slot, within, done, len) in Self::pieces(offset, into.len()) {
            let piece = &mut into[done..done + len];
            if within < WORD {
                let word = self.0.words[slot].load(Ordering::Relaxed).to_le_bytes();
                piece.copy_from_slice(&word[within..within + len]);
            } else {
                // SAFETY: loom checks that nobody writes the cell meanwhile.
                self.0.rest[slot].with(|rest| unsafe {
                    piece.copy_from_slice(&(&(*rest))[within - WORD..within - WORD + len]);
                });
            }
        }
    }
}

fn post(producer: &Producer<Shared>, thread: u32, payload: &[u8]) {
    let mut reserved = loop {
        match producer.try_reserve(payload.len()) {
            Ok(reserved) => break reserved,
            Err(ReserveError::Full) => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    };
    assert!(reserved.write(0, payload));
    reserved.publish(&RecordHeader {
        call: 1,
        thread,
        ..Default::default()
    });
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(2);
    builder.max_branches = 10_000;
    builder.check(check);
}

/// Two producers share a ring of a single slot and give up when it stays full. Whatever they did send arrives, whole and
/// once.
#[test]
fn records_of_two_producers_arrive_whole_and_once() {
    model(|| {
        let memory = Shared::new(1);
        let producer = Arc::new(Producer::new(memory.clone()));
        let mut consumer = Consumer::new(memory);
        let threads: Vec<_> = (0..2u32)
            .map(|id| {
                let producer = Arc::clone(&producer);
                thread::spawn(move || {
                    let Ok(mut reserved) = producer.try_reserve(2) else {
                        return false;
                    };
                    assert!(reserved.write(0, &[id as u8, 9]));
                    reserved.publish(&RecordHeader {
                        call: 1,
                        thread: id,
                        ..Default::default()
                    });
                    true
                })
            })
            .collect();
        let mut seen = [false; 2];
        let mut buf = RecordBuf::new();
        let mut take = |seen: &mut [bool; 2]| {
            let Some(record) = consumer.pop(&mut buf).unwrap() else {
                return false;
            };
            let id = record.header.thread as usize;
            assert_eq!(record.payload, [id as u8, 9]);
            assert!(!seen[id]);
            seen[id] = true;
            true
        };
        take(&mut seen);
        take(&mut seen);
        let mut sent = [false; 2];
        for (id, thread) in threads.into_iter().enumerate() {
            sent[id] = thread.join().unwrap();
        }
        while take(&mut seen) {}
        assert_eq!(seen, sent);
        assert!(sent[0] || sent[1]);
    });
}

/// Two producers, each with a record, and a consumer that waits for both.
#[test]
fn two_producers_do_not_disturb_each_other() {
    model(|| {
        let memory = Shared::new(4);
        let producer = Arc::new(Producer::new(memory.clone()));
        let mut consumer = Consumer::new(memory);
        let threads: Vec<_> = (0..2u32)
            .map(|id| {
                let producer = Arc::clone(&producer);
                thread::spawn(move || post(&producer, id, &[id as u8; 30]))
            })
            .collect();
        let mut seen = [false; 2];
        let mut buf = RecordBuf::new();
        while seen != [true; 2] {
            match consumer.pop(&mut buf).unwrap() {
                Some(record) => {
                    let id = record.header.thread as usize;
                    assert_eq!(record.payload, [id as u8; 30]);
                    assert!(!seen[id]);
                    seen[id] = true;
                }
                None => thread::yield_now(),
            }
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// Records of two slots wrap around, and a continuation slot holds exactly what a later record would publish there.
#[test]
fn stale_payload_never_looks_published() {
    model(|| {
        let memory = Shared::new(4);
        let producer = Producer::new(memory.clone());
        let mut consumer = Consumer::new(memory);
        let thread = thread::spawn(move || {
            let mut first = [0xAA; 40];
            first[24..32].copy_from_slice(&6u64.to_le_bytes());
            post(&producer, 0, &first);
            for i in 1..4u32 {
                post(&producer, i, b"mid");
            }
            // Position 5, in the slot that held the number 6, and on into slot 2.
            post(&producer, 4, &[0xBB; 40]);
        });
        let mut buf = RecordBuf::new();
        for expected in 0..5u32 {
            let (sender, payload) = loop {
                match consumer.pop(&mut buf).unwrap() {
                    Some(record) => break (record.header.thread, record.payload.to_vec()),
                    None => thread::yield_now(),
                }
            };
            assert_eq!(sender, expected);
            match expected {
                0 => assert_eq!(payload[32..], [0xAA; 8]),
                4 => assert_eq!(payload, [0xBB; 40]),
                _ => assert_eq!(payload, b"mid"),
            }
        }
        thread.join().unwrap();
    });
}

/// A consumer that sleeps whenever it finds nothing still gets every record: a lost wake-up would be a deadlock.
#[test]
fn a_sleeping_consumer_is_always_woken() {
    model(|| {
        let memory = Shared::new(4);
        let producer = Arc::new(Producer::new(memory.clone()));
        let mut consumer = Consumer::new(memory.clone());
        let threads: Vec<_> = (0..2u32)
            .map(|id| {
                let producer = Arc::clone(&producer);
                thread::spawn(move || post(&producer, id, &[id as u8]))
            })
            .collect();
        let mut buf = RecordBuf::new();
        let mut seen = 0;
        while seen < 2 {
            match consumer.pop(&mut buf).unwrap() {
                Some(record) => {
                    assert_eq!(record.payload, [record.header.thread as u8]);
                    seen += 1;
                }
                None => {
                    if consumer.prepare_sleep() {
                        memory.wait_for_bell();
                        consumer.finish_sleep();
                    }
                }
            }
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// An abandoned reservation in front of a record wakes the consumer too.
#[test]
fn an_abandoned_reservation_does_not_hide_what_follows() {
    model(|| {
        let memory = Shared::new(4);
        let producer = Arc::new(Producer::new(memory.clone()));
        let mut consumer = Consumer::new(memory.clone());
        let abandoned = producer.try_reserve(0).unwrap();
        let other = Arc::clone(&producer);
        let thread = thread::spawn(move || post(&other, 1, b"real"));
        let sleeper = thread::spawn(move || {
            let mut buf = RecordBuf::new();
            loop {
                if let Some(record) = consumer.pop(&mut buf).unwrap() {
                    assert_eq!(record.payload, b"real");
                    return;
                }
                if consumer.prepare_sleep() {
                    memory.wait_for_bell();
                    consumer.finish_sleep();
                }
            }
        });
        drop(abandoned);
        thread.join().unwrap();
        sleeper.join().unwrap();
    });
}
