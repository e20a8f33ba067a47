//! Live sets: which handles of each kind the client may use now (`semantics.md` 19).
//!
//! Guest memory lies at the same addresses in the worker, so a forged handle could point into it;
//! nothing is handed to the driver that is not in here. Each set counts its removals: a thread may
//! remember that it found a handle as long as that count stands still ([`HandleCache`]), which
//! makes the check of the hot path one load and one compare.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vgpu_protocol::cuda::{
    CUarray, CUcontext, CUevent, CUfunction, CUgraph, CUgraphExec, CUgraphNode, CUkernel,
    CUlibrary, CUlinkState, CUmemoryPool, CUmipmappedArray, CUmodule, CUresult, CUstream,
    CUsurfObject, CUtexObject, Scalar,
};
use vgpu_protocol::wire::Param;

/// Locks `mutex`. A thread that panicked while holding it left consistent data: every guarded
/// structure of this crate is consistent after each single operation.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kinds of handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Kind {
    /// Contexts.
    Context,
    /// Modules.
    Module,
    /// Functions.
    Function,
    /// Libraries.
    Library,
    /// Kernels.
    Kernel,
    /// Streams.
    Stream,
    /// Events.
    Event,
    /// Graphs.
    Graph,
    /// Graph nodes.
    Node,
    /// Instantiated graphs.
    Exec,
    /// Memory pools.
    Pool,
    /// Physical allocations (`cuMemCreate`).
    Memory,
    /// Linker invocations.
    Link,
    /// Arrays.
    Array,
    /// Mipmapped arrays.
    Mipmapped,
    /// Texture objects.
    Texture,
    /// Surface objects.
    Surface,
    /// Conditions of graphs.
    Condition,
}

const KINDS: usize = Kind::Condition as usize + 1;

/// All kinds.
pub(crate) const KINDS_OF_HANDLES: [Kind; KINDS] = [
    Kind::Context,
    Kind::Module,
    Kind::Function,
    Kind::Library,
    Kind::Kernel,
    Kind::Stream,
    Kind::Event,
    Kind::Graph,
    Kind::Node,
    Kind::Exec,
    Kind::Pool,
    Kind::Memory,
    Kind::Link,
    Kind::Array,
    Kind::Mipmapped,
    Kind::Texture,
    Kind::Surface,
    Kind::Condition,
];

/// A handle type of the driver API.
pub trait Handle: Scalar + Copy {
    /// Its live set.
    const KIND: Kind;
    /// What a call with an unknown one returns.
    const UNKNOWN: CUresult = CUresult::INVALID_HANDLE;
}

macro_rules! handle_kinds {
    ($($ty:ident = $kind:ident),* $(,)?) => { $(
        impl Handle for $ty { const KIND: Kind = Kind::$kind; }
    )* };
}
macro_rules! graph_handles {
    ($($ty:ident = $kind:ident),* $(,)?) => { $(
        impl Handle for $ty {
            const KIND: Kind = Kind::$kind;
            // The graph functions know no other code for a handle they do not know.
            const UNKNOWN: CUresult = CUresult::INVALID_VALUE;
        }
    )* };
}
handle_kinds!(
    CUmodule = Module,
    CUfunction = Function,
    CUlibrary = Library,
    CUkernel = Kernel,
    CUstream = Stream,
    CUevent = Event,
    CUmemoryPool = Pool,
    CUlinkState = Link,
    CUarray = Array,
    CUmipmappedArray = Mipmapped,
    CUtexObject = Texture,
    CUsurfObject = Surface,
);
graph_handles!(CUgraph = Graph, CUgraphNode = Node, CUgraphExec = Exec);
impl Handle for CUcontext {
    const KIND: Kind = Kind::Context;
    const UNKNOWN: CUresult = CUresult::INVALID_CONTEXT;
}

/// Parameters of a kernel, as the driver says.
#[derive(Debug, Default)]
pub struct Layout {
    /// Offset and size of each.
    pub params: Vec<Param>,
    /// Bytes of the parameter buffer.
    pub len: u32,
    /// Whether the driver could say; without it a launch must bring the whole buffer.
    pub known: bool,
}

