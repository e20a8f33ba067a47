//! One warp: a set of lane groups, each with its own place in the program.
//!
//! Lanes that took different ways form different groups. The runnable group in the deepest
//! activation, and among those the one with the lowest pc, runs until it reaches the pc of another
//! group (they merge), waits, or ends. Compilers lay code out so that the lowest pc first brings
//! diverged lanes together at the end of an `if` or loop.

use super::block::Block;
use super::frame::{Frame, lanes_of};
use super::{Call, Cx, Fault, FaultKind, Function, Kind, Local, Special, Target};
use crate::lower::Kernel;
use crate::{MAX_LOCAL_BYTES, WARP_SIZE};

/// Deepest chain of calls.
const MAX_DEPTH: usize = 4096;

/// Most bytes of register frames of one warp.
const MAX_FRAME_BYTES: usize = 64 << 20;

/// Jumps backwards after which another group gets a turn, so that lanes waiting in a loop for
/// another lane of their warp do not starve it.
const SPINS_PER_GROUP: u32 = 4096;

/// The same for loops that look at memory others write: likely locks, where every turn is wasted.
const POLLS_PER_GROUP: u32 = 64;

/// Jumps backwards and calls after which another warp gets a turn, and the budget is checked.
const JUMPS_PER_TURN: u32 = 16_384;

/// What a group of lanes is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Run,
    /// Waits at a warp-wide instruction for other lanes.
    Gather,
    /// Waits at a barrier of the block, in the barrier's `epoch`.
    Barrier {
        id: usize,
        epoch: u64,
    },
}

#[derive(Debug, Clone, Copy)]
struct Group {
    activation: usize,
    pc: u32,
    mask: u32,
    state: State,
    /// When the group last ran, for taking turns.
    stamp: u64,
}

/// A function being executed by some lanes.
#[derive(Debug)]
struct Activation {
    frame: Frame,
    function: usize,
    depth: usize,
    /// Caller's activation, and the pc of the call there.
    caller: Option<(usize, u32)>,
    local_base: u32,
    /// Lanes that are in it or in its callees.
    live: u32,
}

/// How a turn of a warp ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Done,
    Waiting,
    Yielded,
}

/// One warp of a block.
#[derive(Debug, Default)]
pub(super) struct Warp {
    index: u32,
    live: u32,
    groups: Vec<Group>,
    activations: Vec<Option<Activation>>,
    /// Places in `activations` that are `None`.
    free: Vec<usize>,
    frame_bytes: usize,
    /// Bytes counted in the launch's total.
    charged: u64,
    local: Local,
    stamp: u64,
}

enum Next {
    /// Look for the group to run.
    Pick,
    /// The same, but let the group that waited longest run.
    Rotate,
    Yield,
}

impl Warp {
    pub(super) fn new(index: u32, live: u32, cx: &Cx<'_>) -> Result<Self, Fault> {
        let mut warp = Warp {
            index,
            live,
            ..Warp::default()
        };
        let activation = warp.activate(cx, 0, None, live)?;
        warp.groups.push(Group {
            activation,
            pc: 0,
            mask: live,
            state: State::Run,
            stamp: 0,
        });
        Ok(warp)
    }

    /// Bytes to give back when the warp is gone.
    pub(super) fn charged(&self) -> u64 {
        self.charged
    }

    pub(super) fn live(&self) -> u32 {
        self.live
    }

    /// Lanes that wait at a barrier of the block.
    pub(super) fn at_barrier(&self) -> u32 {
        self.groups
            .iter()
            .filter(|g| matches!(g.state, State::Barrier { .. }))
            .map(|g| g.mask.count_ones())
            .sum()
    }

    /// Line of the first waiting group.
    pub(super) fn waiting_line(&self, kernel: &Kernel) -> Option<u32> {
        let group = self.groups.first()?;
        let function = self.activations.get(group.activation)?.as_ref()?.function;
        Some(
            kernel
                .functions
                .get(function)?
                .origin
                .get(group.pc as usize)?
                .0,
        )
    }

