//! Stream capture: which streams are turning their commands into graph nodes, and what is
//! prohibited meanwhile.
//!
//! A capture begins in one stream and spreads to streams that wait for events recorded in it. Each
//! member stream remembers the nodes its next one depends on. Anything prohibited invalidates the
//! capture: what follows is refused until it is ended in its stream.

use crate::context::Core;
use crate::current;
use crate::event::{Event, State};
use crate::foreign::Outcome;
use crate::graph::{Action, Graph};
use crate::stream::{Role, Stream};
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use vgpu_protocol::cuda::{
    CU_STREAM_CAPTURE_MODE_GLOBAL, CU_STREAM_CAPTURE_MODE_RELAXED, CUgraph, CUresult,
};

/// `CU_EVENT_RECORD_EXTERNAL` and `CU_EVENT_WAIT_EXTERNAL`: the event is no part of the capture but
/// becomes a node of its own.
const EXTERNAL: u32 = 1;

struct Capture {
    graph: Arc<Graph>,
    /// [`Stream::key`] of the stream it began in.
    origin: u64,
    thread: u64,
    mode: u32,
    valid: bool,
}

struct Member {
    capture: u64,
    /// Nodes that the next one depends on.
    nodes: Vec<u64>,
    /// [`Core::id`] of the stream's context.
    owner: u64,
    role: Role,
}

struct Registry {
    captures: BTreeMap<u64, Capture>,
    /// By [`Stream::key`].
    members: BTreeMap<u64, Member>,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
    captures: BTreeMap::new(),
    members: BTreeMap::new(),
});

/// Captures in the registry, so that the usual case, none, costs one load. A capture that begins at
/// the same time in another thread is not ordered with the call that looks, with or without a lock.
static ACTIVE: AtomicUsize = AtomicUsize::new(0);

fn registry() -> Option<MutexGuard<'static, Registry>> {
    (ACTIVE.load(Ordering::Acquire) > 0).then(|| REGISTRY.lock())
}

impl Registry {
    fn invalidate(&mut self, capture: u64) {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.valid = false;
        }
    }

    /// Invalidates the captures of all member streams for which `hit` holds; whether there are any.
    fn invalidate_members(&mut self, hit: impl Fn(&Member) -> bool) -> bool {
        let hits: Vec<u64> = self
            .members
            .values()
            .filter(|member| hit(member))
            .map(|member| member.capture)
            .collect();
        for capture in &hits {
            self.invalidate(*capture);
        }
        !hits.is_empty()
    }

    /// Using the legacy default stream would order it with blocking streams that are capturing.
    fn refuse_implicit(&mut self, stream: &Stream) -> Outcome {
        let owner = stream.core.id;
        let implicit = stream.role == Role::Legacy
            && self.invalidate_members(|member| {
                member.owner == owner && member.role == Role::Blocking
            });
        if implicit {
            return Err(CUresult::STREAM_CAPTURE_IMPLICIT);
        }
        Ok(())
    }

    /// The valid capture a stream takes part in.
    fn joined(&self, stream: &Stream) -> Outcome<Option<u64>> {
        let Some(member) = self.members.get(&stream.key) else {
            return Ok(None);
        };
        match self.captures.get(&member.capture) {
            Some(capture) if capture.valid => Ok(Some(member.capture)),
            _ => Err(CUresult::STREAM_CAPTURE_INVALIDATED),
        }
    }

    /// Appends a node to a member stream.
    fn append(&mut self, stream: &Stream, action: Action) -> Outcome {
        let member = self.members.get_mut(&stream.key);
        let member = member.ok_or(CUresult::ILLEGAL_STATE)?;
        let capture = self.captures.get(&member.capture);
        let capture = capture.ok_or(CUresult::ILLEGAL_STATE)?;
        let node = capture.graph.add(action, &member.nodes)?;
        member.nodes = vec![node];
        Ok(())
    }

    fn remove(&mut self, id: u64) -> Option<Capture> {
        self.members.retain(|_, member| member.capture != id);
        let capture = self.captures.remove(&id);
        ACTIVE.store(self.captures.len(), Ordering::Release);
        capture
    }
}

