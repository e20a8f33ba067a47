//! Tests of the heap: blocks never overlap, are aligned, and coalesce.

use proptest::prelude::*;

use super::*;

const BASE: u64 = 0x4000_0020_0000;

fn heap(len: u64) -> Heap<Fixed> {
    let heap = Heap::new(Fixed);
    heap.add(Region { address: BASE, len });
    heap
}

#[test]
fn refuses_impossible_requests() {
    let heap = heap(4096);
    assert!(matches!(heap.alloc(1, 3), Err(HeapError::Request { .. })));
    assert!(matches!(heap.alloc(1, 0), Err(HeapError::Request { .. })));
    assert!(matches!(
        heap.alloc(1, MAX_ALIGN * 2),
        Err(HeapError::Request { .. })
    ));
    assert!(matches!(
        heap.alloc(u64::MAX, 64),
        Err(HeapError::Request { .. })
    ));
    assert_eq!(heap.alloc(4097, 64), Err(HeapError::Full(4097)));
    assert_eq!(
        heap.free(BASE + 64),
        Err(HeapError::NotAllocated(BASE + 64))
    );
}

#[test]
fn a_whole_region_can_be_one_block() {
    let heap = heap(1 << 20);
    let block = heap.alloc(1 << 20, 64).unwrap();
    assert_eq!(block, BASE);
    assert_eq!(heap.size_of(block), Some(1 << 20));
    assert_eq!(
        heap.block_of(block + 5),
        Some(Region {
            address: BASE,
            len: 1 << 20
        })
    );
    heap.free(block).unwrap();
    assert_eq!(heap.free(block), Err(HeapError::NotAllocated(block)));
}

#[test]
fn grows_once_when_full() {
    struct Step(std::cell::Cell<u64>);
    impl Grow for Step {
        fn grow(&self, min_bytes: u64) -> Option<Region> {
            let address = self.0.get();
            let len = min_bytes.next_multiple_of(2 << 20);
            self.0.set(address + len);
            Some(Region { address, len })
        }
    }
    let heap = Heap::new(Step(std::cell::Cell::new(BASE)));
    for len in [1u64, 64 << 20, (2 << 20) + 1, 100] {
        for align in [64, 4096, MAX_ALIGN] {
            let block = heap.alloc(len, align).unwrap();
            assert_eq!(block % align, 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]

    #[test]
    fn blocks_are_apart_aligned_and_coalesce(
        steps in prop::collection::vec((any::<bool>(), 0u64..40_000, 0u32..16, any::<prop::sample::Index>()), 1..200),
    ) {
        let total = 4u64 << 20;
        let heap = heap(total);
        let mut live: std::collections::BTreeMap<u64, u64> = Default::default();
        for (release, len, align, pick) in steps {
            if release && !live.is_empty() {
                let address = *live.keys().nth(pick.index(live.len())).unwrap();
                live.remove(&address);
                heap.free(address).unwrap();
                continue;
            }
            let align = 1u64 << align;
            let Ok(address) = heap.alloc(len, align) else { continue };
            prop_assert_eq!(address % align.max(MIN_ALIGN), 0);
            prop_assert!(address >= BASE && address + len.max(1) <= BASE + total);
            let len = heap.size_of(address).unwrap();
            if let Some((below, below_len)) = live.range(..=address).next_back() {
                prop_assert!(below + below_len <= address);
            }
            if let Some((above, _)) = live.range(address..).next() {
                prop_assert!(address + len <= *above);
            }
            live.insert(address, len);
            prop_assert_eq!(heap.stats().used, live.values().sum::<u64>());
        }
        for address in live.keys() {
            heap.free(*address).unwrap();
        }
        prop_assert_eq!(heap.stats(), HeapStats { total, used: 0, blocks: 0, free_blocks: 1 });
        prop_assert!(heap.alloc(total, 64).is_ok());
    }

    #[test]
    fn a_class_holds_what_it_says(len in 1u64..(1 << 40)) {
        let from = class_from(len);
        prop_assert!(from >= class_of(len));
        // The smallest block of the class that is searched first is long enough.
        let (level, sub) = from;
        let smallest = if level == 0 { sub as u64 } else { (SUBS as u64 + sub as u64) << (level - 1) };
        prop_assert!(smallest >= len);
        prop_assert_eq!(class_of(smallest), from);
    }
}