    fn activate(
        &mut self,
        cx: &Cx<'_>,
        function: usize,
        caller: Option<(usize, u32)>,
        mask: u32,
    ) -> Result<usize, Fault> {
        let code = function_of(cx.kernel, function)?;
        if let Some(why) = &code.refused {
            return Err(Fault::new(FaultKind::Unsupported, why.clone()));
        }
        let (depth, local_base) = match caller.and_then(|(c, _)| self.activations.get(c)?.as_ref())
        {
            Some(c) => (
                c.depth + 1,
                c.local_base + function_of(cx.kernel, c.function)?.local_bytes,
            ),
            None => (0, 0),
        };
        let local_end = local_base.saturating_add(code.local_bytes);
        let bytes = code.image.len() * 8;
        if depth > MAX_DEPTH
            || local_end > MAX_LOCAL_BYTES
            || self.frame_bytes + bytes > MAX_FRAME_BYTES
        {
            return Err(Fault::new(
                FaultKind::StackOverflow,
                format!("call depth {depth}, {local_end} bytes of local memory"),
            ));
        }
        let charge = (bytes + self.local.growth(local_end as usize)) as u64;
        cx.shares.charge(charge)?;
        self.charged += charge;
        self.frame_bytes += bytes;
        self.local.reserve(local_end as usize);
        self.local
            .zero(local_base as usize, code.local_bytes as usize, mask);
        let mut frame = Frame::new(&code.image);
        fill_specials(&mut frame, code, cx, self.index, local_base);
        let activation = Activation {
            frame,
            function,
            depth,
            caller,
            local_base,
            live: mask,
        };
        let at = self.free.pop().unwrap_or(self.activations.len());
        match self.activations.get_mut(at) {
            Some(place) => *place = Some(activation),
            None => self.activations.push(Some(activation)),
        }
        Ok(at)
    }

    /// Runs until the warp ends, waits for other warps, or has had its turn.
    pub(super) fn run(&mut self, cx: &mut Cx<'_>, block: &mut Block) -> Result<Turn, Fault> {
        cx.warp = self.index;
        cx.live = self.live;
        std::mem::swap(&mut cx.local, &mut self.local);
        let result = self.run_groups(cx, block);
        std::mem::swap(&mut cx.local, &mut self.local);
        result
    }

    fn run_groups(&mut self, cx: &mut Cx<'_>, block: &mut Block) -> Result<Turn, Fault> {
        let mut rotate = false;
        let mut jumps = 0;
        loop {
            if self.groups.is_empty() {
                return Ok(Turn::Done);
            }
            for group in &mut self.groups {
                if let State::Barrier { id, epoch } = group.state
                    && block.epoch(id) != epoch
                {
                    group.state = State::Run;
                }
            }
            let Some(at) = self.pick(rotate) else {
                return Ok(Turn::Waiting);
            };
            rotate = false;
            let mut group = self.groups.swap_remove(at);
            self.merge_into(&mut group);
            self.stamp += 1;
            group.stamp = self.stamp;
            match self.run_group(group, cx, block, &mut jumps)? {
                Next::Pick => {}
                Next::Rotate => rotate = true,
                Next::Yield => return Ok(Turn::Yielded),
            }
        }
    }

    fn depth(&self, group: &Group) -> usize {
        self.activations
            .get(group.activation)
            .and_then(Option::as_ref)
            .map_or(0, |a| a.depth)
    }

    fn pick(&self, rotate: bool) -> Option<usize> {
        let runnable = self
            .groups
            .iter()
            .enumerate()
            .filter(|(_, g)| g.state == State::Run);
        if rotate {
            return runnable.min_by_key(|(_, g)| g.stamp).map(|(i, _)| i);
        }
        runnable
            .min_by_key(|(_, g)| (usize::MAX - self.depth(g), g.pc))
            .map(|(i, _)| i)
    }

    /// Takes in every group that stands at the same place and does not wait for other warps.
    fn merge_into(&mut self, group: &mut Group) {
        self.groups.retain(|other| {
            let same = other.activation == group.activation
                && other.pc == group.pc
                && !matches!(other.state, State::Barrier { .. });
            if same {
                group.mask |= other.mask;
            }
            !same
        });
    }

