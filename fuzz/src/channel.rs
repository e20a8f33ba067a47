//! Targets of the channel: what a client can write into the command ring and send over the link.

use vgpu_channel::control::{ControlLayout, HEADER_PAGE, Header};
use vgpu_channel::link::{First, Hello, virtio};
use vgpu_channel::ring::{Consumer, Corrupt, MAX_PAYLOAD, RecordBuf, RingMemory, SLOT_BYTES};
use vgpu_channel::segment::SEGMENT_ALIGN;
use vgpu_channel::shm::View;
use vgpu_channel::sync::{AtomicU32, AtomicU64, Ordering};
use zerocopy::{FromBytes, IntoBytes};

const SLOTS: usize = 64;
const RING_BYTES: usize = SLOTS * SLOT_BYTES;

/// A small ring in private memory.
struct Ring {
    slots: View,
    words: View,
    nowhere: AtomicU32,
}

impl Ring {
    fn write_slots(&self, offset: usize, bytes: &[u8]) {
        let start = offset % RING_BYTES;
        let len = bytes.len().min(RING_BYTES - start);
        self.slots.write(start, &bytes[..len]).expect("inside");
    }
}

impl RingMemory for Ring {
    fn slots(&self) -> u64 {
        SLOTS as u64
    }
    fn tail(&self) -> &AtomicU64 {
        self.words.u64(0).expect("inside")
    }
    fn sleeping(&self) -> &AtomicU32 {
        self.words.u32(64).unwrap_or(&self.nowhere)
    }
    fn publish_word(&self, slot: u64) -> &AtomicU64 {
        self.slots
            .u64(slot as usize * SLOT_BYTES)
            .expect("the consumer stays inside")
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        self.slots
            .write(offset, bytes)
            .expect("the consumer stays inside");
    }
    fn wake(&self) {}
    fn read(&self, offset: usize, into: &mut [u8]) {
        self.slots
            .read(offset, into)
            .expect("the consumer stays inside");
    }
}

/// A client that writes whatever it likes between the consumer's steps.
///
/// The input is a list of steps: a byte `b` and its operand. `b % 4`: 0 writes the next `b / 4` bytes at the 16-bit
/// offset that follows; 1 publishes at the consumer's position; 2 lets the consumer take a record; 3 is 1 and then 2.
pub fn ring_consumer(data: &[u8]) {
    let ring = Ring {
        slots: View::private(RING_BYTES),
        words: View::private(128),
        nowhere: AtomicU32::new(0),
    };
    let mut consumer = Consumer::new(ring);
    let mut buf = RecordBuf::new();
    let mut rest = data;
    while let Some((&step, after)) = rest.split_first() {
        rest = after;
        if step % 4 == 0 {
            let Some((offset, after)) = rest.split_first_chunk::<2>() else {
                return;
            };
            let (bytes, after) = after.split_at(after.len().min(usize::from(step / 4)));
            consumer
                .memory()
                .write_slots(usize::from(u16::from_le_bytes(*offset)), bytes);
            rest = after;
        }
        if step % 2 == 1 {
            let position = consumer.position();
            consumer
                .memory()
                .publish_word(position % SLOTS as u64)
                .store(position + 1, Ordering::Release);
        }
        if step % 4 >= 2 {
            let before = consumer.position();
            match consumer.pop(&mut buf) {
                Ok(Some(record)) => {
                    assert!(record.position >= before && record.position < consumer.position());
                    assert!(record.payload.len() < RING_BYTES);
                    assert_ne!(record.header.call, 0);
                }
                Ok(None) => {}
                Err(Corrupt::Length {
                    position,
                    payload_len,
                }) => {
                    assert_eq!(
                        position,
                        consumer.position(),
                        "a corrupt record is not passed"
                    );
                    assert!(payload_len as usize > MAX_PAYLOAD.min(RING_BYTES - SLOT_BYTES));
                    return;
                }
            }
            assert_eq!(
                consumer.memory().tail().load(Ordering::Relaxed),
                consumer.position()
            );
        }
    }
}

/// A request of a virtual machine's driver.
pub fn virtio_request(data: &[u8]) {
    let lists = match virtio::parse(data) {
        Ok(virtio::Order::Open { control, heap, .. }) => vec![control, heap],
        Ok(virtio::Order::Grow { pieces, .. }) => vec![pieces],
        Ok(_) | Err(_) => return,
    };
    let mut total = 0;
    for list in lists {
        assert!(!list.is_empty());
        total += list.len();
        for piece in list {
            assert!(piece.len > 0 && piece.len % SEGMENT_ALIGN == 0);
            assert!(piece.address % SEGMENT_ALIGN == 0);
            assert!(piece.address.checked_add(piece.len).is_some());
        }
    }
    assert!(total <= virtio::MAX_PIECES && data.len() <= virtio::MAX_REQUEST);
}

/// The first message of a client.
pub fn hello(data: &[u8]) {
    let mut padded = [0; size_of::<Hello>()];
    for (to, from) in padded.iter_mut().zip(data) {
        *to = *from;
    }
    let _ = First::parse(data);
    let Ok(hello) = Hello::parse(&padded) else {
        return;
    };
    // What was accepted can be written again, and then says the same.
    let mut again = Hello {
        environment_len: 0,
        environment: [0; 1024],
        ..hello
    };
    let settings = hello.settings().expect("checked by parse");
    for (name, value) in &settings {
        again.set(name, value).expect("it fitted before");
    }
    assert_eq!(
        Hello::parse(again.as_bytes())
            .expect("as good as the first")
            .settings(),
        Ok(settings)
    );
}

/// The header of a control segment, as a client that distrusts its server reads it.
pub fn control_header(data: &[u8]) {
    const SIZE: u64 = 4 << 20;
    let mut bytes = ControlLayout::new(2048).header().as_bytes().to_vec();
    // The input changes a valid header, so that the checks behind the first are reached, too.
    for (to, change) in bytes.iter_mut().zip(data) {
        *to ^= *change;
    }
    let header = Header::read_from_bytes(&bytes).expect("its size");
    for size in [SIZE, header.size] {
        let Ok(layout) = header.layout(size) else {
            continue;
        };
        let mut areas = [
            layout.ring,
            layout.callbacks,
            layout.acks,
            layout.output,
            layout.snapshot,
        ];
        areas.sort_by_key(|area| area.offset);
        let mut end = HEADER_PAGE;
        for area in areas {
            assert!(area.offset >= end, "areas overlap");
            end = area.offset.checked_add(area.len).expect("inside");
        }
        assert!(end <= size);
    }
}
