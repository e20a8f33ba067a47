//! Objects of the program whose end graphs put off: the driver counts references and calls a function
//! of ours when the last is gone, which has the program's own called in the program.
//!
//! References of the program and of its graphs are counted here, too: a handle is good for the driver
//! only as long as somebody who can be named has a reference.

use crate::call::{Call, Outcome};
use crate::callbacks;
use crate::live::{FastMap, lock};
use std::sync::Mutex;
use vgpu_protocol::cuda::{CUgraph, CUresult, CUuserObject};
use vgpu_protocol::wire::{self, HOST_FUNC, HostFunc, Result as _, UserObject};

/// `CU_USER_OBJECT_NO_DESTRUCTOR_SYNC`: the only way there is.
const NO_DESTRUCTOR_SYNC: u32 = 1;
/// `CU_GRAPH_USER_OBJECT_MOVE`.
const MOVE: u32 = 1;

/// References to one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct References {
    /// Of the program.
    own: u64,
    /// Of graphs.
    graphs: FastMap<u64>,
}

impl References {
    /// Takes `count` references of the program.
    fn take_own(&mut self, count: u32) -> Outcome {
        let left = self.own.checked_sub(count.into());
        self.own = left.ok_or(CUresult::INVALID_VALUE)?;
        Ok(())
    }

    /// Takes `count` references of a graph.
    fn take_of(&mut self, graph: u64, count: u32) -> Outcome {
        let held = self.graphs.get_mut(&graph);
        let held = held.ok_or(CUresult::INVALID_VALUE)?;
        *held = held
            .checked_sub(count.into())
            .ok_or(CUresult::INVALID_VALUE)?;
        if *held == 0 {
            self.graphs.remove(&graph);
        }
        Ok(())
    }

    fn give(&mut self, graph: u64, count: u64) {
        let held = self.graphs.entry(graph).or_default();
        *held = held.saturating_add(count);
    }

    fn is_gone(&self) -> bool {
        self.own == 0 && self.graphs.is_empty()
    }
}

/// All objects that somebody has a reference to.
#[derive(Debug, Default)]
pub struct UserObjects(Mutex<FastMap<References>>);

/// References of graphs that end: object, graph, number.
#[derive(Debug)]
pub struct Taken(Vec<(u64, u64, u64)>);

impl UserObjects {
    /// Changes the references to a live object, and forgets it with the last.
    fn change(
        &self,
        object: CUuserObject,
        change: impl FnOnce(&mut References) -> Outcome,
    ) -> Outcome {
        let mut objects = lock(&self.0);
        let references = objects.get_mut(&object.0);
        let references = references.ok_or(CUresult::INVALID_VALUE)?;
        let mut changed = references.clone();
        change(&mut changed)?;
        if changed.is_gone() {
            objects.remove(&object.0);
        } else {
            *references = changed;
        }
        Ok(())
    }

    /// Gives references back that the driver did not take.
    fn undo(&self, object: CUuserObject, undo: impl FnOnce(&mut References)) {
        undo(lock(&self.0).entry(object.0).or_default());
    }

    /// Takes the references of graphs that are about to end.
    pub fn take_graphs(&self, ends: impl Fn(u64) -> bool) -> Taken {
        let mut objects = lock(&self.0);
        let mut taken = Vec::new();
        for (object, references) in objects.iter_mut() {
            let gone = references.graphs.extract_if(|graph, _| ends(*graph));
            taken.extend(gone.map(|(graph, count)| (*object, graph, count)));
        }
        objects.retain(|_, references| !references.is_gone());
        Taken(taken)
    }

    /// Gives graphs back what was taken; they did not end.
    pub fn put_back(&self, taken: Taken) {
        let mut objects = lock(&self.0);
        for (object, graph, count) in taken.0 {
            objects.entry(object).or_default().give(graph, count);
        }
    }

    /// A clone of a graph has as many references as that.
    pub fn cloned(&self, graph: u64, clone: u64) {
        for references in lock(&self.0).values_mut() {
            if let Some(count) = references.graphs.get(&graph).copied() {
                references.give(clone, count);
            }
        }
    }
}

/// `cuUserObjectCreate`.
///
/// # Errors
/// What the client gets.
pub fn create(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<UserObject>()?;
    if args.flags != NO_DESTRUCTOR_SYNC || args.count == 0 || args.destroy == 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    let create = call
        .driver()
        .cuUserObjectCreate
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let function = HostFunc {
        function: args.destroy,
        user: args.pointer,
        kind: HOST_FUNC,
        ..HostFunc::default()
    };
    let mut object = CUuserObject::NULL;
    let made = callbacks::once(call.worker, function, |params| {
        // SAFETY: the result has room; our function ends its data when it is called, once.
        unsafe {
            create(
                &raw mut object,
                params.user,
                params.function,
                args.count,
                args.flags,
            )
        }
    });
    call.result(made)?;
    let references = References {
        own: args.count.into(),
        ..References::default()
    };
    lock(&call.worker.user_objects.0).insert(object.0, references);
    call.reply(&object.to_wire())
}

