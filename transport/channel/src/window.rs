//! Windows: the fixed list of address ranges that shared and device memory lies in, the same in both processes.
//!
//! A window is a pair of ranges. The *high* one starts with the *shared part* (segments of the channel, mapped by both
//! sides); the rest of it is the *driver part*, where the worker's driver is led to place its allocations. The *low* one
//! covers the addresses that drivers choose by themselves whatever the rest looks like (stream-ordered pools, address
//! reservations). The client holds both ranges without memory behind them, so no pointer of the program can equal one
//! of the worker's; the worker holds only the shared part.
//!
//! High ranges stay below `0x5000_0000_0000`, where position-independent programs and the kernel's own choice for maps
//! begin. Low ranges stay between 8 GiB and 512 GiB, below the heap of Go programs (`0xc0_0000_0000`).

use std::fs;
use std::io;
use std::ops::Range;

use crate::shm::{self, Reserved};
use crate::sync::{Mutex, lock};

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Bytes at the start of each high range that hold the channel's segments.
pub const SHARED_BYTES: u64 = TIB;

/// Bytes left free below the main thread's stack when address space is filled.
const STACK_ROOM: u64 = GIB;

/// Bytes left free above the `brk` heap when address space is filled, where that does not attract the driver.
const HEAP_ROOM: u64 = 64 << 20;

/// One entry of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Index in [`WINDOWS`]; this number goes over the wire and is permanent.
    pub index: u32,
    /// First address of the high range, and of the shared part.
    pub high: u64,
    /// Bytes of the high range.
    pub high_len: u64,
    /// First address of the low range.
    pub low: u64,
    /// Bytes of the low range.
    pub low_len: u64,
}

const fn window(index: u32, high: u64, low_len: u64) -> Window {
    Window {
        index,
        high,
        high_len: 8 * TIB,
        low: 8 * GIB,
        low_len,
    }
}

/// The list, in the order in which a client tries it.
///
/// The last entry has a shorter low range for programs that already use the space above 192 GiB; it still covers both
/// places where drivers were seen to allocate (`0x3_0200_0000`, `0x2a_9a00_0000`).
pub static WINDOWS: [Window; 4] = [
    window(0, 0x4000_0000_0000, 504 * GIB),
    window(1, 0x3000_0000_0000, 504 * GIB),
    window(2, 0x2000_0000_0000, 504 * GIB),
    window(3, 0x4000_0000_0000, 184 * GIB),
];

/// What an address is, by its value alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the shared part: memory of the channel's segments.
    Shared,
    /// In the driver part of the high range.
    Driver,
    /// In the low range, which also belongs to the driver.
    Low,
    /// Not in the window: the program's own.
    Outside,
}

impl Window {
    /// The window with this index.
    #[must_use]
    pub fn by_index(index: u32) -> Option<&'static Window> {
        WINDOWS.get(usize::try_from(index).ok()?)
    }

    /// What `address` is.
    #[must_use]
    #[inline]
    pub const fn classify(&self, address: u64) -> Place {
        let high = address.wrapping_sub(self.high);
        if high < SHARED_BYTES {
            Place::Shared
        } else if high < self.high_len {
            Place::Driver
        } else if address.wrapping_sub(self.low) < self.low_len {
            Place::Low
        } else {
            Place::Outside
        }
    }

    /// Whether an address from `start` up to `end` lies in the window.
    #[must_use]
    pub const fn overlaps(&self, start: u64, end: u64) -> bool {
        start < self.end() && self.high < end || start < self.low + self.low_len && self.low < end
    }

    /// First address of the driver part.
    #[must_use]
    pub const fn driver(&self) -> u64 {
        self.high + SHARED_BYTES
    }

    /// First address behind the high range.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.high + self.high_len
    }
}

