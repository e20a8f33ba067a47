//! Counts accesses in flight, so that memory is reused only after those that may still touch it.

use parking_lot::{Condvar, Mutex};
use std::collections::BTreeSet;

#[derive(Default)]
struct Issued {
    next: u64,
    open: BTreeSet<u64>,
}

/// Who is accessing memory right now.
#[derive(Default)]
pub(crate) struct Tickets {
    issued: Mutex<Issued>,
    returned: Condvar,
}

/// An access in flight; dropping it ends the access.
pub(crate) struct Ticket<'a> {
    tickets: &'a Tickets,
    number: u64,
}

impl Tickets {
    /// Begins an access.
    pub(crate) fn enter(&self) -> Ticket<'_> {
        let mut issued = self.issued.lock();
        let number = issued.next;
        issued.next += 1;
        issued.open.insert(number);
        Ticket {
            tickets: self,
            number,
        }
    }

    /// The number of the next ticket: all accesses up to now have lower ones.
    pub(crate) fn now(&self) -> u64 {
        self.issued.lock().next
    }

    /// Whether all accesses numbered below `number` are over.
    pub(crate) fn are_over(&self, number: u64) -> bool {
        self.issued
            .lock()
            .open
            .first()
            .is_none_or(|first| *first >= number)
    }

    /// Waits until all accesses numbered below `number` are over.
    pub(crate) fn wait(&self, number: u64) {
        let mut issued = self.issued.lock();
        while issued.open.first().is_some_and(|first| *first < number) {
            self.returned.wait(&mut issued);
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.tickets.issued.lock().open.remove(&self.number);
        self.tickets.returned.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_earlier_accesses_are_waited_for() {
        let tickets = Tickets::default();
        let early = tickets.enter();
        let now = tickets.now();
        let late = tickets.enter();
        assert!(!tickets.are_over(now));
        drop(early);
        assert!(tickets.are_over(now));
        tickets.wait(now);
        assert!(!tickets.are_over(tickets.now()));
        drop(late);
        assert!(tickets.are_over(tickets.now()));
    }
}
