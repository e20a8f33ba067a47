//! One block: its warps in turn, and its sixteen barriers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::warp::{Turn, Warp};
use super::{Cx, Fault, FaultKind, Pred, PredSrc, Slot, lanes_of};
use crate::WARP_SIZE;

/// Barriers a block has.
const BARRIERS: usize = 16;

/// What a barrier instruction does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum BarrierKind {
    /// Arrives and waits.
    Sync,
    /// Arrives only.
    Arrive,
    /// Arrives, waits, and counts the threads whose predicate holds.
    Count(Slot<u32>, PredSrc),
    /// Arrives, waits, and says whether the predicate holds everywhere.
    All(Slot<Pred>, PredSrc),
    /// Arrives, waits, and says whether the predicate holds anywhere.
    Any(Slot<Pred>, PredSrc),
}

/// A lowered barrier instruction.
#[derive(Debug)]
pub(crate) struct BarrierOp {
    pub(crate) kind: BarrierKind,
    pub(crate) id: Slot<u32>,
    /// Threads that take part; all threads of the block when absent.
    pub(crate) count: Option<Slot<u32>>,
}

#[derive(Debug, Default)]
struct Barrier {
    arrived: u32,
    /// 0 for all live threads.
    expected: u32,
    epoch: u64,
    votes: u32,
    /// Threads and votes of the last completed epoch.
    result: (u32, u32),
    /// Lanes, by warp, that were let go and have not yet gone on.
    released: Vec<u32>,
    waiting: Vec<u32>,
}

impl Barrier {
    fn complete(&mut self) {
        self.result = (self.arrived, self.votes);
        self.arrived = 0;
        self.expected = 0;
        self.votes = 0;
        self.epoch += 1;
        for (released, waiting) in self.released.iter_mut().zip(&mut self.waiting) {
            *released |= std::mem::take(waiting);
        }
    }
}

/// State of a running block that its warps share.
#[derive(Debug)]
pub(super) struct Block {
    barriers: [Barrier; BARRIERS],
    live: u32,
    spent: u64,
}

impl BarrierOp {
    /// The barrier named, which must be the same in all lanes.
    pub(super) fn id(&self, cx: &Cx<'_>, mask: u32) -> Result<usize, Fault> {
        let ids = cx.frame.read(self.id);
        let id = lanes_of(mask).next().map_or(0, |l| ids[l]);
        if id as usize >= BARRIERS || lanes_of(mask).any(|l| ids[l] != id) {
            return Err(Fault::new(
                FaultKind::Trap,
                format!("barrier {id} does not exist or differs between lanes"),
            ));
        }
        Ok(id as usize)
    }

    /// Arrives; the epoch to wait for the end of, or `None` for `bar.arrive`.
    pub(super) fn arrive(
        &self,
        block: &mut Block,
        id: usize,
        warp: u32,
        cx: &Cx<'_>,
        mask: u32,
    ) -> Result<Option<u64>, Fault> {
        let live = block.live;
        let barrier = &mut block.barriers[id % BARRIERS];
        if let Some(count) = self.count {
            let counts = cx.frame.read(count);
            let expected = lanes_of(mask).next().map_or(0, |l| counts[l]);
            if expected == 0 || !expected.is_multiple_of(WARP_SIZE) {
                return Err(Fault::new(
                    FaultKind::Trap,
                    format!("{expected} threads at a barrier: no multiple of 32"),
                ));
            }
            barrier.expected = expected;
        }
        barrier.arrived = barrier.arrived.saturating_add(mask.count_ones());
        let epoch = barrier.epoch;
        let waits = !matches!(self.kind, BarrierKind::Arrive);
        if waits && let Some(w) = barrier.waiting.get_mut(warp as usize) {
            *w |= mask;
        }
        if let BarrierKind::Count(_, p) | BarrierKind::All(_, p) | BarrierKind::Any(_, p) =
            self.kind
        {
            let votes = (cx.frame.pred_src(p) & mask).count_ones();
            barrier.votes = barrier.votes.saturating_add(votes);
        }
        let expected = if barrier.expected == 0 {
            live
        } else {
            barrier.expected
        };
        if barrier.arrived >= expected {
            barrier.complete();
        }
        Ok(waits.then_some(epoch))
    }

    /// Delivers the result of a reduction.
    pub(super) fn finish(&self, (threads, votes): (u32, u32), cx: &mut Cx<'_>, mask: u32) {
        let all = |yes: bool| if yes { u32::MAX } else { 0 };
        match self.kind {
            BarrierKind::Sync | BarrierKind::Arrive => {}
            BarrierKind::Count(to, _) => cx.frame.write(to, &[votes; 32], mask),
            BarrierKind::All(to, _) => cx.frame.set_pred(to, all(votes == threads), mask),
            BarrierKind::Any(to, _) => cx.frame.set_pred(to, all(votes > 0), mask),
        }
    }
}

