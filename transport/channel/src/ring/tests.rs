//! Tests of the ring within one process: order, wrap, stale payload, hostile headers and tails.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::shm::View;

/// A ring of any size in private memory.
struct Memory {
    slots: View,
    words: View,
    wakes: AtomicU64,
}

impl Memory {
    fn new(slots: usize) -> Memory {
        Memory {
            slots: View::private(slots * SLOT_BYTES),
            words: View::private(256),
            wakes: AtomicU64::new(0),
        }
    }

    /// A second handle on the same memory.
    fn other(&self) -> Memory {
        Memory {
            slots: self.slots.clone(),
            words: self.words.clone(),
            wakes: AtomicU64::new(0),
        }
    }
}

impl RingMemory for Memory {
    fn slots(&self) -> u64 {
        (self.slots.len() / SLOT_BYTES) as u64
    }
    fn tail(&self) -> &AtomicU64 {
        self.words.u64(0).unwrap()
    }
    fn sleeping(&self) -> &AtomicU32 {
        self.words.u32(128).unwrap()
    }
    fn publish_word(&self, slot: u64) -> &AtomicU64 {
        self.slots.u64(slot as usize * SLOT_BYTES).unwrap()
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        self.slots.write(offset, bytes).unwrap();
    }
    fn wake(&self) {
        self.wakes.fetch_add(1, Ordering::Relaxed);
    }
    fn read(&self, offset: usize, into: &mut [u8]) {
        self.slots.read(offset, into).unwrap();
    }
}

fn ring(slots: usize) -> (Producer<Memory>, Consumer<Memory>) {
    let memory = Memory::new(slots);
    (Producer::new(memory.other()), Consumer::new(memory))
}

fn header(call: u16) -> RecordHeader {
    RecordHeader {
        call,
        flags: 0x8001,
        thread: 7,
        reply_sequence: u32::MAX,
        reply_address: 0x4000_0020_0040,
        scope: u64::MAX - 3,
    }
}

fn post(producer: &Producer<Memory>, call: u16, payload: &[u8]) -> Result<u64, ReserveError> {
    let mut reserved = producer.try_reserve(payload.len())?;
    let (a, b) = payload.split_at(payload.len() / 3);
    assert!(reserved.write(0, a) && reserved.write(a.len(), b));
    let position = reserved.position();
    reserved.publish(&header(call));
    Ok(position)
}

#[test]
fn a_record_arrives_as_it_was_sent() {
    let (producer, mut consumer) = ring(2048);
    let mut buf = RecordBuf::new();
    assert_eq!(consumer.pop(&mut buf), Ok(None));
    for len in [0, 1, 23, 24, 25, 88, 89, 4000, MAX_PAYLOAD] {
        let payload: Vec<u8> = (0..len).map(|i| (i * 7 + len) as u8).collect();
        let position = post(&producer, 9, &payload).unwrap();
        let record = consumer.pop(&mut buf).unwrap().unwrap();
        assert_eq!(
            record,
            Record {
                position,
                header: header(9),
                payload: &payload
            }
        );
    }
}

#[test]
fn what_cannot_fit_is_refused() {
    let (producer, _consumer) = ring(8);
    assert_eq!(
        producer.try_reserve(MAX_PAYLOAD + 1).unwrap_err(),
        ReserveError::TooLong(MAX_PAYLOAD + 1)
    );
    assert_eq!(
        producer.try_reserve(8 * 64).unwrap_err(),
        ReserveError::TooLong(512)
    );
    let mut all = producer.try_reserve(8 * 64 - HEADER_BYTES).unwrap();
    assert!(!all.write(8 * 64 - HEADER_BYTES, &[1]));
    assert!(!all.write(usize::MAX, &[1]));
    assert_eq!(producer.try_reserve(0).unwrap_err(), ReserveError::Full);
}

#[test]
fn an_abandoned_reservation_is_skipped() {
    let (producer, mut consumer) = ring(64);
    let mut buf = RecordBuf::new();
    drop(producer.try_reserve(200).unwrap());
    let held = producer.try_reserve(0).unwrap();
    post(&producer, 3, b"after").unwrap();
    assert_eq!(
        consumer.pop(&mut buf),
        Ok(None),
        "an unpublished record holds up what follows"
    );
    drop(held);
    assert_eq!(consumer.pop(&mut buf).unwrap().unwrap().payload, b"after");
}