/// Why no window could be held.
#[derive(Debug, thiserror::Error)]
pub enum WindowError {
    /// The index names no window.
    #[error("There is no address window {0}")]
    Unknown(u32),
    /// Every window of the list overlaps something this process already mapped.
    #[error("Every address window is already in use by this program")]
    AllTaken,
    /// This window overlaps something already mapped.
    #[error("Address window {0} is already in use by this program")]
    Taken(u32),
    /// The system refused.
    #[error("The system refused to reserve address space")]
    System(#[source] io::Error),
    /// The driver's allocations would still be placed outside the driver part.
    #[error("New maps still go to {0:#x}, outside the driver part of the window")]
    NotSteered(u64),
}

/// A window held by this process; given back on drop.
#[derive(Debug)]
pub struct Reservation {
    window: Window,
    high: Reserved,
    _low: Option<Reserved>,
    /// Address space that [`Reservation::steer_driver`] filled and nobody has taken since.
    filled: Mutex<Vec<Range<u64>>>,
}

impl Reservation {
    /// Holds the first window of the list that is free, both ranges whole. For the client.
    ///
    /// # Errors
    ///
    /// [`WindowError::AllTaken`] or the system's refusal.
    pub fn for_client() -> Result<Reservation, WindowError> {
        for window in &WINDOWS {
            match Self::whole(window) {
                Err(WindowError::Taken(_)) => {}
                other => return other,
            }
        }
        Err(WindowError::AllTaken)
    }

    /// Holds both ranges of one window. For a client that must use this one.
    ///
    /// # Errors
    ///
    /// [`WindowError::Unknown`], [`WindowError::Taken`] or the system's refusal.
    pub fn for_client_at(index: u32) -> Result<Reservation, WindowError> {
        Self::whole(Window::by_index(index).ok_or(WindowError::Unknown(index))?)
    }

    fn whole(window: &Window) -> Result<Reservation, WindowError> {
        let high = Self::take(window, window.high, window.high_len)?;
        let low = Self::take(window, window.low, window.low_len)?;
        Ok(Reservation {
            window: *window,
            high,
            _low: Some(low),
            filled: Mutex::default(),
        })
    }

    /// Holds the shared part of the window that the client chose. For the worker.
    ///
    /// # Errors
    ///
    /// [`WindowError::Unknown`], [`WindowError::Taken`] or the system's refusal.
    pub fn for_server(index: u32) -> Result<Reservation, WindowError> {
        let window = Window::by_index(index).ok_or(WindowError::Unknown(index))?;
        let high = Self::take(window, window.high, SHARED_BYTES)?;
        Ok(Reservation {
            window: *window,
            high,
            _low: None,
            filled: Mutex::default(),
        })
    }

