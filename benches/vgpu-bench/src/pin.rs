//! Binding the measuring thread to one CPU, and freeing it again.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The CPUs this thread may run on, in ascending order.
///
/// # Errors
/// The kernel's.
pub fn allowed() -> rustix::io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect())
}

/// The CPU to bind to if the user names none: the last allowed one, far from CPU 0 where most
/// interrupts arrive. None with fewer than four CPUs, where the backend must share with us.
pub fn default_cpu(allowed: &[usize]) -> Option<usize> {
    if allowed.len() < 4 {
        None
    } else {
        allowed.last().copied()
    }
}

/// Runs on one CPU while it lives, then again on all CPUs it came from.
///
/// Only the calling thread is bound, and threads it makes meanwhile: measurements whose library
/// makes threads of its own must not hold one of these.
#[derive(Debug)]
pub struct Bound {
    before: CpuSet,
}

impl Bound {
    /// Binds the calling thread.
    ///
    /// # Errors
    /// The kernel's, for instance if the CPU is not allowed.
    pub fn to(cpu: usize) -> rustix::io::Result<Self> {
        let before = sched_getaffinity(None)?;
        let mut only = CpuSet::new();
        if cpu >= CpuSet::MAX_CPU {
            return Err(rustix::io::Errno::INVAL);
        }
        only.set(cpu);
        sched_setaffinity(None, &only)?;
        Ok(Self { before })
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // Cannot fail for a set that the kernel itself gave, and if it did the rest would merely
        // be measured on one CPU.
        let _ = sched_setaffinity(None, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_bound_and_freed() {
        let before = allowed().expect("a set");
        let cpu = before[0];
        {
            let _bound = Bound::to(cpu).expect("an allowed CPU");
            assert_eq!(allowed().expect("a set"), [cpu]);
        }
        assert_eq!(allowed().expect("a set"), before);
    }

    #[test]
    fn a_cpu_that_does_not_exist_is_an_error() {
        assert!(Bound::to(usize::MAX).is_err());
    }

    #[test]
    fn small_machines_are_not_bound() {
        assert_eq!(default_cpu(&[0, 1]), None);
        assert_eq!(default_cpu(&[0, 1, 4, 9]), Some(9));
    }
}