impl Block {
    fn new(threads: u32) -> Self {
        let warps = threads.div_ceil(WARP_SIZE) as usize;
        let barrier = || Barrier {
            released: vec![0; warps],
            waiting: vec![0; warps],
            ..Barrier::default()
        };
        Block {
            barriers: std::array::from_fn(|_| barrier()),
            live: threads,
            spent: 0,
        }
    }

    pub(super) fn epoch(&self, id: usize) -> u64 {
        self.barriers[id % BARRIERS].epoch
    }

    pub(super) fn result(&self, id: usize) -> (u32, u32) {
        self.barriers[id % BARRIERS].result
    }

    /// Those of the lanes that waited at the barrier and were let go; each is told once.
    pub(super) fn take_released(&mut self, id: usize, warp: u32, mask: u32) -> u32 {
        match self.barriers[id % BARRIERS].released.get_mut(warp as usize) {
            Some(released) => {
                let passed = *released & mask;
                *released &= !mask;
                passed
            }
            None => 0,
        }
    }

    /// Threads that are gone are not waited for.
    pub(super) fn exited(&mut self, threads: u32) {
        self.live -= threads.min(self.live);
        for barrier in &mut self.barriers {
            if barrier.arrived > 0 && barrier.expected == 0 && barrier.arrived >= self.live {
                barrier.complete();
            }
        }
    }

    /// Looks at the cancel flag and the instruction budget.
    pub(super) fn check(&mut self, cx: &Cx<'_>) -> Result<(), Fault> {
        if cx.launch.cancel.load(Relaxed) {
            return Err(Fault::new(FaultKind::Cancelled, "the launch was cancelled"));
        }
        if cx.shares.stop.load(Relaxed) {
            return Err(Fault::new(FaultKind::Cancelled, "another block failed"));
        }
        let spent = cx.clock - self.spent;
        self.spent = cx.clock;
        spend(&cx.shares.spent, spent, cx.launch.instruction_budget)
    }
}

fn spend(total: &AtomicU64, spent: u64, budget: Option<u64>) -> Result<(), Fault> {
    let before = total.fetch_add(spent, Relaxed);
    match budget {
        Some(limit) if before.saturating_add(spent) > limit => Err(Fault::new(
            FaultKind::Budget,
            format!("more than {limit} warp instructions"),
        )),
        _ => Ok(()),
    }
}

/// Runs one block to its end.
pub(super) fn run(cx: &mut Cx<'_>) -> Result<(), Fault> {
    let mut warps = Vec::new();
    let result = run_warps(cx, &mut warps);
    for warp in &warps {
        cx.shares.release(warp.charged());
    }
    result
}

fn run_warps(cx: &mut Cx<'_>, warps: &mut Vec<Warp>) -> Result<(), Fault> {
    let threads = cx.launch.block.iter().product::<u32>();
    cx.shared.clear();
    let mut block = Block::new(threads);
    block.spent = cx.clock;
    for index in 0..threads.div_ceil(WARP_SIZE) {
        let lanes = (threads - index * WARP_SIZE).min(WARP_SIZE);
        warps.push(Warp::new(index, u32::MAX >> (WARP_SIZE - lanes), cx)?);
    }
    loop {
        let before = cx.clock;
        let mut running = false;
        for warp in warps.iter_mut() {
            if warp.live() != 0 {
                running |= warp.run(cx, &mut block)? != Turn::Done;
            }
        }
        if !running {
            return block.check(cx);
        }
        if cx.clock == before {
            return Err(deadlock(cx, warps));
        }
    }
}

fn deadlock(cx: &Cx<'_>, warps: &[Warp]) -> Fault {
    let live: u32 = warps.iter().map(|w| w.live().count_ones()).sum();
    let waiting: u32 = warps.iter().map(Warp::at_barrier).sum();
    let line = warps
        .iter()
        .filter(|w| w.live() != 0)
        .find_map(|w| w.waiting_line(cx.kernel))
        .unwrap_or(0);
    let [x, y, z] = cx.block;
    Fault::new(
        FaultKind::Deadlock,
        format!(
            "{waiting} of {live} threads wait at a barrier and {} at a warp-wide instruction for lanes that never come, \
             in kernel '{}' at ptx line {line}, block [{x},{y},{z}]",
            live - waiting,
            cx.kernel.name()
        ),
    )
}