/// Refuses a call that is potentially unsafe during a capture, by the thread's capture mode, and
/// invalidates the captures it would disturb.
///
/// # Errors
/// `STREAM_CAPTURE_UNSUPPORTED`.
pub(crate) fn prohibit() -> Outcome {
    let Some(mut registry) = registry() else {
        return Ok(());
    };
    let mode = current::capture_mode();
    if mode == CU_STREAM_CAPTURE_MODE_RELAXED {
        return Ok(());
    }
    let thread = current::thread();
    let mut prohibited = false;
    for capture in registry.captures.values_mut() {
        let own = capture.thread == thread && capture.mode != CU_STREAM_CAPTURE_MODE_RELAXED;
        let global =
            mode == CU_STREAM_CAPTURE_MODE_GLOBAL && capture.mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
        if own || global {
            capture.valid = false;
            prohibited = true;
        }
    }
    if prohibited {
        return Err(CUresult::STREAM_CAPTURE_UNSUPPORTED);
    }
    Ok(())
}

/// Refuses to wait for or query a stream that takes part in a capture.
///
/// # Errors
/// `STREAM_CAPTURE_UNSUPPORTED`, or `STREAM_CAPTURE_IMPLICIT` for the legacy default stream.
pub(crate) fn refuse_stream(stream: &Stream) -> Outcome {
    let Some(mut registry) = registry() else {
        return Ok(());
    };
    if let Some(member) = registry.members.get(&stream.key) {
        let capture = member.capture;
        registry.invalidate(capture);
        return Err(CUresult::STREAM_CAPTURE_UNSUPPORTED);
    }
    registry.refuse_implicit(stream)
}

/// Refuses to wait for a context with capturing streams.
///
/// # Errors
/// `STREAM_CAPTURE_UNSUPPORTED`.
pub(crate) fn refuse_context(core: &Core) -> Outcome {
    let Some(mut registry) = registry() else {
        return Ok(());
    };
    if registry.invalidate_members(|member| member.owner == core.id) {
        return Err(CUresult::STREAM_CAPTURE_UNSUPPORTED);
    }
    Ok(())
}

/// Refuses to query or wait for an event last recorded in a capture, invalidating the capture.
///
/// # Errors
/// `CAPTURED_EVENT` while that goes on, `INVALID_VALUE` afterwards (as driver 580 says).
pub(crate) fn refuse_event(event: &Event) -> Outcome {
    let capture = match &*event.state.lock() {
        State::Captured { capture, .. } => *capture,
        _ => return Ok(()),
    };
    match registry() {
        Some(mut registry) if registry.captures.contains_key(&capture) => {
            registry.invalidate(capture);
            Err(CUresult::CAPTURED_EVENT)
        }
        _ => Err(CUresult::INVALID_VALUE),
    }
}

/// Whether a stream takes part in a capture.
pub(crate) fn is_capturing(stream: &Stream) -> bool {
    registry().is_some_and(|registry| registry.members.contains_key(&stream.key))
}

/// Turns a command into a node if its stream is capturing; otherwise hands it back.
///
/// # Errors
/// `STREAM_CAPTURE_INVALIDATED`, `STREAM_CAPTURE_IMPLICIT`.
pub(crate) fn divert(stream: &Stream, action: Action) -> Outcome<Option<Action>> {
    let Some(mut registry) = registry() else {
        return Ok(Some(action));
    };
    if registry.joined(stream)?.is_some() {
        registry.append(stream, action)?;
        return Ok(None);
    }
    registry.refuse_implicit(stream)?;
    Ok(Some(action))
}

/// Records an event if its stream is capturing; returns whether it did.
///
/// # Errors
/// `STREAM_CAPTURE_INVALIDATED`, `STREAM_CAPTURE_IMPLICIT`.
pub(crate) fn record(stream: &Stream, event: &Arc<Event>, flags: u32) -> Outcome<bool> {
    let Some(mut registry) = registry() else {
        return Ok(false);
    };
    let Some(capture) = registry.joined(stream)? else {
        registry.refuse_implicit(stream)?;
        return Ok(false);
    };
    if flags & EXTERNAL != 0 {
        registry.append(stream, Action::Record(Arc::clone(event)))?;
    } else if let Some(member) = registry.members.get(&stream.key) {
        let nodes = member.nodes.clone();
        *event.state.lock() = State::Captured { capture, nodes };
    }
    Ok(true)
}

