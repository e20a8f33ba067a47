//! Handles, and the tables of what is alive.
//!
//! A handle is a number that is given out once and never again: it carries the kind of object in
//! bits 40 and up and a process-wide count below. Nothing is ever reached through a handle except
//! by looking it up here, so a forged, stale or mistyped one is an error and nothing worse.

use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

static COUNT: AtomicU64 = AtomicU64::new(1);

/// A number no earlier call returned.
pub(crate) fn unique() -> u64 {
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// What a handle names; part of its value so that one kind is never mistaken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Kind {
    Context = 1,
    Stream,
    Event,
    Module,
    Function,
    Library,
    Kernel,
    Link,
    Pool,
    Graph,
    Node,
    Exec,
    UserObject,
}

impl Kind {
    /// A new handle of this kind.
    pub(crate) fn mint(self) -> u64 {
        (self as u64) << 40 | unique() << 4
    }
}

/// The live objects of one kind.
pub(crate) struct Table<T> {
    kind: Kind,
    objects: RwLock<BTreeMap<u64, Arc<T>>>,
}

impl<T> Table<T> {
    /// An empty table.
    pub(crate) const fn new(kind: Kind) -> Self {
        Self {
            kind,
            objects: RwLock::new(BTreeMap::new()),
        }
    }

    /// Enters the object that `make` builds for its new handle.
    pub(crate) fn insert_with(&self, make: impl FnOnce(u64) -> T) -> Arc<T> {
        self.insert_shared(|handle| Arc::new(make(handle)))
    }

    /// As [`Table::insert_with`], for objects that know of their own sharing.
    pub(crate) fn insert_shared(&self, make: impl FnOnce(u64) -> Arc<T>) -> Arc<T> {
        let handle = self.kind.mint();
        let object = make(handle);
        self.objects.write().insert(handle, Arc::clone(&object));
        object
    }

    /// The live object of this handle.
    pub(crate) fn get(&self, handle: u64) -> Option<Arc<T>> {
        self.objects.read().get(&handle).cloned()
    }

    /// The first live object for which `wanted` holds.
    pub(crate) fn find(&self, wanted: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        let objects = self.objects.read();
        objects.values().find(|object| wanted(object)).cloned()
    }

    /// Shows every live object.
    pub(crate) fn each(&self, show: impl Fn(&T)) {
        self.objects.read().values().for_each(|object| show(object));
    }

    /// Takes the object out; its handle is dead from here on.
    pub(crate) fn remove(&self, handle: u64) -> Option<Arc<T>> {
        self.objects.write().remove(&handle)
    }

    /// Takes out every object for which `gone` holds.
    pub(crate) fn remove_if(&self, mut gone: impl FnMut(&T) -> bool) -> Vec<Arc<T>> {
        let mut removed = Vec::new();
        self.objects.write().retain(|_, object| {
            let goes = gone(object);
            if goes {
                removed.push(Arc::clone(object));
            }
            !goes
        });
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_never_given_out_twice() {
        let table = Table::new(Kind::Event);
        let first = table.insert_with(|handle| handle);
        assert_eq!(table.remove(*first).as_deref(), Some(&*first));
        let second = table.insert_with(|handle| handle);
        assert_ne!(*first, *second);
        assert_eq!(table.get(*first), None);
        assert_eq!(table.get(*second).as_deref(), Some(&*second));
    }

    #[test]
    fn kinds_have_different_handles() {
        assert_ne!(Kind::Function.mint() >> 40, Kind::Kernel.mint() >> 40);
    }
}