#[test]
fn many_no_operations_do_not_hold_the_consumer() {
    let (producer, mut consumer) = ring(256);
    let mut buf = RecordBuf::new();
    for _ in 0..NOP_BURST {
        drop(producer.try_reserve(0).unwrap());
    }
    post(&producer, 1, b"x").unwrap();
    assert_eq!(consumer.pop(&mut buf), Ok(None));
    assert!(
        !consumer.prepare_sleep(),
        "there is a record to come back for"
    );
    assert!(consumer.pop(&mut buf).unwrap().is_some());
}

#[test]
fn payload_that_looks_published_is_not() {
    let (producer, mut consumer) = ring(4);
    let mut buf = RecordBuf::new();
    let mut payload = [0; 40];
    // The continuation slot 1 holds what a record at position 5 would publish.
    payload[24..32].copy_from_slice(&6u64.to_le_bytes());
    post(&producer, 1, &payload).unwrap();
    consumer.pop(&mut buf).unwrap().unwrap();
    for _ in 2..5 {
        post(&producer, 2, b"").unwrap();
        consumer.pop(&mut buf).unwrap().unwrap();
    }
    assert_eq!(consumer.position(), 5);
    assert_eq!(consumer.pop(&mut buf), Ok(None));
    assert_eq!(post(&producer, 3, b"real"), Ok(5));
    assert_eq!(consumer.pop(&mut buf).unwrap().unwrap().payload, b"real");
}

#[test]
fn an_implausible_tail_is_not_believed() {
    for hostile in [1u64 << 63, u64::MAX, 9, 5] {
        let (producer, consumer) = ring(4);
        for _ in 0..4 {
            post(&producer, 1, b"").unwrap();
        }
        consumer.memory().tail().store(hostile, Ordering::Release);
        assert_eq!(
            producer.try_reserve(0).unwrap_err(),
            ReserveError::Full,
            "tail {hostile}"
        );
        consumer.memory().tail().store(2, Ordering::Release);
        assert!(producer.try_reserve(0).is_ok());
        // Backwards again: what was released stays released, nothing more is.
        consumer.memory().tail().store(0, Ordering::Release);
        assert!(producer.try_reserve(0).is_ok());
        assert_eq!(producer.try_reserve(0).unwrap_err(), ReserveError::Full);
    }
}

#[test]
fn an_outdated_cached_tail_is_refreshed() {
    let (producer, mut consumer) = ring(4);
    for _ in 0..10 {
        post(&producer, 1, b"").unwrap();
        consumer.pop(&mut RecordBuf::new()).unwrap().unwrap();
    }
    // What a thread sees whose read of the cache is old: more in use than there are slots.
    producer.cached_tail.store(2, Ordering::Relaxed);
    assert_eq!(post(&producer, 1, b""), Ok(10));
}

#[test]
fn an_impossible_length_is_corrupt() {
    for len in [MAX_PAYLOAD as u32 + 1, u32::MAX] {
        let (producer, mut consumer) = ring(2048);
        post(&producer, 1, b"abc").unwrap();
        consumer.memory().write(12, &len.to_le_bytes());
        let mut buf = RecordBuf::new();
        assert_eq!(
            consumer.pop(&mut buf),
            Err(Corrupt::Length {
                position: 0,
                payload_len: len
            })
        );
    }
    let (producer, mut consumer) = ring(4);
    post(&producer, 1, b"abc").unwrap();
    consumer.memory().write(12, &300u32.to_le_bytes());
    assert!(
        consumer.pop(&mut RecordBuf::new()).is_err(),
        "longer than the whole ring"
    );
}

#[test]
fn only_a_sleeping_consumer_is_woken() {
    let (producer, mut consumer) = ring(64);
    let wakes = |producer: &Producer<Memory>| producer.memory().wakes.load(Ordering::Relaxed);
    post(&producer, 1, b"").unwrap();
    assert_eq!(wakes(&producer), 0);
    assert!(!consumer.prepare_sleep());
    consumer.pop(&mut RecordBuf::new()).unwrap().unwrap();
    assert!(consumer.prepare_sleep());
    post(&producer, 1, b"").unwrap();
    post(&producer, 1, b"").unwrap();
    assert_eq!(wakes(&producer), 1, "one signal is enough");
    consumer.pop(&mut RecordBuf::new()).unwrap().unwrap();
    consumer.pop(&mut RecordBuf::new()).unwrap().unwrap();
    assert!(consumer.prepare_sleep());
    drop(producer.try_reserve(0).unwrap());
    assert_eq!(
        wakes(&producer),
        2,
        "what lies behind a no-operation may have to be read"
    );
}

