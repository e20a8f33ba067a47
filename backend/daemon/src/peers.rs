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

    /// Looks up where it lives; `None` if that cannot be seen.
    pub fn home(self) -> Option<Home> {
        let folder = format!("/proc/{}", self.process);
        let space = fs::metadata(format!("{folder}/ns/pid")).ok()?;
        let status = fs::read_to_string(format!("{folder}/status")).ok()?;
        let numbers = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))?;
        Some(Home {
            space: (space.dev(), space.ino()),
            number: numbers.split_whitespace().next_back()?.parse().ok()?,
        })
    }
}

/// Where a process lives; that does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// Device and inode of the namespace of its numbers.
    space: (u64, u64),
    /// Its number there.
    number: u32,
}

impl Home {
    /// The number that somebody who lives at `other` has for it: 0 if that is another namespace.
    pub fn number_in(self, other: Home) -> u32 {
        match self.space == other.space {
            true => self.number,
            false => 0,
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
        let home = me.home().unwrap();
        assert_eq!(home.number_in(home), me.process);
        let elsewhere = Home {
            space: (0, 0),
            ..home
        };
        assert_eq!(home.number_in(elsewhere), 0);
        let nobody = Peer {
            user: 0,
            process: 0,
        };
        assert_eq!(nobody.home(), None);
    }
}
