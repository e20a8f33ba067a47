//! What a worker knows of the images and kernels of its client, and what follows: whether waits take the driver's own
//! calls, which the client reads as [`FEATURE_REAL_SYNC`].
//!
//! Unpacking an image takes as long as the driver's own loading does, so nobody waits for it: until it is known whether a
//! kernel prints, it counts as one that does. So the flag is set in three ways:
//!
//! * for good, once a kernel that prints was taken;
//! * for a while, from the moment that a kernel is taken while there are images that nobody has looked through: it may be
//!   one of theirs. The flag is taken back when the last of them was looked through and no kernel taken meanwhile prints;
//! * for good, when too much would have to be remembered.
//!
//! # Order
//!
//! The flag is stored before the call that takes a kernel is answered, and no kernel is launched before it was taken. So a
//! thread that waits behind a launch sees the flag, by the same order through which it knows of the launch. It is stored
//! under the lock that everything is decided under, so it is never taken back by a decision older than the one that set it;
//! and it is taken back only when every kernel taken so far is known not to print, so a client that reads either value at
//! that moment is right. Nothing of the client's rests on the flag staying: stamps and timeline words are kept the same in
//! both ways of waiting.

use super::Printers;
use crate::image::Image;
use crate::live::lock;
use crate::state::Worker;
use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use vgpu_channel::control::FEATURE_REAL_SYNC;
use vgpu_channel::server::Channel;

/// Longest name of a kernel that is remembered, and how many are: what is beyond makes all of them count.
const MAX_NAME: usize = 4096;
const MAX_NAMES: usize = 65_536;

/// Bytes of images that may wait to be looked through. Beyond that the call that loads waits.
const MAX_WAITING: usize = 256 << 20;

/// What a worker knows of its client's images.
#[derive(Debug)]
pub struct Printing {
    channel: Arc<Channel>,
    known: Mutex<Known>,
    /// What the flag says, for one load.
    real_sync: AtomicBool,
}

#[derive(Debug, Default)]
struct Known {
    /// A kernel that prints was taken.
    prints: bool,
    /// Names of printing kernels in the images looked through so far.
    names: BTreeSet<Vec<u8>>,
    /// Images that nobody has looked through, and their bytes.
    waiting: VecDeque<Arc<Image>>,
    waiting_bytes: usize,
    /// A thread looks through images.
    looking: bool,
    /// Kernels that were taken while it looked.
    taken: BTreeSet<Vec<u8>>,
    /// Among them some without a name.
    unnamed_taken: bool,
}

impl Known {
    fn note(&mut self, printers: Printers) {
        let Printers::Kernels(kernels) = printers else {
            self.prints = true;
            return;
        };
        let new = kernels.difference(&self.names).count();
        self.prints |= !kernels.is_disjoint(&self.taken)
            || (self.unnamed_taken && !kernels.is_empty())
            // Names of images that were unloaded stay, so what does not fit is not kept either.
            || kernels.iter().any(|name| name.len() > MAX_NAME)
            || self.names.len() + new > MAX_NAMES;
        if !self.prints {
            self.names.extend(kernels);
        }
    }

    fn take(&mut self, name: &[u8]) {
        if self.names.contains(name) {
            self.prints = true;
        } else if self.looking {
            self.prints |= name.len() > MAX_NAME || self.taken.len() >= MAX_NAMES;
            if !self.prints {
                self.taken.insert(name.to_vec());
            }
        }
    }

    fn take_unnamed(&mut self) {
        self.prints |= !self.names.is_empty();
        self.unnamed_taken |= self.looking;
    }

    /// The next image to look through; without one, nobody looks any more.
    fn next(&mut self) -> Option<Arc<Image>> {
        let image = self.waiting.pop_front();
        match &image {
            Some(image) => self.waiting_bytes -= image.byte_count(),
            None => {
                self.looking = false;
                self.unnamed_taken = false;
                self.taken.clear();
            }
        }
        image
    }

    fn real_sync(&self) -> bool {
        self.prints || self.unnamed_taken || !self.taken.is_empty()
    }
}

impl Printing {
    /// Nothing is loaded yet.
    pub fn new(channel: Arc<Channel>) -> Self {
        Self {
            channel,
            known: Mutex::default(),
            real_sync: AtomicBool::new(false),
        }
    }