    /// The next pc above `pc` where another group stands.
    fn limit(&self, activation: usize, pc: u32) -> u32 {
        self.groups
            .iter()
            .filter(|g| {
                g.activation == activation && g.pc > pc && !matches!(g.state, State::Barrier { .. })
            })
            .map(|g| g.pc)
            .min()
            .unwrap_or(u32::MAX)
    }

    fn push(&mut self, group: Group, mask: u32, pc: u32, state: State) {
        if mask != 0 {
            self.groups.push(Group {
                mask,
                pc,
                state,
                ..group
            });
        }
    }

    fn run_group(
        &mut self,
        mut group: Group,
        cx: &mut Cx<'_>,
        block: &mut Block,
        jumps: &mut u32,
    ) -> Result<Next, Fault> {
        let Some(Some(activation)) = self.activations.get_mut(group.activation) else {
            return Err(Fault::new(
                FaultKind::Internal,
                "a group without activation",
            ));
        };
        let function = activation.function;
        cx.frame = std::mem::take(&mut activation.frame);
        cx.local_base = activation.local_base;
        let code = function_of(cx.kernel, function)?;
        let limit = self.limit(group.activation, group.pc);
        let alone = self.groups.iter().all(|g| g.state != State::Run);
        let mut spins = 0;
        cx.polls = 0;
        let next = self.step(&mut group, code, limit, alone, &mut spins, cx, block, jumps);
        // The activation may be gone when its last lanes returned.
        if let Some(Some(activation)) = self.activations.get_mut(group.activation) {
            activation.frame = std::mem::take(&mut cx.frame);
        }
        next.map_err(|fault| {
            let (line, op) = code
                .origin
                .get(group.pc as usize)
                .map_or((0, ""), |(l, o)| (*l, o));
            let [x, y, z] = cx.block;
            let inside = if function == 0 {
                String::new()
            } else {
                format!(", in function '{}'", code.name)
            };
            fault.at(&format!(
                " in kernel '{}' at ptx line {line} ({op}){inside}, block [{x},{y},{z}], warp {}",
                cx.kernel.name(),
                self.index
            ))
        })
    }