/// `cuUserObjectRetain`.
///
/// # Errors
/// What the client gets.
pub fn retain(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuUserObjectRetain::Args>()?;
    let (object, count): (CUuserObject, u32) = (args.object.get(), args.count.get());
    let retain = call
        .driver()
        .cuUserObjectRetain
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let objects = &call.worker.user_objects;
    objects.change(object, |references| {
        references.own = references.own.saturating_add(count.into());
        Ok(())
    })?;
    // SAFETY: somebody has a reference to the object.
    let retained = call.result(unsafe { retain(object, count) });
    if retained.is_err() {
        let _ = objects.change(object, |references| references.take_own(count));
    }
    retained
}

/// `cuUserObjectRelease`.
///
/// # Errors
/// What the client gets.
pub fn release(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuUserObjectRelease::Args>()?;
    let (object, count): (CUuserObject, u32) = (args.object.get(), args.count.get());
    let release = call
        .driver()
        .cuUserObjectRelease
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let objects = &call.worker.user_objects;
    // Before the driver: it may give the handle away to another thread.
    objects.change(object, |references| references.take_own(count))?;
    // SAFETY: the program had that many references until just now.
    let released = call.result(unsafe { release(object, count) });
    if released.is_err() {
        objects.undo(object, |references| references.own += u64::from(count));
    }
    released
}

/// `cuGraphRetainUserObject`.
///
/// # Errors
/// What the client gets.
pub fn retain_in_graph(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuGraphRetainUserObject::Args>()?;
    let (graph, object): (CUgraph, CUuserObject) = (args.graph.get(), args.object.get());
    let (count, flags): (u32, u32) = (args.count.get(), args.flags.get());
    call.live(graph)?;
    if count == 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    let retain = call
        .driver()
        .cuGraphRetainUserObject
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let moves = flags & MOVE != 0;
    let objects = &call.worker.user_objects;
    objects.change(object, |references| {
        if moves {
            references.take_own(count)?;
        }
        references.give(graph.0, count.into());
        Ok(())
    })?;
    // SAFETY: the graph is live, and somebody has a reference to the object, as many as move if they
    // do.
    let retained = call.result(unsafe { retain(graph, object, count, flags) });
    if retained.is_err() {
        let _ = objects.change(object, |references| {
            if moves {
                references.own += u64::from(count);
            }
            references.take_of(graph.0, count)
        });
    }
    retained
}

/// `cuGraphReleaseUserObject`.
///
/// # Errors
/// What the client gets.
pub fn release_in_graph(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuGraphReleaseUserObject::Args>()?;
    let (graph, object): (CUgraph, CUuserObject) = (args.graph.get(), args.object.get());
    let count: u32 = args.count.get();
    call.live(graph)?;
    let release = call
        .driver()
        .cuGraphReleaseUserObject
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let objects = &call.worker.user_objects;
    objects.change(object, |references| references.take_of(graph.0, count))?;
    // SAFETY: the graph is live and had that many references until just now.
    let released = call.result(unsafe { release(graph, object, count) });
    if released.is_err() {
        objects.undo(object, |references| {
            references.give(graph.0, count.into());
        });
    }
    released
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_known_as_long_as_somebody_has_a_reference() {
        let objects = UserObjects::default();
        let object = CUuserObject(7);
        let own = |count| References {
            own: count,
            ..References::default()
        };
        lock(&objects.0).insert(7, own(2));
        let give = |graph| {
            objects.change(object, |references| {
                references.take_own(1)?;
                references.give(graph, 1);
                Ok(())
            })
        };
        assert_eq!(give(1), Ok(()));
        objects.cloned(1, 2);
        assert_eq!(give(1), Ok(()));
        assert_eq!(give(1), Err(CUresult::INVALID_VALUE));
        assert_eq!(
            objects.change(object, |references| references.take_of(1, 3)),
            Err(CUresult::INVALID_VALUE)
        );
        let taken = objects.take_graphs(|graph| graph == 1);
        assert_eq!(taken.0, [(7, 1, 2)]);
        assert_eq!(
            objects.change(object, |references| references.take_of(2, 1)),
            Ok(())
        );
        assert_eq!(give(3), Err(CUresult::INVALID_VALUE), "nobody has one");
        objects.put_back(taken);
        assert_eq!(
            objects.change(object, |references| references.take_of(1, 2)),
            Ok(())
        );
        assert!(lock(&objects.0).is_empty());
    }
}