    /// Holds 1 TiB anywhere that is free, for both sides in one process. It is no entry of the list.
    ///
    /// # Errors
    ///
    /// [`WindowError::AllTaken`] when 31 of them are held, or the system's refusal.
    pub(crate) fn for_loopback() -> Result<Reservation, WindowError> {
        for high in (1..32).map(|slot| slot * TIB) {
            let window = Window {
                index: u32::MAX,
                high,
                high_len: SHARED_BYTES,
                low: 0,
                low_len: 0,
            };
            match Self::take(&window, window.high, window.high_len) {
                Ok(high) => {
                    return Ok(Reservation {
                        window,
                        high,
                        _low: None,
                        filled: Mutex::default(),
                    });
                }
                Err(WindowError::Taken(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(WindowError::AllTaken)
    }

    fn take(window: &Window, start: u64, len: u64) -> Result<Reserved, WindowError> {
        Reserved::exactly(start, len).map_err(|error| {
            if error.raw_os_error() == Some(rustix::io::Errno::EXIST.raw_os_error()) {
                WindowError::Taken(window.index)
            } else {
                WindowError::System(error)
            }
        })
    }

    /// The window held.
    #[must_use]
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// The address space of the high range (client) or of its shared part (worker).
    pub(crate) fn high(&self) -> &Reserved {
        &self.high
    }

    /// Makes the kernel place every further map that names no address in the driver part.
    ///
    /// The kernel takes the highest free place below its own base (or, with an unlimited stack, the lowest above it).
    /// So the free space above the window is filled, except 1 GiB below the stack and 64 MiB above the `brk` heap; what
    /// of that still attracts maps is filled too. A `brk` heap that cannot grow is no loss: `malloc` then maps instead.
    /// Filled space stays filled for the life of the process, and costs no memory.
    ///
    /// To be called by the worker before the driver is initialised, best while it has a single thread.
    ///
    /// # Errors
    ///
    /// [`WindowError::NotSteered`] when maps still go elsewhere, or the system's refusal.
    pub fn steer_driver(&self) -> Result<(), WindowError> {
        let mut filled = Vec::new();
        let steered = steer(&self.window, &mut filled);
        for range in filled {
            self.give_filled(range.start, range.end);
        }
        steered
    }

    /// Takes `start .. end` out of the filled space, if all of it is there: the caller may map there.
    pub(crate) fn take_filled(&self, start: u64, end: u64) -> bool {
        let mut filled = lock(&self.filled);
        let Some(at) = filled
            .iter()
            .position(|range| range.start <= start && end <= range.end)
        else {
            return false;
        };
        let range = filled.swap_remove(at);
        let rests = [range.start..start, end..range.end];
        filled.extend(rests.into_iter().filter(|rest| !rest.is_empty()));
        true
    }

    /// Gives filled space back, joined to its neighbours.
    pub(crate) fn give_filled(&self, start: u64, end: u64) {
        let mut filled = lock(&self.filled);
        let mut whole = start..end;
        filled.retain(|range| {
            let joins = range.end == whole.start || range.start == whole.end;
            if joins {
                whole = whole.start.min(range.start)..whole.end.max(range.end);
            }
            !joins
        });
        filled.push(whole);
    }
}

/// A free range of this process's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gap {
    start: u64,
    end: u64,
    /// It begins where the `brk` heap ends.
    above_heap: bool,
    /// The next map above is the main stack.
    below_stack: bool,
}

/// The free ranges between `from` and `to`, read from the text of `/proc/self/maps`.
fn gaps(maps: &str, from: u64, to: u64) -> Vec<Gap> {
    let mut gaps = Vec::new();
    let mut start = from;
    let mut above_heap = false;
    for line in maps.lines() {
        let Some((range, rest)) = line.split_once(' ') else {
            continue;
        };
        let Some((low, high)) = range.split_once('-') else {
            continue;
        };
        let (Ok(low), Ok(high)) = (u64::from_str_radix(low, 16), u64::from_str_radix(high, 16))
        else {
            continue;
        };
        if low >= to {
            let below_stack = rest.ends_with("[stack]");
            if start < to {
                gaps.push(Gap {
                    start,
                    end: to,
                    above_heap,
                    below_stack,
                });
            }
            return gaps;
        }
        if low > start {
            gaps.push(Gap {
                start,
                end: low,
                above_heap,
                below_stack: rest.ends_with("[stack]"),
            });
        }
        if high > start {
            start = high;
            above_heap = rest.ends_with("[heap]");
        }
    }
    if start < to {
        gaps.push(Gap {
            start,
            end: to,
            above_heap,
            below_stack: false,
        });
    }
    gaps
}

/// Where user addresses end without five-level paging.
pub(crate) const USER_END: u64 = 0x7fff_ffff_f000;

fn fill(start: u64, end: u64, filled: &mut Vec<Range<u64>>) -> Result<(), WindowError> {
    if end <= start {
        return Ok(());
    }
    match Reserved::exactly(start, end - start) {
        Ok(reserved) => {
            reserved.leak();
            filled.push(start..end);
            Ok(())
        }
        // Another thread mapped something there meanwhile; the next round of `steer` sees it.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::EXIST.raw_os_error()) => {
            Ok(())
        }
        Err(error) => Err(WindowError::System(error)),
    }
}

fn read_maps() -> Result<String, WindowError> {
    fs::read_to_string("/proc/self/maps").map_err(WindowError::System)
}

fn steer(window: &Window, filled: &mut Vec<Range<u64>>) -> Result<(), WindowError> {
    for gap in gaps(&read_maps()?, window.end(), USER_END) {
        let start = if gap.above_heap {
            gap.start.saturating_add(HEAP_ROOM)
        } else {
            gap.start
        };
        let end = if gap.below_stack {
            gap.end.saturating_sub(STACK_ROOM)
        } else {
            gap.end
        };
        fill(start, end, filled)?;
    }
    let mut landed = 0;
    // Large maps see only large gaps, small ones every gap: each size is tried until it goes where it should.
    for size in [64 * GIB, GIB, 32 << 20, 2 << 20, 4096] {
        for round in 0.. {
            landed = shm::probe_placement(size).map_err(WindowError::System)?;
            if window.classify(landed) == Place::Driver {
                break;
            }
            if round == 64 || window.classify(landed) == Place::Low {
                return Err(WindowError::NotSteered(landed));
            }
            let all = gaps(&read_maps()?, 0x1_0000, USER_END);
            let Some(gap) = all
                .iter()
                .find(|gap| (gap.start..gap.end).contains(&landed))
            else {
                continue;
            };
            // The low range must stay free for the driver.
            let start = if gap.start < window.low + window.low_len && gap.end > window.low {
                gap.start.max(window.low + window.low_len)
            } else {
                gap.start
            };
            // The stack keeps what it may still need whatever the kernel prefers; limits beyond that are unusual.
            let end = if gap.below_stack {
                gap.end.saturating_sub(HEAP_ROOM)
            } else {
                gap.end
            };
            let (start, end) = if start < window.end() && end > window.driver() {
                // One gap reaches across the driver part: fill only what lies on the side that attracts maps.
                if landed < window.driver() {
                    (start, window.driver())
                } else {
                    (window.end(), end)
                }
            } else {
                (start, end)
            };
            fill(start, end, filled)?;
        }
    }
    if window.classify(landed) == Place::Driver {
        Ok(())
    } else {
        Err(WindowError::NotSteered(landed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_has_one_place() {
        for window in &WINDOWS {
            assert_eq!(Window::by_index(window.index), Some(window));
            assert!(window.end() <= 0x5000_0000_0000);
            assert!(window.low >= 8 * GIB && window.low + window.low_len <= 512 * GIB);
            for (address, place) in [
                (window.high - 1, Place::Outside),
                (window.high, Place::Shared),
                (window.driver() - 1, Place::Shared),
                (window.driver(), Place::Driver),
                (window.end() - 1, Place::Driver),
                (window.end(), Place::Outside),
                (window.low - 1, Place::Outside),
                (window.low, Place::Low),
                (0x3_0200_0000, Place::Low),
                (0x2a_9a00_0000, Place::Low),
                (window.low + window.low_len, Place::Outside),
                (0, Place::Outside),
                (u64::MAX, Place::Outside),
            ] {
                assert_eq!(
                    window.classify(address),
                    place,
                    "{address:#x} in window {}",
                    window.index
                );
            }
        }
        assert_eq!(Window::by_index(4), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps memory")]
    fn filled_space_is_taken_once_and_whole_again() {
        let held = Reservation::for_loopback().unwrap();
        held.give_filled(0x1000, 0x9000);
        held.give_filled(0x20000, 0x30000);
        assert!(
            !held.take_filled(0x8000, 0xa000),
            "part of it is not filled"
        );
        assert!(!held.take_filled(0x8000, 0x21000), "two pieces with a gap");
        assert!(held.take_filled(0x3000, 0x4000));
        assert!(!held.take_filled(0x3000, 0x4000) && !held.take_filled(0x2000, 0x5000));
        assert!(held.take_filled(0x1000, 0x3000) && held.take_filled(0x4000, 0x9000));
        held.give_filled(0x4000, 0x9000);
        held.give_filled(0x1000, 0x3000);
        held.give_filled(0x3000, 0x4000);
        assert!(held.take_filled(0x1000, 0x9000), "one piece again");
    }

    #[test]
    fn gaps_are_what_lies_between_maps() {
        let maps = "1000-2000 r-xp 0 00:00 0 /bin/x\n\
                    2000-3000 rw-p 0 00:00 0 [heap]\n\
                    nonsense\n\
                    8000-9000 rw-p 0 00:00 0\n\
                    f000-10000 rw-p 0 00:00 0 [stack]\n\
                    ffffffffff600000-ffffffffff601000 --xp 0 00:00 0 [vsyscall]\n";
        let gap = |start, end, above_heap, below_stack| Gap {
            start,
            end,
            above_heap,
            below_stack,
        };
        assert_eq!(
            gaps(maps, 0x800, 0x20000),
            [
                gap(0x800, 0x1000, false, false),
                gap(0x3000, 0x8000, true, false),
                gap(0x9000, 0xf000, false, true),
                gap(0x10000, 0x20000, false, false),
            ]
        );
        assert_eq!(
            gaps(maps, 0x4000, 0x7000),
            [gap(0x4000, 0x7000, false, false)]
        );
        assert_eq!(gaps(maps, 0x8000, 0x9000), []);
        assert_eq!(gaps("", 1, 2), [gap(1, 2, false, false)]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps memory")]
    fn a_window_is_held_once() {
        let first = Reservation::for_client().unwrap();
        let index = first.window().index;
        assert!(
            matches!(Reservation::for_client_at(index), Err(WindowError::Taken(i)) if i == index)
        );
        assert!(matches!(
            Reservation::for_server(index),
            Err(WindowError::Taken(_))
        ));
        assert!(
            matches!(Reservation::for_client(), Err(WindowError::AllTaken)),
            "the low range is the same one"
        );
        drop(first);
        assert!(Reservation::for_server(index).is_ok());
        assert!(matches!(
            Reservation::for_server(99),
            Err(WindowError::Unknown(99))
        ));
    }
}
