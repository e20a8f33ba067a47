use super::*;
use std::collections::VecDeque;

/// Address, length, and whether the device writes.
type Part = (u64, u32, bool);

/// The device's side, as the specification tells it, over the same memory.
struct Device {
    memory: View,
    at: Addresses,
    seen: u16,
    used: u16,
}

impl Device {
    fn new(queue: &Queue) -> Device {
        Device {
            memory: queue.memory.clone(),
            at: queue.addresses(0),
            seen: 0,
            used: 0,
        }
    }

    fn u16(&self, offset: u64) -> u16 {
        let mut bytes = [0; 2];
        self.memory.read(offset as usize, &mut bytes).unwrap();
        u16::from_le_bytes(bytes)
    }

    /// The next chain: its head and (address, length, writable) of each part.
    fn pop(&mut self) -> Option<(u16, Vec<Part>)> {
        if self.u16(self.at.available + 2) == self.seen {
            return None;
        }
        let head = self.u16(self.at.available + 4 + 2 * u64::from(self.seen % self.at.size));
        self.seen = self.seen.wrapping_add(1);
        let (mut parts, mut next) = (Vec::new(), Some(head));
        while let Some(at) = next {
            let mut bytes = [0; 16];
            self.memory.read(16 * at as usize, &mut bytes).unwrap();
            let flags = u16::from_le_bytes(bytes[12..14].try_into().unwrap());
            parts.push((
                u64::from_le_bytes(bytes[..8].try_into().unwrap()),
                u32::from_le_bytes(bytes[8..12].try_into().unwrap()),
                flags & WRITE != 0,
            ));
            next =
                (flags & NEXT != 0).then(|| u16::from_le_bytes(bytes[14..16].try_into().unwrap()));
        }
        Some((head, parts))
    }

    fn push(&mut self, head: u32, written: u32) {
        let at = self.at.used as usize + 4 + 8 * usize::from(self.used % self.at.size);
        self.memory.write(at, &head.to_le_bytes()).unwrap();
        self.memory.write(at + 4, &written.to_le_bytes()).unwrap();
        self.used = self.used.wrapping_add(1);
        self.set_used(self.used, 0);
    }

    fn set_used(&self, index: u16, flags: u32) {
        self.memory
            .u32(self.at.used as usize)
            .unwrap()
            .store(flags | u32::from(index) << 16, Ordering::Release);
    }
}

fn buffer(address: u64, len: u32) -> Option<Buffer> {
    Some(Buffer { address, len })
}

fn queue(size: u16) -> Queue {
    Queue::new(View::private(bytes(size)), size, true).unwrap()
}

#[test]
fn a_chain_arrives_as_it_was_added() {
    let mut queue = queue(8);
    let mut device = Device::new(&queue);
    queue
        .add(buffer(0x1000, 16), buffer(0x2000, 64), 7)
        .unwrap();
    queue.add(None, buffer(0x3000, 8), 8).unwrap();
    queue.add(buffer(0x4000, 4), None, 9).unwrap();
    let (first, parts) = device.pop().unwrap();
    assert_eq!(parts, [(0x1000, 16, false), (0x2000, 64, true)]);
    let (second, parts) = device.pop().unwrap();
    assert_eq!(parts, [(0x3000, 8, true)]);
    let (third, parts) = device.pop().unwrap();
    assert_eq!(parts, [(0x4000, 4, false)]);
    assert!(device.pop().is_none());
    assert_eq!(queue.take().unwrap(), None);
    for (head, written) in [(third, 0), (first, 64), (second, 3)] {
        device.push(head.into(), written);
    }
    let tokens: Vec<_> = std::iter::from_fn(|| queue.take().unwrap())
        .map(|used| (used.token, used.written))
        .collect();
    assert_eq!(tokens, [(9, 0), (7, 64), (8, 3)]);
    assert_eq!((queue.outstanding(), queue.free.len()), (0, 8));
}

#[test]
fn a_full_queue_says_so_and_indices_wrap() {
    let mut queue = queue(4);
    let mut device = Device::new(&queue);
    queue.add(buffer(1, 1), buffer(2, 1), 0).unwrap();
    queue.add(buffer(1, 1), buffer(2, 1), 1).unwrap();
    assert_eq!(queue.add(buffer(1, 1), None, 2), Err(QueueError::Full));
    let mut heads: VecDeque<u16> = VecDeque::new();
    for round in 0..70_000_u64 {
        while let Some((head, _)) = device.pop() {
            heads.push_back(head);
        }
        device.push(heads.pop_front().unwrap().into(), 1);
        assert_eq!(queue.take().unwrap().unwrap().token, round);
        queue.add(buffer(1, 1), buffer(2, 1), round + 2).unwrap();
    }
}

#[test]
fn what_a_device_cannot_give_back_is_an_error() {
    for (head, written) in [(3_u32, 0_u32), (9, 0), (70_000, 0), (0, 65)] {
        let mut queue = queue(8);
        let mut device = Device::new(&queue);
        queue
            .add(buffer(0x1000, 16), buffer(0x2000, 64), 7)
            .unwrap();
        device.push(head, written);
        assert_eq!(queue.take(), Err(QueueError::Broken), "{head} {written}");
    }
    let mut queue = queue(8);
    queue.add(None, buffer(0x2000, 64), 7).unwrap();
    let mut device = Device::new(&queue);
    let (head, _) = device.pop().unwrap();
    device.push(head.into(), 0);
    device.push(head.into(), 0);
    assert!(queue.take().unwrap().is_some());
    assert_eq!(queue.take(), Err(QueueError::Broken), "twice the same");
    device.set_used(9 + 2, 0);
    assert_eq!(queue.take(), Err(QueueError::Broken), "more than there are");
}

#[test]
fn flags_are_obeyed_and_said() {
    let queue = Queue::new(View::private(bytes(8)), 8, false).unwrap();
    let device = Device::new(&queue);
    assert_eq!(device.u16(device.at.available), 1, "no interrupt");
    assert!(queue.wants_notification());
    device.set_used(0, NO_NOTIFY);
    assert!(!queue.wants_notification());
    assert!(Queue::new(View::private(64), 8, true).is_err());
}
