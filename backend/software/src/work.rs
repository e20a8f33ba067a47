//! What streams execute.

use crate::callback::HostCall;
use crate::context::Core;
use crate::copy::{Copy, Fill};
use crate::device;
use crate::event::Record;
use crate::interprocess::Point;
use crate::launch::KernelLaunch;
use crate::memory::Range;
use crate::raw;
use crate::user_object::Token;
use std::sync::Arc;
use std::time::Duration;
use vgpu_protocol::cuda::CUresult;

/// A word in memory a stream writes or waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryWord {
    /// Address, aligned to the word.
    pub(crate) addr: u64,
    /// The value to write or compare with.
    pub(crate) value: u64,
    /// Whether the word has 64 bits.
    pub(crate) wide: bool,
}

impl MemoryWord {
    /// Bytes of the word.
    pub(crate) fn size(&self) -> u64 {
        if self.wide { 8 } else { 4 }
    }
}

/// How a stream compares a word (`CUstreamWaitValue_flags`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// `(word - value)` as a signed number is not negative.
    GreaterOrEqual,
    /// `word == value`.
    Equal,
    /// `word & value` is not 0.
    And,
    /// `!(word | value)` is not 0.
    Nor,
}

impl Comparison {
    fn holds(self, word: u64, value: u64, wide: bool) -> bool {
        match self {
            Self::GreaterOrEqual if wide => word.wrapping_sub(value) as i64 >= 0,
            Self::GreaterOrEqual => (word as u32).wrapping_sub(value as u32) as i32 >= 0,
            Self::Equal if wide => word == value,
            Self::Equal => word as u32 == value as u32,
            Self::And => word & value != 0,
            Self::Nor if wide => !(word | value) != 0,
            Self::Nor => !(word as u32 | value as u32) != 0,
        }
    }
}

/// A command of a stream, and the action of a graph node.
#[derive(Clone)]
pub(crate) enum Work {
    /// Does nothing: only its order counts.
    Nothing,
    /// A kernel.
    Kernel(Arc<KernelLaunch>),
    /// A copy.
    Copy(Copy),
    /// A fill.
    Fill(Fill),
    /// A function of the program.
    Host(HostCall),
    /// Completes a recording of an event.
    Record(Arc<Record>),
    /// Waits for a recording that other processes see.
    Await(Point),
    /// Writes a word.
    Write(MemoryWord),
    /// Waits for a word.
    Wait(MemoryWord, Comparison),
    /// Ends this allocation.
    Release(Range),
    /// Does nothing: these objects of the program are kept until here.
    Keep(#[expect(dead_code, reason = "held, not looked at")] Arc<Vec<Arc<Token>>>),
    /// The actions of a graph in an order that keeps its dependencies.
    Graph(Arc<Vec<Work>>),
}

/// Unless a wait is over at once it sleeps this long between looks, doubling up to the second.
const WAIT_SLEEPS: (Duration, Duration) = (Duration::from_micros(20), Duration::from_millis(1));
/// Looks before the first sleep.
const WAIT_LOOKS: u32 = 64;

impl Work {
    /// Executes the command; does nothing if the context has failed or ends, except that stream
    /// callbacks are told.
    ///
    /// # Errors
    /// The fault, which becomes the context's.
    pub(crate) fn run(&self, core: &Core) -> Result<(), CUresult> {
        if core.is_over() {
            return match self {
                Self::Host(call) if call.wants_failures() => {
                    let status = core.fault().unwrap_or(CUresult::CONTEXT_IS_DESTROYED);
                    core.host.run(*call, status)
                }
                _ => {
                    self.abandon();
                    Ok(())
                }
            };
        }
        match self {
            Self::Nothing | Self::Keep(_) => Ok(()),
            Self::Kernel(launch) => launch.run(core),
            Self::Copy(copy) => copy.run(),
            Self::Fill(fill) => fill.run(),
            Self::Host(call) => core.host.run(*call, CUresult::SUCCESS),
            Self::Record(record) => {
                record.complete();
                Ok(())
            }
            Self::Await(point) => {
                point.wait(core);
                Ok(())
            }
            Self::Write(word) => write(*word),
            Self::Wait(word, comparison) => wait(*word, *comparison, core),
            Self::Release(range) => {
                // Claimed when the command was made, so nobody else has ended it, unless its
                // context took it along.
                device::memory().end(range.start, |now| now.id == range.id);
                Ok(())
            }
            Self::Graph(nodes) => {
                let mut so_far = Ok(());
                for node in nodes.iter() {
                    match so_far {
                        Ok(()) => so_far = node.run(core),
                        Err(_) => node.abandon(),
                    }
                }
                so_far
            }
        }
    }

    /// What is not executed any more keeps no other process waiting.
    fn abandon(&self) {
        match self {
            Self::Record(record) => record.release(),
            Self::Graph(nodes) => nodes.iter().for_each(Self::abandon),
            _ => {}
        }
    }
}

fn write(word: MemoryWord) -> Result<(), CUresult> {
    let memory = device::memory();
    let _ticket = memory.enter();
    memory
        .check(word.addr, word.size())
        .map_err(|_| CUresult::ILLEGAL_ADDRESS)?;
    // SAFETY: the word is inside a live range, which stays mapped while the ticket is held, and was
    // checked to be aligned when the command was made.
    unsafe { raw::store(word.addr, word.value, word.wide) };
    Ok(())
}

fn wait(word: MemoryWord, comparison: Comparison, core: &Core) -> Result<(), CUresult> {
    let memory = device::memory();
    let mut looks = 0;
    let mut pause = WAIT_SLEEPS.0;
    while !core.is_over() {
        let seen = {
            let _ticket = memory.enter();
            memory
                .check(word.addr, word.size())
                .map_err(|_| CUresult::ILLEGAL_ADDRESS)?;
            // SAFETY: as in `write`.
            unsafe { raw::load(word.addr, word.wide) }
        };
        if comparison.holds(seen, word.value, word.wide) {
            break;
        }
        looks += 1;
        if looks < WAIT_LOOKS {
            std::thread::yield_now();
        } else {
            std::thread::sleep(pause);
            pause = (pause * 2).min(WAIT_SLEEPS.1);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_are_cudas() {
        use Comparison::*;
        assert!(GreaterOrEqual.holds(1, u64::from(u32::MAX), false), "wraps");
        assert!(!GreaterOrEqual.holds(1, u64::from(u32::MAX), true));
        assert!(Equal.holds(7, 7, true));
        assert!(!And.holds(0b0110, 0b1001, false));
        assert!(!Nor.holds(0xffff_0000, 0x0000_ffff, false));
        assert!(Nor.holds(0xffff_0000, 0x0000_ffff, true));
    }
}
