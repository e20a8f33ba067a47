use super::*;
use crate::alias::{Alias, AliasError};
use crate::link::Hello;
use crate::loopback::{self, Loopback};
use crate::server::Config;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn channel() -> Loopback {
    loopback::pair(&Config::default(), Hello::new(0, 0), &[]).expect("a channel")
}

/// Private memory of a test, counting up in words.
fn own(len: u64) -> Private {
    let pages = Private::anywhere(len).expect("memory");
    for word in 0..len / 8 {
        // SAFETY: inside of the pages, which nobody else has.
        unsafe { ((pages.at + word * 8) as *mut u64).write_volatile(word) };
    }
    pages
}

/// Addresses that no other map of the process is placed at, for tests that need a hole.
fn quiet(test: u64) -> u64 {
    0x5000_0000_0000 + test * (1 << 30)
}

fn word(at: u64, index: u64) -> u64 {
    // SAFETY: every caller names words of its own pages.
    unsafe { ((at + index * 8) as *const u64).read_volatile() }
}

fn counts_up(at: u64, len: u64) {
    for index in 0..len / 8 {
        assert_eq!(word(at, index), index, "word {index} at {at:#x}");
    }
}

#[test]
fn pages_keep_their_content_both_ways_and_are_shared_between() {
    const LEN: u64 = 64 << 10;
    let pair = channel();
    let segments = pair.client.segments();
    let pages = own(LEN);
    let block = pair.client.alloc(LEN, PAGE).expect("heap");
    for _ in 0..3 {
        adopt(segments, pages.at, LEN, block).expect("adopted");
        counts_up(pages.at, LEN);
        // One memory at two addresses.
        pair.client
            .copy_in(block + 16, &77_u64.to_ne_bytes())
            .expect("mapped");
        assert_eq!(word(pages.at, 2), 77);
        pair.client
            .copy_in(block + 16, &2_u64.to_ne_bytes())
            .expect("mapped");
        assert!(
            matches!(check(pages.at, LEN), Err(AdoptError::Kind(_))),
            "adopted memory is no private memory"
        );
        give_back(segments, pages.at, LEN, block).expect("given back");
        counts_up(pages.at, LEN);
        pair.client
            .copy_in(block + 16, &78_u64.to_ne_bytes())
            .expect("mapped");
        assert_eq!(word(pages.at, 2), 2, "private again");
    }
}

#[test]
fn only_private_anonymous_memory_is_adopted() {
    let pair = channel();
    let segments = pair.client.segments();
    let block = pair.client.alloc(4 * PAGE, PAGE).expect("heap");
    let local = 0_u64;
    let stack = &raw const local as u64 & !(PAGE - 1);
    let code = (only_private_anonymous_memory_is_adopted as *const () as u64) & !(PAGE - 1);
    for (what, at) in [("stack", stack), ("code", code), ("a segment", block)] {
        let refused = adopt(segments, at, PAGE, block);
        assert!(
            matches!(refused, Err(AdoptError::Kind(_))),
            "{what}: {refused:?}"
        );
    }
    let file = tempfile::tempfile().expect("a file");
    file.set_len(PAGE).expect("its size");
    // SAFETY: a fresh map at a place of the kernel's choice.
    let private_file = unsafe {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        rustix::mm::mmap(
            core::ptr::null_mut(),
            PAGE as usize,
            prot,
            MapFlags::PRIVATE,
            &file,
            0,
        )
    };
    let refused = adopt(segments, private_file.expect("mapped") as u64, PAGE, block);
    assert!(
        matches!(refused, Err(AdoptError::Kind(_))),
        "a file's copy: {refused:?}"
    );
    let pages = own(4 * PAGE);
    for (at, len) in [
        (pages.at + 8, PAGE),
        (pages.at, 100),
        (pages.at, 0),
        (u64::MAX - PAGE + 1, 2 * PAGE),
        (PAGE, PAGE),
    ] {
        let refused = adopt(segments, at, len, block);
        assert!(
            matches!(refused, Err(AdoptError::Unmapped { .. })),
            "{at:#x} {len}: {refused:?}"
        );
    }
    let refused = adopt(segments, pages.at, PAGE, pages.at);
    assert!(
        matches!(refused, Err(AdoptError::Huge)),
        "no pages of a segment: {refused:?}"
    );
    // SAFETY: the test's own page; `mlock` changes nothing of its content.
    if unsafe { libc::mlock((pages.at + PAGE) as *const c_void, PAGE as usize) } == 0 {
        let refused = adopt(segments, pages.at, 4 * PAGE, block);
        assert!(
            matches!(refused, Err(AdoptError::Kind("it is locked"))),
            "{refused:?}"
        );
        adopt(segments, pages.at + 2 * PAGE, PAGE, block).expect("the page beside is not locked");
    }
    counts_up(pages.at, 4 * PAGE);
}