#[test]
fn threads_keep_their_order() {
    const EACH: u64 = if cfg!(miri) { 40 } else { 20_000 };
    let (producer, mut consumer) = ring(64);
    std::thread::scope(|scope| {
        for thread in 0..3u32 {
            let producer = &producer;
            scope.spawn(move || {
                for i in 0..EACH {
                    let filler = vec![thread as u8; (i % 90) as usize];
                    let mut reserved = loop {
                        match producer.try_reserve(8 + filler.len()) {
                            Ok(reserved) => break reserved,
                            Err(_) => std::thread::yield_now(),
                        }
                    };
                    reserved.write(0, &i.to_le_bytes());
                    reserved.write(8, &filler);
                    reserved.publish(&RecordHeader {
                        call: 1,
                        thread,
                        ..Default::default()
                    });
                }
            });
        }
        let mut buf = RecordBuf::new();
        let mut next = [0u64; 3];
        while next.iter().sum::<u64>() < 3 * EACH {
            let Some(record) = consumer.pop(&mut buf).unwrap() else {
                std::thread::yield_now();
                continue;
            };
            let expected = &mut next[record.header.thread as usize];
            assert_eq!(record.payload[..8], expected.to_le_bytes());
            assert_eq!(record.payload.len() as u64, 8 + *expected % 90);
            assert!(
                record.payload[8..]
                    .iter()
                    .all(|&byte| u32::from(byte) == record.header.thread)
            );
            *expected += 1;
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 128 }))]

    /// The ring against a queue that cannot go wrong.
    #[test]
    fn behaves_as_a_queue(
        slots in (1u32..7).prop_map(|bits| 1usize << bits),
        steps in prop::collection::vec(prop::option::weighted(0.6, prop::collection::vec(any::<u8>(), 0..400)), 1..200),
    ) {
        let (producer, mut consumer) = ring(slots);
        let mut model: VecDeque<(u64, Vec<u8>)> = VecDeque::new();
        let mut buf = RecordBuf::new();
        let mut used = 0;
        for step in steps {
            match step {
                Some(payload) => {
                    let need = slots_for(payload.len());
                    match post(&producer, 5, &payload) {
                        Ok(position) => {
                            prop_assert!(used + need <= slots as u64);
                            used += need;
                            model.push_back((position, payload));
                        }
                        Err(ReserveError::Full) => prop_assert!(used + need > slots as u64),
                        Err(ReserveError::TooLong(_)) => prop_assert!(need > slots as u64),
                    }
                }
                None => match (consumer.pop(&mut buf), model.pop_front()) {
                    (Ok(Some(record)), Some((position, payload))) => {
                        prop_assert_eq!(record, Record { position, header: header(5), payload: &payload });
                        used -= slots_for(payload.len());
                    }
                    (got, expected) => prop_assert!(got == Ok(None) && expected.is_none()),
                },
            }
        }
    }

    /// Whatever a client writes, the consumer answers with a record, nothing, or an error.
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 64 * 8), len in any::<u32>(), small in any::<bool>()) {
        let (_producer, mut consumer) = ring(8);
        consumer.memory().write(0, &bytes);
        consumer.memory().write(12, &(if small { len % 600 } else { len }).to_le_bytes());
        let mut buf = RecordBuf::new();
        for _ in 0..16 {
            let at = consumer.position();
            consumer.memory().publish_word(at % 8).store(at + 1, Ordering::Release);
            match consumer.pop(&mut buf) {
                Ok(Some(record)) => prop_assert!(record.payload.len() <= 8 * 64),
                Ok(None) => {}
                Err(Corrupt::Length { payload_len, .. }) => {
                    prop_assert!(slots_for(payload_len as usize) > 8);
                    break;
                }
            }
        }
    }
}