/// What is kept of a live handle.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// Context it belongs to, or 0.
    pub ctx: u64,
    /// Handle it dies with (module, library, graph), or 0.
    pub owner: u64,
    /// Creation flags of streams; bytes of physical allocations; of graphs inside of another one, the
    /// node they belong to.
    pub data: u64,
    /// Parameters, of functions and kernels.
    pub layout: Option<Arc<Layout>>,
}

/// Handles are addresses or counters: multiplying by an odd constant spreads both well, and an
/// attacker who finds collisions slows only the own worker.
#[derive(Default)]
pub(crate) struct FastHasher(u64);

impl Hasher for FastHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
    }
}

/// A map keyed by handles or addresses.
pub(crate) type FastMap<V> = HashMap<u64, V, BuildHasherDefault<FastHasher>>;

#[derive(Debug, Default)]
struct Set {
    entries: Mutex<FastMap<Entry>>,
    removals: AtomicU64,
}

/// A handle that was taken out of its set.
#[derive(Debug)]
pub struct Taken {
    /// Its kind.
    pub kind: Kind,
    /// The handle.
    pub handle: u64,
    /// What was kept of it.
    pub entry: Entry,
}

/// All live sets of a worker.
#[derive(Debug, Default)]
pub struct Live {
    sets: [Set; KINDS],
}

impl Live {
    fn set(&self, kind: Kind) -> &Set {
        // A `Kind` is always below `KINDS`; the fallback only spares a panic.
        self.sets.get(kind as usize).unwrap_or(&self.sets[0])
    }

    /// Enters a handle. Null is never entered.
    pub fn enter(&self, kind: Kind, handle: u64, entry: Entry) {
        if handle != 0 {
            lock(&self.set(kind).entries).insert(handle, entry);
        }
    }

    /// Enters a handle that may be known already, keeping what is known.
    pub fn enter_if_new(&self, kind: Kind, handle: u64, entry: Entry) {
        if handle != 0 {
            lock(&self.set(kind).entries).entry(handle).or_insert(entry);
        }
    }

    /// Removes a handle and gives what was kept of it.
    pub fn remove(&self, kind: Kind, handle: u64) -> Option<Entry> {
        let set = self.set(kind);
        let removed = lock(&set.entries).remove(&handle);
        if removed.is_some() {
            set.removals.fetch_add(1, Ordering::Release);
        }
        removed
    }

    /// What is kept of a handle, if it is live.
    pub fn get(&self, kind: Kind, handle: u64) -> Option<Entry> {
        lock(&self.set(kind).entries).get(&handle).cloned()
    }

    /// Whether a handle is live.
    pub fn contains(&self, kind: Kind, handle: u64) -> bool {
        lock(&self.set(kind).entries).contains_key(&handle)
    }

    /// The live handles of a kind for which `wanted` says so.
    pub fn all(&self, kind: Kind, wanted: impl Fn(&Entry) -> bool) -> Vec<u64> {
        lock(&self.set(kind).entries)
            .iter()
            .filter(|(_, entry)| wanted(entry))
            .map(|(handle, _)| *handle)
            .collect()
    }

    /// Number of live handles of a kind.
    pub fn count(&self, kind: Kind) -> usize {
        lock(&self.set(kind).entries).len()
    }

    /// How often handles of this kind were removed so far.
    pub fn removals(&self, kind: Kind) -> u64 {
        self.set(kind).removals.load(Ordering::Acquire)
    }

    /// Removes all handles of a kind for which `dead` says so, and gives them.
    pub fn remove_where(&self, kind: Kind, dead: impl Fn(&Entry) -> bool) -> Vec<u64> {
        let gone = self.take_where(kind, dead);
        gone.into_iter().map(|(handle, _)| handle).collect()
    }

    /// As [`Live::remove_where`], and gives what was kept of them, too.
    fn take_where(&self, kind: Kind, dead: impl Fn(&Entry) -> bool) -> Vec<(u64, Entry)> {
        let set = self.set(kind);
        let gone: Vec<_> = lock(&set.entries)
            .extract_if(|_, entry| dead(entry))
            .collect();
        if !gone.is_empty() {
            set.removals.fetch_add(1, Ordering::Release);
        }
        gone
    }