    /// Runs `group` until it must be left. On return the group's lanes are back in `self.groups`.
    #[allow(clippy::too_many_arguments)] // one call site; a struct would only rename the arguments
    fn step(
        &mut self,
        group: &mut Group,
        code: &Function,
        limit: u32,
        alone: bool,
        spins: &mut u32,
        cx: &mut Cx<'_>,
        block: &mut Block,
        jumps: &mut u32,
    ) -> Result<Next, Fault> {
        loop {
            if group.pc >= limit {
                self.push(*group, group.mask, group.pc, State::Run);
                return Ok(Next::Pick);
            }
            let Some(inst) = code.code.get(group.pc as usize) else {
                return Err(Fault::new(
                    FaultKind::Internal,
                    "the program ran past its end",
                ));
            };
            cx.clock += 1;
            let mask = match inst.guard {
                None => group.mask,
                Some(guard) => group.mask & cx.frame.pred_src(guard),
            };
            let skipped = group.mask & !mask;
            if mask == 0 {
                group.pc += 1;
                continue;
            }
            match &inst.kind {
                Kind::Op(op) => {
                    op(cx, mask)?;
                    group.pc += 1;
                }
                Kind::Branch(target) => {
                    if *target <= group.pc
                        && let Some(next) = self.jumped(
                            group, mask, *target, skipped, alone, spins, cx, block, jumps,
                        )?
                    {
                        return Ok(next);
                    }
                    if skipped == 0 {
                        group.pc = *target;
                    } else {
                        self.push(*group, mask, *target, State::Run);
                        self.push(*group, skipped, group.pc + 1, State::Run);
                        return Ok(Next::Pick);
                    }
                }
                Kind::BranchIndexed(index, targets) => {
                    let indices = cx.frame.read(*index);
                    for lane in lanes_of(mask) {
                        let Some(target) = targets.get(indices[lane] as usize) else {
                            return Err(Fault::new(
                                FaultKind::InvalidCall,
                                format!("branch index {}", indices[lane]),
                            ));
                        };
                        self.join(*group, 1 << lane, *target);
                    }
                    self.push(*group, skipped, group.pc + 1, State::Run);
                    *jumps += 1;
                    return self.turn(cx, block, jumps);
                }
                Kind::Return => {
                    self.push(*group, skipped, group.pc + 1, State::Run);
                    return self.leave(group, mask, code, cx, block);
                }
                Kind::Exit => {
                    self.push(*group, skipped, group.pc + 1, State::Run);
                    self.exit(group.activation, mask, cx, block);
                    return Ok(Next::Pick);
                }
                Kind::Call(call) => {
                    self.push(*group, skipped, group.pc + 1, State::Run);
                    self.call(group, mask, call, cx)?;
                    *jumps += 1;
                    return self.turn(cx, block, jumps);
                }
                Kind::Barrier(op) => {
                    let id = op.id(cx, mask)?;
                    let passed = block.take_released(id, self.index, mask);
                    if passed != 0 {
                        op.finish(block.result(id), cx, passed);
                    }
                    if passed == group.mask {
                        group.pc += 1;
                        continue;
                    }
                    self.push(*group, passed | skipped, group.pc + 1, State::Run);
                    let arriving = mask & !passed;
                    if arriving != 0 {
                        match op.arrive(block, id, self.index, cx, arriving)? {
                            // `bar.arrive` does not wait.
                            None => self.push(*group, arriving, group.pc + 1, State::Run),
                            Some(epoch) => {
                                self.push(*group, arriving, group.pc, State::Barrier { id, epoch })
                            }
                        }
                    }
                    return Ok(Next::Pick);
                }
                Kind::Sync(member, op) => {
                    let members = cx.frame.read(*member);
                    let mut ready = 0;
                    for lane in lanes_of(mask) {
                        if members[lane] & self.live & !mask == 0 {
                            ready |= 1 << lane;
                        }
                    }
                    if ready == 0 && op.is_none() && self.release(group, code, mask, members, cx) {
                        ready = mask;
                    }
                    if ready != 0
                        && let Some(op) = op
                    {
                        op(cx, ready)?;
                    }
                    if ready == group.mask {
                        group.pc += 1;
                        continue;
                    }
                    self.push(*group, ready | skipped, group.pc + 1, State::Run);
                    self.push(*group, mask & !ready, group.pc, State::Gather);
                    return Ok(Next::Pick);
                }
            }
        }
    }

    /// Counts a jump backwards; says so when someone else should run.
    #[allow(clippy::too_many_arguments)] // the state of `step`, which it is a part of
    fn jumped(
        &mut self,
        group: &Group,
        mask: u32,
        target: u32,
        skipped: u32,
        alone: bool,
        spins: &mut u32,
        cx: &mut Cx<'_>,
        block: &mut Block,
        jumps: &mut u32,
    ) -> Result<Option<Next>, Fault> {
        *spins += 1;
        *jumps += 1;
        let mut crowded = !alone && *spins >= SPINS_PER_GROUP;
        if cx.polls >= POLLS_PER_GROUP {
            cx.polls = 0;
            crowded = !alone;
            *jumps += JUMPS_PER_TURN / 8;
        }
        if !crowded && *jumps < JUMPS_PER_TURN {
            return Ok(None);
        }
        self.push(*group, mask, target, State::Run);
        self.push(*group, skipped, group.pc + 1, State::Run);
        match self.turn(cx, block, jumps)? {
            Next::Pick => Ok(Some(Next::Rotate)),
            other => Ok(Some(other)),
        }
    }

    /// Ends the warp's turn when it has had it.
    fn turn(&mut self, cx: &mut Cx<'_>, block: &mut Block, jumps: &mut u32) -> Result<Next, Fault> {
        if *jumps < JUMPS_PER_TURN {
            return Ok(Next::Pick);
        }
        *jumps = 0;
        block.check(cx)?;
        Ok(Next::Yield)
    }

    /// Adds one lane at a place, to a group that just arrived there if there is one.
    fn join(&mut self, group: Group, lane: u32, pc: u32) {
        let there = self
            .groups
            .iter_mut()
            .find(|g| g.activation == group.activation && g.pc == pc && g.state == State::Run);
        match there {
            Some(g) => g.mask |= lane,
            None => self.push(group, lane, pc, State::Run),
        }
    }