/// Makes a stream wait for an event if either belongs to a capture; returns whether it did.
///
/// # Errors
/// `STREAM_CAPTURE_ISOLATION` for a capturing stream and an event outside, `STREAM_CAPTURE_MERGE`
/// for events of another capture, `CAPTURED_EVENT` for one whose capture is over,
/// `STREAM_CAPTURE_IMPLICIT`, `STREAM_CAPTURE_INVALIDATED`.
pub(crate) fn wait(stream: &Stream, event: &Arc<Event>, flags: u32) -> Outcome<bool> {
    let state = event.state.lock().clone();
    let Some(mut registry) = registry() else {
        return match state {
            State::Captured { .. } => Err(CUresult::CAPTURED_EVENT),
            _ => Ok(false),
        };
    };
    let joined = registry.joined(stream)?;
    if flags & EXTERNAL != 0 && joined.is_some() {
        registry.append(stream, Action::WaitEvent(Arc::clone(event)))?;
        return Ok(true);
    }
    match (joined, state) {
        (None, State::Captured { capture, nodes }) => {
            if stream.role == Role::Legacy {
                registry.invalidate(capture);
                return Err(CUresult::STREAM_CAPTURE_UNSUPPORTED);
            }
            match registry.captures.get(&capture) {
                None => Err(CUresult::CAPTURED_EVENT),
                Some(known) if !known.valid => Err(CUresult::STREAM_CAPTURE_INVALIDATED),
                Some(_) => {
                    let member = Member {
                        capture,
                        nodes,
                        owner: stream.core.id,
                        role: stream.role,
                    };
                    registry.members.insert(stream.key, member);
                    Ok(true)
                }
            }
        }
        (Some(own), State::Captured { capture, .. }) if own != capture => {
            registry.invalidate(own);
            registry.invalidate(capture);
            Err(CUresult::STREAM_CAPTURE_MERGE)
        }
        (Some(_), State::Captured { nodes, .. }) => {
            if let Some(member) = registry.members.get_mut(&stream.key) {
                for node in nodes {
                    if !member.nodes.contains(&node) {
                        member.nodes.push(node);
                    }
                }
            }
            Ok(true)
        }
        (Some(own), State::Recorded(..)) => {
            registry.invalidate(own);
            Err(CUresult::STREAM_CAPTURE_ISOLATION)
        }
        (Some(_), State::Never) => Ok(true),
        (None, _) => {
            registry.refuse_implicit(stream)?;
            Ok(false)
        }
    }
}

/// Begins a capture.
///
/// # Errors
/// `INVALID_VALUE` for an unknown mode, `STREAM_CAPTURE_UNSUPPORTED` for the legacy default stream,
/// `ILLEGAL_STATE` if the stream is capturing already.
pub(crate) fn begin(stream: &Stream, mode: u32) -> Outcome {
    if mode > CU_STREAM_CAPTURE_MODE_RELAXED {
        return Err(CUresult::INVALID_VALUE);
    }
    if stream.role == Role::Legacy {
        return Err(CUresult::STREAM_CAPTURE_UNSUPPORTED);
    }
    let mut registry = REGISTRY.lock();
    if registry.members.contains_key(&stream.key) {
        return Err(CUresult::ILLEGAL_STATE);
    }
    let id = crate::table::unique();
    registry.captures.insert(
        id,
        Capture {
            graph: Graph::create(),
            origin: stream.key,
            thread: current::thread(),
            mode,
            valid: true,
        },
    );
    registry.members.insert(
        stream.key,
        Member {
            capture: id,
            nodes: Vec::new(),
            owner: stream.core.id,
            role: stream.role,
        },
    );
    ACTIVE.store(registry.captures.len(), Ordering::Release);
    Ok(())
}