#[test]
fn what_the_program_unmapped_itself_is_left_alone() {
    let pair = channel();
    let segments = pair.client.segments();
    let block = pair.client.alloc(4 * PAGE, PAGE).expect("heap");
    let pages = own(4 * PAGE);
    adopt(segments, pages.at, 4 * PAGE, block).expect("adopted");
    // As a program does that frees registered memory, and gets the addresses again for something else.
    let other = own(PAGE);
    let taken = pages.at + PAGE;
    other.move_to(taken).expect("moved");
    // SAFETY: the test's own page.
    unsafe { (taken as *mut u64).write_volatile(4711) };
    let refused = give_back(segments, pages.at, 4 * PAGE, block);
    assert!(matches!(refused, Err(AdoptError::Moved)), "{refused:?}");
    assert_eq!(word(taken, 0), 4711);
}

#[test]
fn stores_of_other_threads_are_not_lost() {
    const LEN: u64 = 4 << 20;
    const WRITERS: u64 = 3;
    const ROUNDS: u64 = 60;
    let pair = channel();
    let segments = pair.client.segments();
    let pages = own(LEN);
    let block = pair.client.alloc(LEN, PAGE).expect("heap");
    let at = pages.at;
    let (stop, stored) = (AtomicBool::new(false), AtomicU64::new(0));
    let refused = std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (stop, stored) = (&stop, &stored);
            scope.spawn(move || {
                // Each writer has words of its own on every page, and finds in each what it stored there last.
                let step = PAGE / 8;
                let words = || (0..LEN / PAGE).map(move |page| page * step + 16 + writer);
                let mut last: Vec<u64> = words().collect();
                let (from, to) = rustix::pipe::pipe().expect("a pipe");
                while !stop.load(Ordering::Relaxed) {
                    for (word, last) in words().zip(&mut last) {
                        let place = (at + word * 8) as *mut u64;
                        // SAFETY: a word that only this thread stores to.
                        let found = unsafe { place.read_volatile() };
                        assert_eq!(found, *last, "word {word} lost a store");
                        *last += 1;
                        if writer == 0 {
                            // A system call stores as well as a thread does.
                            rustix::io::write(&to, &last.to_ne_bytes()).expect("written");
                            // SAFETY: as above.
                            let bytes =
                                unsafe { core::slice::from_raw_parts_mut(place.cast::<u8>(), 8) };
                            assert_eq!(rustix::io::read(&from, &mut *bytes), Ok(8));
                        } else {
                            // SAFETY: as above.
                            unsafe { place.write_volatile(*last) };
                        }
                    }
                    stored.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let exchanged = (0..ROUNDS).try_for_each(|_| {
            adopt(segments, at, LEN, block)?;
            give_back(segments, at, LEN, block)
        });
        stop.store(true, Ordering::Relaxed);
        exchanged.err()
    });
    match refused {
        None => assert!(stored.load(Ordering::Relaxed) > 0),
        Some(AdoptError::Threads(_)) => assert!(!holds_threads(), "it can be had"),
        Some(other) => panic!("{other}"),
    }
}

#[test]
fn a_child_gets_a_copy_of_its_own() {
    let pair = channel();
    let block = pair.client.alloc(4 * PAGE, PAGE).expect("heap");
    let (pages, segments) = (own(4 * PAGE), pair.client.segments());
    let at = pages.at;
    let early = ForChild::copy(segments, at, 4 * PAGE, block);
    assert!(early.is_err(), "what is not adopted is nobody's to replace");
    adopt(segments, at, 4 * PAGE, block).expect("adopted");
    let copy = ForChild::copy(segments, at, 4 * PAGE, block).expect("copied");
    // As the child does it.
    copy.put();
    counts_up(at, 4 * PAGE);
    pair.client
        .copy_in(block, &1_000_000_u64.to_ne_bytes())
        .expect("mapped");
    counts_up(at, 4 * PAGE);
}

#[test]
fn an_alias_is_the_same_memory_and_takes_only_free_addresses() {
    let pair = channel();
    let segments = pair.client.segments();
    let block = pair.client.alloc(2 * PAGE, PAGE).expect("heap");
    let at = quiet(1);
    let pages = own(4 * PAGE);
    pages.move_to(at).expect("moved");
    let pages = Private { at, len: 4 * PAGE };
    let taken = Alias::map(segments, at, 2 * PAGE, block);
    assert!(matches!(taken, Err(AliasError::Taken(_))), "{taken:?}");
    counts_up(at, 4 * PAGE);
    drop(pages);
    pair.client
        .copy_in(block, &5_u64.to_ne_bytes())
        .expect("mapped");
    let alias = Alias::map(segments, at, 2 * PAGE, block).expect("mapped");
    assert_eq!(word(at, 0), 5);
    let twice = Alias::map(segments, at + PAGE, 2 * PAGE, block);
    assert!(matches!(twice, Err(AliasError::Taken(_))), "{twice:?}");
    drop(alias);
    assert!(is_hole(at, 4 * PAGE));

    let window = segments.window().high;
    for (at, len) in [
        (at + 8, PAGE),
        (at, 0),
        (at, 100),
        (0, PAGE),
        (u64::MAX - PAGE + 1, PAGE),
        (window, PAGE),
        (window - PAGE, 2 * PAGE),
    ] {
        let place = Alias::map(segments, at, len, block);
        assert!(
            matches!(place, Err(AliasError::Place { .. })),
            "{at:#x}: {place:?}"
        );
    }
    let beyond = Alias::map(segments, at, 1 << 36, block);
    assert!(matches!(beyond, Err(AliasError::Memory(_))), "{beyond:?}");
}