    /// `bar.warp.sync` may be met at different places: lets everyone go when all named lanes wait.
    fn release(
        &mut self,
        group: &Group,
        code: &Function,
        mask: u32,
        members: [u32; 32],
        cx: &Cx<'_>,
    ) -> bool {
        let waits = |g: &Group| {
            g.state == State::Gather
                && g.activation == group.activation
                && matches!(
                    code.code.get(g.pc as usize).map(|i| &i.kind),
                    Some(Kind::Sync(_, None))
                )
        };
        let all = self
            .groups
            .iter()
            .filter(|g| waits(g))
            .fold(mask, |m, g| m | g.mask);
        let met = lanes_of(mask).all(|lane| members[lane] & cx.live & !all == 0);
        if met {
            for g in self.groups.iter_mut() {
                if waits(g) {
                    g.state = State::Run;
                    g.pc += 1;
                }
            }
        }
        met
    }

    fn leave(
        &mut self,
        group: &Group,
        mask: u32,
        code: &Function,
        cx: &mut Cx<'_>,
        block: &mut Block,
    ) -> Result<Next, Fault> {
        let Some(Some(activation)) = self.activations.get_mut(group.activation) else {
            return Err(Fault::new(FaultKind::Internal, "return without activation"));
        };
        let Some((caller, pc)) = activation.caller else {
            self.exit(group.activation, mask, cx, block);
            return Ok(Next::Pick);
        };
        activation.live &= !mask;
        let (base, empty) = (activation.local_base, activation.live == 0);
        let Some(Some(parent)) = self.activations.get(caller) else {
            return Err(Fault::new(FaultKind::Internal, "return to nowhere"));
        };
        let call = function_of(cx.kernel, parent.function)?
            .code
            .get(pc as usize)
            .map(|i| &i.kind);
        if let Some(Kind::Call(call)) = call {
            for ((from, size), (to, room)) in code.returns.iter().zip(&call.returns) {
                for lane in lanes_of(mask) {
                    let (from, to) = (base + from, parent.local_base + to);
                    cx.local.copy(
                        lane,
                        from as usize,
                        to as usize,
                        (*size).min(*room) as usize,
                    );
                }
            }
        }
        if empty {
            self.release_activation(group.activation, cx);
        }
        self.join(
            Group {
                activation: caller,
                ..*group
            },
            mask,
            pc + 1,
        );
        Ok(Next::Pick)
    }

    fn release_activation(&mut self, index: usize, cx: &mut Cx<'_>) {
        if let Some(place) = self.activations.get_mut(index)
            && let Some(activation) = place.take()
        {
            // The running activation's frame is out on loan.
            let bytes = activation
                .frame
                .bytes()
                .max(cx.frame.bytes() * usize::from(activation.frame.bytes() == 0));
            self.frame_bytes = self.frame_bytes.saturating_sub(bytes);
            self.free.push(index);
            cx.shares.release(bytes as u64);
            self.charged = self.charged.saturating_sub(bytes as u64);
        }
    }

    fn exit(&mut self, activation: usize, mask: u32, cx: &mut Cx<'_>, block: &mut Block) {
        let mut at = Some(activation);
        while let Some(index) = at {
            let Some(Some(a)) = self.activations.get_mut(index) else {
                break;
            };
            a.live &= !mask;
            let (caller, empty) = (a.caller, a.live == 0);
            if empty {
                self.release_activation(index, cx);
            }
            at = caller.map(|(c, _)| c);
        }
        self.live &= !mask;
        cx.live = self.live;
        // Lanes that waited for the ones that left look again.
        for group in &mut self.groups {
            if group.state == State::Gather {
                group.state = State::Run;
            }
        }
        block.exited(mask.count_ones());
    }