    /// Forgets what dies with a module: its functions.
    pub fn module_died(&self, module: u64) {
        self.remove_where(Kind::Function, |entry| entry.owner == module);
    }

    /// Forgets what dies with a library: kernels, their functions, modules and theirs.
    pub fn library_died(&self, library: u64) {
        self.remove_where(Kind::Kernel, |entry| entry.owner == library);
        self.remove_where(Kind::Function, |entry| entry.owner == library);
        for module in self.remove_where(Kind::Module, |entry| entry.owner == library) {
            self.module_died(module);
        }
    }

    /// Takes out a graph with its nodes and conditions, and the graphs inside of it with theirs.
    pub fn take_graph(&self, graph: u64) -> Vec<Taken> {
        let mut taken = self.take_one(Kind::Graph, graph);
        let mut open = vec![graph];
        while let Some(graph) = open.pop() {
            let inner = self.take(Kind::Graph, |entry| entry.owner == graph);
            open.extend(inner.iter().map(|taken| taken.handle));
            taken.extend(inner);
            for kind in [Kind::Node, Kind::Condition] {
                taken.extend(self.take(kind, |entry| entry.owner == graph));
            }
        }
        taken
    }

    /// Takes out a node, and the graphs that belong to it with all they hold.
    pub fn take_node(&self, node: u64) -> Vec<Taken> {
        let mut taken = self.take_one(Kind::Node, node);
        let owner = taken.first().map_or(0, |taken| taken.entry.owner);
        let inner = self.all(Kind::Graph, |entry| {
            entry.owner != 0 && entry.owner == owner && entry.data == node
        });
        for graph in inner {
            taken.extend(self.take_graph(graph));
        }
        taken
    }

    fn take_one(&self, kind: Kind, handle: u64) -> Vec<Taken> {
        let entry = self.remove(kind, handle).into_iter();
        let named = |entry| Taken {
            kind,
            handle,
            entry,
        };
        entry.map(named).collect()
    }

    fn take(&self, kind: Kind, wanted: impl Fn(&Entry) -> bool) -> Vec<Taken> {
        let taken = self.take_where(kind, wanted).into_iter();
        let named = |(handle, entry)| Taken {
            kind,
            handle,
            entry,
        };
        taken.map(named).collect()
    }

    /// Enters again what was taken out.
    pub fn put_back(&self, taken: Vec<Taken>) {
        for taken in taken {
            self.enter(taken.kind, taken.handle, taken.entry);
        }
    }

    /// A graph and all graphs inside of it.
    pub fn graphs_of(&self, graph: u64) -> Vec<u64> {
        let mut all = vec![graph];
        let mut at = 0;
        while let Some(graph) = all.get(at).copied() {
            all.extend(self.all(Kind::Graph, |entry| entry.owner == graph));
            at += 1;
        }
        all
    }

    /// Forgets what dies with a context: streams, events, modules and functions, arrays and what is
    /// over them.
    pub fn context_died(&self, ctx: u64) {
        for kind in [
            Kind::Stream,
            Kind::Event,
            Kind::Module,
            Kind::Function,
            Kind::Array,
            Kind::Mipmapped,
            Kind::Texture,
            Kind::Surface,
        ] {
            self.remove_where(kind, |entry| entry.ctx == ctx);
        }
    }
}

const CACHED: usize = 64;

/// What [`HandleCache::find`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Live, of the asking thread's own context.
    Own,
    /// Live, of another context.
    Foreign,
    /// Not live.
    Dead,
}

/// A thread's memory of handles it found live.
#[derive(Debug)]
pub struct HandleCache {
    kind: Kind,
    found: [(u64, u64); CACHED],
}

impl HandleCache {
    /// Nothing found yet.
    pub fn new(kind: Kind) -> Self {
        // No handle is 0, so the initial entries match nothing.
        Self {
            kind,
            found: [(0, 0); CACHED],
        }
    }

    /// Forgets what was found.
    pub fn forget(&mut self) {
        self.found = [(0, 0); CACHED];
    }

