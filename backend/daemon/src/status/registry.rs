//! Who is served now.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use vgpu_worker::figures::{FigurePage, Figures};

/// Longest name of a program that is shown.
const NAME: usize = 32;

/// Where a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A process of this host.
    Process {
        /// Its user.
        user: u32,
        /// Its name, as [`program_name`] gives it.
        program: String,
    },
    /// A channel of the virtual machine.
    Channel(u64),
}

/// A client with a worker.
#[derive(Debug)]
pub struct Served {
    /// Where it is.
    pub origin: Origin,
    /// Process id of its worker; 0 until it is started.
    pub worker: u32,
    /// Since when it is served.
    pub since: Instant,
    page: FigurePage,
}

impl Served {
    /// Its figures as they are.
    pub fn figures(&self) -> Figures {
        self.page.read()
    }
}

type Table = BTreeMap<u64, Arc<Served>>;

/// All clients with a worker. Copies are the same registry.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Mutex<(u64, Table)>>);

/// A client's place in the registry, given up when dropped; holds the page for its figures.
#[derive(Debug)]
pub struct Entry {
    registry: Registry,
    id: u64,
    served: Arc<Served>,
}

impl Entry {
    /// Bytes of device memory that the client's worker says it holds.
    pub fn held(&self) -> u64 {
        self.served.figures().memory_used
    }
}

/// A page for a client that is not served yet.
#[derive(Debug)]
pub struct Candidate {
    registry: Registry,
    origin: Origin,
    page: FigurePage,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, (u64, Table)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the page for a client.
    ///
    /// # Errors
    /// The system's error.
    pub fn prepare(&self, origin: Origin) -> std::io::Result<Candidate> {
        Ok(Candidate {
            registry: self.clone(),
            origin,
            page: FigurePage::create()?,
        })
    }

    /// The clients, in the order in which they came.
    pub fn list(&self) -> Vec<Arc<Served>> {
        self.lock().1.values().cloned().collect()
    }
}

impl Candidate {
    /// Enters it, with its worker.
    pub fn serve(self, worker: u32) -> Entry {
        let served = Arc::new(Served {
            origin: self.origin,
            worker,
            since: Instant::now(),
            page: self.page,
        });
        let mut table = self.registry.lock();
        table.0 += 1;
        let id = table.0;
        table.1.insert(id, Arc::clone(&served));
        drop(table);
        Entry {
            registry: self.registry,
            id,
            served,
        }
    }
}

impl AsFd for Candidate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.page.as_fd()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.registry.lock().1.remove(&self.id);
    }
}

/// The name of a process, or of whoever has its number: for people only. Processes name themselves, so everything but a
/// few plain characters becomes a `?`.
pub fn program_name(pid: i32) -> String {
    let text = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    plain(text.strip_suffix(b"\n").unwrap_or(&text))
}

fn plain(text: &[u8]) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-:@/".contains(&byte);
    text.iter()
        .take(NAME)
        .map(|&byte| {
            if is_plain(byte) {
                char::from(byte)
            } else {
                '?'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_listed_while_its_entry_lives() {
        let registry = Registry::default();
        let candidate = registry.prepare(Origin::Channel(3)).unwrap();
        assert!(registry.list().is_empty());
        let entry = candidate.serve(99);
        let list = registry.list();
        assert_eq!((list.len(), list[0].worker), (1, 99));
        assert_eq!(list[0].figures(), Figures::default());
        drop(entry);
        assert!(registry.list().is_empty());
    }

    #[test]
    fn names_are_plain_and_short() {
        assert_eq!(plain(b"ollama_runner"), "ollama_runner");
        assert_eq!(plain(b"a\x1b[31m\"\\\n}b"), "a??31m????b");
        assert_eq!(plain(&[b'x'; 100]).len(), NAME);
        assert!(!program_name(std::process::id().cast_signed()).is_empty());
        assert_eq!(program_name(-1), "");
    }
}
