//! As whom, in which environment and until when a child runs.

use rustix::process::Gid;
use std::ffi::OsString;
use std::time::{Duration, Instant};

/// Whom a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

impl Identity {
    /// This process's own.
    #[must_use]
    pub fn own() -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: rustix::process::getgroups()
                .unwrap_or_default()
                .into_iter()
                .map(Gid::as_raw)
                .collect(),
        }
    }
}

/// An environment, in no particular order.
pub type Environment = Vec<(OsString, OsString)>;

/// How a child is started, and how long it may take.
#[derive(Clone, Debug)]
pub struct Setting {
    /// As whom; changed only if it differs from ours.
    pub identity: Identity,
    /// With exactly this environment.
    pub environment: Environment,
    /// The latest moment for an answer.
    pub deadline: Instant,
}

impl Setting {
    /// The same with at most `limit` from now.
    #[must_use]
    pub fn within(&self, limit: Duration) -> Self {
        let mut setting = self.clone();
        setting.deadline = setting.deadline.min(Instant::now() + limit);
        setting
    }

    /// The same with a variable set.
    #[must_use]
    pub fn with(&self, name: &str, value: impl Into<OsString>) -> Self {
        let mut setting = self.without(name);
        setting.environment.push((name.into(), value.into()));
        setting
    }

    /// The same without a variable.
    #[must_use]
    pub fn without(&self, name: &str) -> Self {
        let mut setting = self.clone();
        setting.environment.retain(|(have, _)| have != name);
        setting
    }

    /// A variable's value.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&OsString> {
        self.environment
            .iter()
            .find(|(have, _)| have == name)
            .map(|(_, value)| value)
    }
}