    /// Changes what is known, and stores what follows before anybody else can change it.
    fn change<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = lock(&self.known);
        let result = change(&mut known);
        let real_sync = known.real_sync();
        if self.real_sync.swap(real_sync, Ordering::Relaxed) != real_sync {
            if real_sync {
                self.channel.add_features(FEATURE_REAL_SYNC);
            } else {
                self.channel.remove_features(FEATURE_REAL_SYNC);
            }
        }
        result
    }

    /// Whether code that prints may have run.
    #[inline]
    pub fn real_sync(&self) -> bool {
        self.real_sync.load(Ordering::Relaxed)
    }

    /// Notes that the client takes a kernel by its name.
    pub fn kernel_is_taken(&self, name: &[u8]) {
        self.change(|known| known.take(name));
    }

    /// Notes that the client takes kernels whose names it does not tell.
    pub fn kernels_are_taken(&self) {
        self.change(Known::take_unnamed);
    }

    /// Whether nothing can change any more.
    fn is_settled(&self) -> bool {
        lock(&self.known).prints
    }

    /// Leaves an image to a thread that looks through it. `None` if too many wait already, else whether there is no such
    /// thread yet.
    fn queue(&self, image: &Arc<Image>) -> Option<bool> {
        let mut known = lock(&self.known);
        let bytes = known.waiting_bytes.saturating_add(image.byte_count());
        if bytes > MAX_WAITING {
            return None;
        }
        known.waiting_bytes = bytes;
        known.waiting.push_back(Arc::clone(image));
        Some(!std::mem::replace(&mut known.looking, true))
    }
}

/// Looks through an image that the client loads: at once if there is nothing to unpack, else on another thread.
pub fn look(worker: &Arc<Worker>, image: &Arc<Image>) {
    let printing = &worker.printing;
    // Never taken back, so further images need no look.
    if printing.is_settled() {
        return;
    }
    let queued = image
        .is_packed(&worker.archs)
        .then(|| printing.queue(image))
        .flatten();
    match queued {
        None => {
            let printers = printers(image, &worker.archs);
            printing.change(|known| known.note(printers));
        }
        Some(false) => {}
        Some(true) => {
            let own = Arc::clone(worker);
            let spawned = std::thread::Builder::new()
                .name("printing".into())
                .spawn(move || look_through(&own));
            if let Err(error) = spawned {
                tracing::error!("no thread to look through images: {error}");
                while let Some(image) = next(printing) {
                    let printers = printers(&image, &worker.archs);
                    printing.change(|known| known.note(printers));
                }
            }
        }
    }
}

fn next(printing: &Printing) -> Option<Arc<Image>> {
    printing.change(Known::next)
}

/// Looks through all images that wait. Shared memory is written to only while the gate is open.
fn look_through(worker: &Worker) {
    loop {
        let open = worker.gate.pass();
        let Some(image) = next(&worker.printing) else {
            return;
        };
        drop(open);
        if worker.stopping() || worker.printing.is_settled() {
            continue;
        }
        let printers = printers(&image, &worker.archs);
        let _open = worker.gate.pass();
        worker.printing.change(|known| known.note(printers));
    }
}

