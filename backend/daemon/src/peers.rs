//! Which number a process of this host has where another one lives: containers have their own.

use rustix::net::UCred;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// A process, as the kernel names it to this daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User.
    pub user: u32,
    /// Its number here; 0 if it has none.
    pub process: u32,
}

impl Peer {
    /// From a socket's credentials.
    pub fn new(credentials: &UCred) -> Peer {
        Peer {
            user: credentials.uid.as_raw(),
            process: u32::try_from(credentials.pid.as_raw_nonzero().get()).unwrap_or(0),
        }
    }

    /// The namespace of its numbers, and its number there.
    fn home(self) -> Option<((u64, u64), u32)> {
        let folder = format!("/proc/{}", self.process);
        let space = fs::metadata(format!("{folder}/ns/pid")).ok()?;
        let status = fs::read_to_string(format!("{folder}/status")).ok()?;
        let numbers = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))?;
        let number = numbers.split_whitespace().next_back()?.parse().ok()?;
        Some(((space.dev(), space.ino()), number))
    }

    /// The number that `other` has for this process: 0 if they do not live in the same namespace, or that cannot be seen.
    pub fn number_for(self, other: Peer) -> u32 {
        match (self.home(), other.home()) {
            (Some((space, number)), Some((there, _))) if space == there => number,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_know_each_others_number_and_nobody_knows_a_dead_ones() {
        let me = Peer {
            user: 0,
            process: std::process::id(),
        };
        assert_eq!(me.number_for(me), me.process);
        let nobody = Peer {
            user: 0,
            process: 0,
        };
        assert_eq!(nobody.number_for(me), 0);
        assert_eq!(me.number_for(nobody), 0);
    }
}