    /// Whether `handle` is live and belongs to context `own`, for the threads that issue for one; 0 takes all for own.
    /// Only own ones are remembered.
    #[inline]
    pub fn find(&mut self, live: &Live, handle: u64, own: u64) -> Found {
        let removals = live.removals(self.kind);
        let place = (handle >> 4 ^ handle >> 10) as usize % CACHED;
        let Some(slot) = self.found.get_mut(place) else {
            return Found::Dead;
        };
        if *slot == (handle, removals) && handle != 0 {
            return Found::Own;
        }
        match live.get(self.kind, handle) {
            None => Found::Dead,
            Some(entry) if own != 0 && entry.ctx != own => Found::Foreign,
            Some(_) => {
                // The count was read before the lookup, as in `check`.
                *slot = (handle, removals);
                Found::Own
            }
        }
    }

    /// Whether `handle` is live.
    #[inline]
    pub fn check(&mut self, live: &Live, handle: u64) -> bool {
        let removals = live.removals(self.kind);
        let place = (handle >> 4 ^ handle >> 10) as usize % CACHED;
        let Some(slot) = self.found.get_mut(place) else {
            return live.contains(self.kind, handle);
        };
        if *slot == (handle, removals) && handle != 0 {
            return true;
        }
        // The count was read before the lookup: a removal in between makes the entry stale at once.
        let found = live.contains(self.kind, handle);
        if found {
            *slot = (handle, removals);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_live_between_enter_and_remove_only() {
        let live = Live::default();
        let mut cache = HandleCache::new(Kind::Event);
        assert!(!cache.check(&live, 0x10));
        live.enter(Kind::Event, 0x10, Entry::default());
        assert!(cache.check(&live, 0x10));
        assert!(cache.check(&live, 0x10));
        assert!(!live.contains(Kind::Stream, 0x10));
        assert!(live.remove(Kind::Event, 0x10).is_some());
        assert!(!cache.check(&live, 0x10));
        assert!(live.remove(Kind::Event, 0x10).is_none());
    }

    #[test]
    fn null_is_never_live() {
        let live = Live::default();
        live.enter(Kind::Stream, 0, Entry::default());
        assert!(!HandleCache::new(Kind::Stream).check(&live, 0));
    }

    #[test]
    fn graphs_take_the_graphs_inside_of_them_along() {
        let live = Live::default();
        let of = |owner, data| Entry {
            owner,
            data,
            ..Entry::default()
        };
        live.enter(Kind::Graph, 1, of(0, 0));
        live.enter(Kind::Node, 10, of(1, 0));
        live.enter(Kind::Graph, 2, of(1, 10));
        live.enter(Kind::Node, 20, of(2, 0));
        live.enter(Kind::Graph, 3, of(2, 20));
        live.enter(Kind::Condition, 30, of(1, 0));
        live.enter(Kind::Node, 11, of(1, 0));
        assert_eq!(live.graphs_of(1), [1, 2, 3]);
        let handles = |taken: &[Taken]| {
            let mut handles: Vec<_> = taken.iter().map(|taken| taken.handle).collect();
            handles.sort_unstable();
            handles
        };
        let taken = live.take_node(10);
        assert_eq!(handles(&taken), [2, 3, 10, 20]);
        assert!(live.contains(Kind::Graph, 1) && !live.contains(Kind::Graph, 2));
        assert!(!live.contains(Kind::Graph, 3) && live.contains(Kind::Condition, 30));
        // An end that failed.
        live.put_back(taken);
        assert!(live.contains(Kind::Node, 20) && live.contains(Kind::Graph, 3));
        assert_eq!(handles(&live.take_graph(1)), [1, 2, 3, 10, 11, 20, 30]);
        assert_eq!(live.count(Kind::Graph), 0);
    }

    #[test]
    fn owners_take_their_own_along() {
        let live = Live::default();
        let owned = |owner| Entry {
            owner,
            ..Entry::default()
        };
        live.enter(Kind::Module, 2, owned(1));
        live.enter(Kind::Kernel, 3, owned(1));
        live.enter(Kind::Function, 4, owned(2));
        live.enter(Kind::Function, 5, owned(9));
        live.library_died(1);
        assert_eq!(live.count(Kind::Module), 0);
        assert_eq!(live.count(Kind::Kernel), 0);
        assert_eq!(live.count(Kind::Function), 1);
    }
}