/// What an image says. What breaks the unpacking counts as unreadable.
fn printers(image: &Image, archs: &[u32]) -> Printers {
    catch_unwind(AssertUnwindSafe(|| Printers::of(image, archs))).unwrap_or(Printers::Any)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Parts;
    use vgpu_channel::link::Hello;
    use vgpu_channel::loopback::{self, Loopback};
    use vgpu_channel::server::Config;
    use vgpu_driver::Driver;

    fn worker() -> (Arc<Worker>, Loopback) {
        let pair = loopback::pair(&Config::default(), Hello::new(0, 0), &[]).unwrap();
        let parts = Parts::bare(Driver::default(), Arc::clone(&pair.server));
        (Worker::new(parts), pair)
    }

    fn kernels(names: &[&[u8]]) -> Printers {
        Printers::Kernels(names.iter().map(|name| name.to_vec()).collect())
    }

    /// What a client of `worker` reads; both sides must say the same.
    fn flag((worker, pair): &(Arc<Worker>, Loopback)) -> bool {
        let flag = pair.client.features() & FEATURE_REAL_SYNC != 0;
        assert_eq!(worker.printing.real_sync(), flag);
        flag
    }

    fn note((worker, _): &(Arc<Worker>, Loopback), printers: Printers) {
        worker.printing.change(|known| known.note(printers));
    }

    /// An image that is packed, as far as anybody looks.
    fn begin_to_look((worker, _): &(Arc<Worker>, Loopback)) {
        let image = Arc::new(Image::new(b"text".to_vec()).unwrap());
        assert_eq!(worker.printing.queue(&image), Some(true));
        assert!(next(&worker.printing).is_some());
    }

    #[test]
    fn a_kernel_prints_once_it_is_taken_by_its_name() {
        let pair = worker();
        note(&pair, kernels(&[b"loud"]));
        pair.0.printing.kernel_is_taken(b"quiet");
        assert!(!flag(&pair));
        pair.0.printing.kernel_is_taken(b"loud");
        assert!(flag(&pair));
    }

    #[test]
    fn kernels_without_names_print_if_any_does() {
        let pair = worker();
        pair.0.printing.kernels_are_taken();
        assert!(!flag(&pair));
        note(&pair, kernels(&[b"loud"]));
        assert!(!flag(&pair));
        pair.0.printing.kernels_are_taken();
        assert!(flag(&pair));
    }

    #[test]
    fn an_image_that_may_print_anywhere_counts_at_once() {
        let pair = worker();
        note(&pair, Printers::Any);
        assert!(flag(&pair));
    }

    #[test]
    fn a_kernel_counts_as_printing_until_its_image_was_looked_through() {
        let pair = worker();
        begin_to_look(&pair);
        assert!(!flag(&pair));
        pair.0.printing.kernel_is_taken(b"quiet");
        assert!(flag(&pair));
        note(&pair, kernels(&[b"loud"]));
        assert!(flag(&pair), "another image may wait");
        assert!(next(&pair.0.printing).is_none());
        assert!(!flag(&pair));
        pair.0.printing.kernel_is_taken(b"loud");
        assert!(flag(&pair));
    }

    #[test]
    fn a_kernel_that_turns_out_to_print_counts_for_good() {
        for unnamed in [false, true] {
            let pair = worker();
            begin_to_look(&pair);
            if unnamed {
                pair.0.printing.kernels_are_taken();
            } else {
                pair.0.printing.kernel_is_taken(b"loud");
            }
            assert!(flag(&pair));
            note(&pair, kernels(&[b"loud"]));
            assert!(next(&pair.0.printing).is_none());
            assert!(flag(&pair), "unnamed: {unnamed}");
        }
    }

    #[test]
    fn packed_images_are_looked_through_on_a_thread_that_ends() {
        // A fatbin with PTX packed by LZ4.
        let fatbin = |text: &[u8]| {
            let packed = lz4_flex::block::compress(text);
            let mut entry = [0_u8; 64];
            entry[0] = 1;
            entry[4] = 64;
            entry[8..16].copy_from_slice(&(packed.len() as u64).to_le_bytes());
            entry[16..20].copy_from_slice(&(packed.len() as u32).to_le_bytes());
            entry[40..48].copy_from_slice(&0x2000_u64.to_le_bytes());
            entry[56..64].copy_from_slice(&(text.len() as u64).to_le_bytes());
            let mut bytes = 0xba55_ed50_u32.to_le_bytes().to_vec();
            bytes.extend([1, 0, 16, 0]);
            bytes.extend((64 + packed.len() as u64).to_le_bytes());
            bytes.extend([&entry[..], &packed].concat());
            Arc::new(Image::new(bytes).unwrap())
        };
        let pair = worker();
        let looks = || lock(&pair.0.printing.known).looking;
        let end = || {
            let limit = std::time::Instant::now() + std::time::Duration::from_secs(60);
            while looks() {
                assert!(std::time::Instant::now() < limit, "it goes on looking");
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        };
        for _ in 0..100 {
            look(&pair.0, &fatbin(b".version 8.0 .visible .entry quiet() {}"));
            pair.0.printing.kernel_is_taken(b"quiet");
        }
        end();
        assert!(!flag(&pair));
        look(
            &pair.0,
            &fatbin(b".extern .func vprintf; .entry loud() { }"),
        );
        end();
        assert!(flag(&pair));
    }

    #[test]
    fn only_so_much_is_kept_however_many_images_are_loaded() {
        let name = |number: usize| number.to_le_bytes().to_vec();
        let some =
            |from: usize| Printers::Kernels((from..from + MAX_NAMES / 2 + 1).map(name).collect());
        let pair = worker();
        note(&pair, some(0));
        assert!(!flag(&pair));
        note(&pair, some(MAX_NAMES));
        assert!(flag(&pair));
        let pair = worker();
        note(&pair, kernels(&[&[b'x'; MAX_NAME + 1]]));
        assert!(flag(&pair));
        let pair = worker();
        begin_to_look(&pair);
        for number in 0..MAX_NAMES + 2 {
            pair.0.printing.kernel_is_taken(&name(number));
        }
        assert!(lock(&pair.0.printing.known).taken.len() <= MAX_NAMES);
        assert!(next(&pair.0.printing).is_none() && flag(&pair));
    }

    #[test]
    fn images_that_do_not_fit_are_not_queued() {
        let pair = worker();
        let image = Arc::new(Image::new(vec![b'x'; MAX_WAITING / 2 + 1]).unwrap());
        assert_eq!(pair.0.printing.queue(&image), Some(true));
        assert_eq!(pair.0.printing.queue(&image), None);
    }
}