/// Ends a capture and returns its graph.
///
/// # Errors
/// `ILLEGAL_STATE` if the stream is not capturing; `STREAM_CAPTURE_UNMATCHED` in a stream it did
/// not begin in, which only invalidates it; `STREAM_CAPTURE_WRONG_THREAD` in a thread it did not
/// begin in, `STREAM_CAPTURE_INVALIDATED` and `STREAM_CAPTURE_UNJOINED`, which end it without a
/// graph.
pub(crate) fn end(stream: &Stream) -> Outcome<CUgraph> {
    let mut registry = REGISTRY.lock();
    let member = registry.members.get(&stream.key);
    let id = member.ok_or(CUresult::ILLEGAL_STATE)?.capture;
    let capture = registry.captures.get_mut(&id);
    let capture = capture.ok_or(CUresult::ILLEGAL_STATE)?;
    if capture.origin != stream.key {
        capture.valid = false;
        return Err(CUresult::STREAM_CAPTURE_UNMATCHED);
    }
    let foreign = capture.thread != current::thread();
    if foreign && capture.mode != CU_STREAM_CAPTURE_MODE_RELAXED {
        if let Some(ended) = registry.remove(id) {
            crate::graph::destroy(ended.graph.handle)?;
        }
        return Err(CUresult::STREAM_CAPTURE_WRONG_THREAD);
    }
    let valid = capture.valid;
    let joined = valid && is_joined(&registry, id, stream.key);
    let graph = registry.remove(id).map(|capture| capture.graph);
    let graph = graph.ok_or(CUresult::ILLEGAL_STATE)?;
    if joined {
        return Ok(CUgraph(graph.handle));
    }
    crate::graph::destroy(graph.handle)?;
    Err(if valid {
        CUresult::STREAM_CAPTURE_UNJOINED
    } else {
        CUresult::STREAM_CAPTURE_INVALIDATED
    })
}

/// Whether the last nodes of all streams of a capture are among what its first stream waits for.
fn is_joined(registry: &Registry, capture: u64, origin: u64) -> bool {
    let Some(graph) = registry.captures.get(&capture).map(|found| &found.graph) else {
        return false;
    };
    let ends = registry.members.get(&origin).map(|member| &member.nodes);
    let reached = graph.ancestors(ends.map_or(&[], Vec::as_slice));
    let mut members = registry.members.values();
    members.all(|member| {
        member.capture != capture || member.nodes.iter().all(|node| reached.contains(node))
    })
}

/// What `cuStreamGetCaptureInfo` tells.
pub(crate) struct Info {
    /// Names the capture.
    pub(crate) id: u64,
    /// The graph being built.
    pub(crate) graph: CUgraph,
    /// Nodes that the next one depends on.
    pub(crate) nodes: Vec<u64>,
    /// Whether it can still be ended well.
    pub(crate) valid: bool,
}

/// The capture a stream takes part in.
///
/// # Errors
/// `STREAM_CAPTURE_IMPLICIT` for the legacy default stream while blocking streams are capturing.
pub(crate) fn info(stream: &Stream) -> Outcome<Option<Info>> {
    let Some(registry) = registry() else {
        return Ok(None);
    };
    let Some(member) = registry.members.get(&stream.key) else {
        let owner = stream.core.id;
        let mut members = registry.members.values();
        let blocked = members.any(|other| other.owner == owner && other.role == Role::Blocking);
        if stream.role == Role::Legacy && blocked {
            return Err(CUresult::STREAM_CAPTURE_IMPLICIT);
        }
        return Ok(None);
    };
    let capture = registry.captures.get(&member.capture);
    Ok(capture.map(|capture| Info {
        id: member.capture,
        graph: CUgraph(capture.graph.handle),
        nodes: member.nodes.clone(),
        valid: capture.valid,
    }))
}

/// Changes what the next node of a capturing stream depends on: more, or other nodes of its graph.
///
/// # Errors
/// `ILLEGAL_STATE` for a stream that is not capturing, `STREAM_CAPTURE_INVALIDATED`, `INVALID_VALUE`
/// for nodes that are not the capture's.
pub(crate) fn update(stream: &Stream, nodes: &[u64], replace: bool) -> Outcome {
    let mut registry = REGISTRY.lock();
    let id = registry.joined(stream)?.ok_or(CUresult::ILLEGAL_STATE)?;
    let known = registry.captures.get(&id).is_some_and(|capture| {
        let all = capture.graph.nodes();
        nodes.iter().all(|node| all.contains(node))
    });
    let member = registry.members.get_mut(&stream.key);
    let member = member.filter(|_| known).ok_or(CUresult::INVALID_VALUE)?;
    if replace {
        member.nodes.clear();
    }
    for node in nodes {
        if !member.nodes.contains(node) {
            member.nodes.push(*node);
        }
    }
    Ok(())
}

/// A stream goes: a capture that began in it goes with it, one that had spread to it is invalid.
pub(crate) fn stream_ends(stream: &Stream) {
    let Some(mut registry) = registry() else {
        return;
    };
    let Some(member) = registry.members.remove(&stream.key) else {
        return;
    };
    registry.invalidate(member.capture);
    let origin = registry.captures.get(&member.capture);
    if origin.is_some_and(|capture| capture.origin == stream.key) {
        registry.remove(member.capture);
    }
}