    fn call(
        &mut self,
        group: &Group,
        mask: u32,
        call: &Call,
        cx: &mut Cx<'_>,
    ) -> Result<(), Fault> {
        let mut rest = mask;
        while rest != 0 {
            let (function, lanes) = match call.target {
                Target::Direct(f) => (f, rest),
                Target::Indirect(slot) => {
                    let addresses = cx.frame.read(slot);
                    let first = addresses[rest.trailing_zeros() as usize % WARP_SIZE as usize];
                    let same = lanes_of(rest)
                        .filter(|l| addresses[*l] == first)
                        .fold(0, |m, l| m | 1 << l);
                    let Some(f) = cx.kernel.function_at(first) else {
                        return Err(Fault::new(
                            FaultKind::InvalidCall,
                            format!("{first:#x} is no function"),
                        ));
                    };
                    (f, same)
                }
            };
            rest &= !lanes;
            self.local = std::mem::take(&mut cx.local);
            let made = self.activate(cx, function, Some((group.activation, group.pc)), lanes);
            cx.local = std::mem::take(&mut self.local);
            let activation = made?;
            let callee = function_of(cx.kernel, function)?;
            if callee.params.len() != call.args.len() || callee.returns.len() < call.returns.len() {
                return Err(Fault::new(
                    FaultKind::InvalidCall,
                    format!(
                        "'{}' takes {} parameters, not {}",
                        callee.name,
                        callee.params.len(),
                        call.args.len()
                    ),
                ));
            }
            let base = self
                .activations
                .get(activation)
                .and_then(Option::as_ref)
                .map_or(0, |a| a.local_base);
            for ((from, size), (to, room)) in call.args.iter().zip(&callee.params) {
                for lane in lanes_of(lanes) {
                    let (from, to) = (cx.local_base + from, base + to);
                    cx.local.copy(
                        lane,
                        from as usize,
                        to as usize,
                        (*size).min(*room) as usize,
                    );
                }
            }
            self.push(
                Group {
                    activation,
                    ..*group
                },
                lanes,
                0,
                State::Run,
            );
        }
        Ok(())
    }
}

fn function_of(kernel: &Kernel, index: usize) -> Result<&Function, Fault> {
    kernel
        .functions
        .get(index)
        .ok_or_else(|| Fault::new(FaultKind::Internal, "no such function"))
}

fn fill_specials(frame: &mut Frame, code: &Function, cx: &Cx<'_>, warp: u32, local_base: u32) {
    use super::{FULL, LANES, Slot};
    let [nx, ny, nz] = cx.launch.block;
    for (offset, wide, special) in &code.specials {
        let mut values = [0u64; LANES];
        for (lane, value) in values.iter_mut().enumerate() {
            let lane = lane as u32;
            let thread = warp * WARP_SIZE + lane;
            *value = u64::from(match special {
                Special::TidX => thread % nx,
                Special::TidY => thread / nx % ny,
                Special::TidZ => thread / nx / ny,
                Special::NtidX => nx,
                Special::NtidY => ny,
                Special::NtidZ => nz,
                Special::CtaidX => cx.block[0],
                Special::CtaidY => cx.block[1],
                Special::CtaidZ => cx.block[2],
                Special::NctaidX => cx.launch.grid[0],
                Special::NctaidY => cx.launch.grid[1],
                Special::NctaidZ => cx.launch.grid[2],
                Special::LaneId => lane,
                Special::WarpId => warp,
                Special::NWarpId => (nx * ny * nz).div_ceil(WARP_SIZE),
                Special::LaneMaskEq => 1 << lane,
                Special::LaneMaskLt => (1 << lane) - 1,
                Special::LaneMaskLe => u32::MAX >> (31 - lane),
                Special::LaneMaskGe => u32::MAX << lane,
                Special::LaneMaskGt => !(u32::MAX >> (31 - lane)),
                Special::DynamicShared => cx.launch.dynamic_shared,
                Special::TotalShared => cx.shared.len() as u32,
                Special::LocalAddress(at, _) => local_base + at,
            });
            if let Special::LocalAddress(_, tag) = special {
                *value |= tag;
            }
        }
        if *wide {
            frame.write(Slot::<u64>::at(*offset), &values, FULL);
        } else {
            frame.write(Slot::<u32>::at(*offset), &values.map(|v| v as u32), FULL);
        }
    }
}
