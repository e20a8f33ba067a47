//! Whom the question is about: this shell, a process, a service, or a command that shall run.

use crate::child::{Environment, Identity};
use crate::unit::Unit;
use anyhow::{Context, bail};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// `AT_SECURE` in the auxiliary vector of a process.
const AT_SECURE: u64 = 23;
/// The last of the user ids that systemd gives to services with `DynamicUser=yes` while they run (systemd.exec(5)).
const DYNAMIC_USER: u32 = 65519;

/// Whom it is about.
#[derive(Clone, Debug)]
pub struct Target {
    /// In words.
    pub description: String,
    /// The program's file, if there is one.
    pub program: Option<PathBuf>,
    /// The process, if it runs.
    pub pid: Option<u32>,
    /// Its environment.
    pub environment: Environment,
    /// Its user and groups.
    pub identity: Identity,
    /// Its working folder.
    pub folder: PathBuf,
    /// Why the loader distrusts its environment (`AT_SECURE`), if it does.
    pub privilege: Option<String>,
    /// The service.
    pub unit: Option<Unit>,
    /// Whether it has another root folder than the doctor: a container.
    pub other_root: bool,
}

impl Target {
    /// This very environment, without a program.
    #[must_use]
    pub fn shell() -> Self {
        Self {
            description: "asked about: this environment, as this user".to_owned(),
            program: None,
            pid: None,
            environment: std::env::vars_os().collect(),
            identity: Identity::own(),
            folder: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            privilege: None,
            unit: None,
            other_root: false,
        }
    }

    /// A command in this environment.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn command(command: &OsStr) -> anyhow::Result<Self> {
        let mut target = Self::shell();
        let path = search(command, &target.environment)
            .with_context(|| format!("there is no program {}", command.display()))?;
        target.description = format!("asked about: {}, in this environment", path.display());
        target.privilege = privilege_of(&path, &target.identity);
        target.program = Some(path);
        Ok(target)
    }

    /// A running process.
    ///
    /// # Errors
    /// When there is none, or it is not ours to look into.
    pub fn process(pid: u32) -> anyhow::Result<Self> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        if !Path::new("/proc/self").exists() {
            bail!("/proc is not mounted here, and processes can be looked into nowhere else");
        }
        if !proc.exists() {
            bail!("there is no process {pid}");
        }
        let hint = || {
            format!("process {pid} may not be looked into; run the doctor as root or as its user")
        };
        let status = std::fs::read_to_string(proc.join("status")).with_context(hint)?;
        if has_ended(&status) {
            bail!(
                "process {pid} has ended already, and only waits for its parent: ask about one that runs, or about its program"
            );
        }
        let environment = std::fs::read(proc.join("environ")).with_context(hint)?;
        let program = std::fs::read_link(proc.join("exe")).with_context(hint)?;
        let auxv = std::fs::read(proc.join("auxv")).unwrap_or_default();
        let own_root = std::fs::metadata("/")
            .ok()
            .map(|root| (root.dev(), root.ino()));
        let its_root = std::fs::metadata(proc.join("root"))
            .ok()
            .map(|root| (root.dev(), root.ino()));
        Ok(Self {
            description: format!("asked about: process {pid}, {}", program.display()),
            pid: Some(pid),
            environment: environment
                .split(|byte| *byte == 0)
                .filter_map(|entry| {
                    let at = entry.iter().position(|byte| *byte == b'=')?;
                    let (name, value) = entry.split_at_checked(at)?;
                    Some((
                        OsString::from_vec(name.to_vec()),
                        OsString::from_vec(value.get(1..)?.to_vec()),
                    ))
                })
                .collect(),
            identity: identity_in(&status).unwrap_or_else(Identity::own),
            folder: std::fs::read_link(proc.join("cwd")).unwrap_or_else(|_| PathBuf::from("/")),
            privilege: is_secure(&auxv).then(|| {
                privilege_of(&program, &Identity::own()).unwrap_or_else(|| {
                    "it was started with more rights than its caller's".to_owned()
                })
            }),
            program: Some(program),
            unit: None,
            other_root: its_root.is_some() && its_root != own_root,
        })
    }

    /// A service, running or not.
    ///
    /// # Errors
    /// When there is no such unit, or no systemd.
    pub fn service(name: &str) -> anyhow::Result<Self> {
        let unit = Unit::ask(name)?;
        let running = unit.main_pid().map(Self::process);
        let mut target = match running {
            Some(Ok(target)) => target,
            // Without the right to look into it, what the unit says is the next best.
            Some(Err(_)) | None => {
                // The user of such a service exists only while it runs; one without any right is as good.
                let is_dynamic = unit.says_yes("DynamicUser");
                let identity = match unit.first("User") {
                    "" if is_dynamic => only(DYNAMIC_USER),
                    "" => only(0),
                    user => match identity_of(user) {
                        Err(_) if is_dynamic => only(DYNAMIC_USER),
                        known => known?,
                    },
                };
                let program = unit.program();
                Self {
                    privilege: program
                        .as_deref()
                        .and_then(|path| privilege_of(path, &identity)),
                    program,
                    environment: unit.environment(),
                    identity,
                    folder: match unit.first("WorkingDirectory") {
                        "" => PathBuf::from("/"),
                        folder => PathBuf::from(folder.trim_start_matches('!')),
                    },
                    ..Self::shell()
                }
            }
        };
        target.description = match target.pid {
            Some(pid) => format!("asked about: service {name}, running as process {pid}"),
            None => format!("asked about: service {name}, by what its unit says"),
        };
        target.unit = Some(unit);
        Ok(target)
    }

    /// The environment as the loader and the shim heed it: without what they ignore in privileged programs.
    #[must_use]
    pub fn heeded_environment(&self) -> Environment {
        let ignored = |name: &OsStr| {
            let name = name.as_bytes();
            name.starts_with(b"LD_") || name.starts_with(b"VGPU_") || name == b"TMPDIR"
        };
        self.environment
            .iter()
            .filter(|(name, _)| self.privilege.is_none() || !ignored(name))
            .cloned()
            .collect()
    }

    /// A variable's value as text.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<String> {
        self.environment
            .iter()
            .find(|(have, _)| have == name)
            .map(|(_, value)| value.to_string_lossy().into_owned())
    }

    /// Whether the program's file name begins so.
    #[must_use]
    pub fn is_named(&self, prefix: &str) -> bool {
        self.program
            .as_deref()
            .and_then(Path::file_name)
            .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    }
}

/// The file that a command name leads to.
pub fn search(command: &OsStr, environment: &Environment) -> Option<PathBuf> {
    let runs = |path: &Path| {
        path.metadata()
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    if command.as_bytes().contains(&b'/') {
        let path = std::path::absolute(command).ok()?;
        return path.exists().then_some(path);
    }
    let path = environment.iter().find(|(name, _)| name == "PATH")?;
    std::env::split_paths(&path.1)
        .map(|folder| folder.join(command))
        .find(|path| runs(path))
}

/// Whether the auxiliary vector says `AT_SECURE`.
fn is_secure(auxv: &[u8]) -> bool {
    auxv.chunks_exact(16).any(|entry| {
        let (key, value) = entry.split_at(8);
        key == AT_SECURE.to_ne_bytes() && value != [0; 8]
    })
}

/// Why the loader would distrust the environment of a program started by this user.
fn privilege_of(path: &Path, identity: &Identity) -> Option<String> {
    let mut capability = [0u8; 64];
    if rustix::fs::getxattr(path, "security.capability", &mut capability[..])
        .is_ok_and(|len| len > 0)
    {
        return Some(format!("{} has file capabilities (setcap)", path.display()));
    }
    let file = path.metadata().ok()?;
    if file.mode() & 0o4000 != 0 && file.uid() != identity.uid {
        return Some(format!("{} is set-user-id", path.display()));
    }
    if file.mode() & 0o2010 == 0o2010 && file.gid() != identity.gid {
        return Some(format!("{} is set-group-id", path.display()));
    }
    None
}

/// Whether a process is dead by `/proc/PID/status`, though its number is still taken.
fn has_ended(status: &str) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("State:"))
        .is_some_and(|state| state.trim_start().starts_with(['Z', 'X']))
}

/// User and groups by `/proc/PID/status`.
fn identity_in(status: &str) -> Option<Identity> {
    let numbers = |key: &str| -> Option<Vec<u32>> {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        Some(
            line.split_whitespace()
                .filter_map(|word| word.parse().ok())
                .collect(),
        )
    };
    Some(Identity {
        uid: *numbers("Uid:")?.get(1)?,
        gid: *numbers("Gid:")?.get(1)?,
        groups: numbers("Groups:").unwrap_or_default(),
    })
}

/// A user in the group of the same number, and in no other.
fn only(uid: u32) -> Identity {
    Identity {
        uid,
        gid: uid,
        groups: Vec::new(),
    }
}

/// User and groups by name, as the system's databases have them.
fn identity_of(user: &str) -> anyhow::Result<Identity> {
    let ask = |flag: &str| -> anyhow::Result<Vec<u32>> {
        let output = Command::new("id").args([flag, "--", user]).output()?;
        if !output.status.success() {
            bail!("there is no user {user}");
        }
        Ok(String::from_utf8_lossy(&output.stdout)
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect())
    };
    let first = |numbers: Vec<u32>| numbers.first().copied().context("`id` printed no number");
    Ok(Identity {
        uid: first(ask("-u")?)?,
        gid: first(ask("-g")?)?,
        groups: ask("-G")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_tells_who_it_is() {
        let target = Target::process(std::process::id()).expect("our own");
        assert_eq!(target.identity.uid, Identity::own().uid);
        assert!(target.program.is_some() && !target.other_root);
        assert!(target.privilege.is_none());
        assert!(Target::process(u32::MAX).is_err());
    }

    #[test]
    fn a_process_that_has_ended_is_said_to_have() {
        let mut child = Command::new("true").spawn().expect("it starts");
        let pid = child.id();
        let begun = std::time::Instant::now();
        let error = loop {
            match Target::process(pid) {
                Err(error) => break error.to_string(),
                Ok(_) => assert!(begun.elapsed().as_secs() < 20, "it does not end"),
            }
        };
        // Between its memory's end and its own it may not be looked into either.
        if !error.contains("may not be looked into") {
            assert!(error.contains("has ended already"), "{error}");
        }
        child.wait().expect("reaped");
        assert!(Target::process(pid).is_err_and(|error| error.to_string().contains("no process")));
    }

    #[test]
    fn privileged_programs_lose_what_the_loader_ignores() {
        let mut target = Target::shell();
        target.environment = vec![
            ("LD_LIBRARY_PATH".into(), "/x".into()),
            ("VGPU_SOCKET".into(), "/y".into()),
            ("OLLAMA_HOST".into(), "z".into()),
        ];
        assert_eq!(target.heeded_environment().len(), 3);
        target.privilege = Some("setcap".to_owned());
        assert_eq!(
            target.heeded_environment(),
            vec![("OLLAMA_HOST".into(), "z".into())]
        );
    }

    #[test]
    fn the_auxiliary_vector_is_read() {
        let mut auxv = Vec::new();
        for (key, value) in [(3u64, 5u64), (AT_SECURE, 1), (0, 0)] {
            auxv.extend(key.to_ne_bytes());
            auxv.extend(value.to_ne_bytes());
        }
        assert!(is_secure(&auxv));
        auxv[24] = 0;
        assert!(!is_secure(&auxv));
    }
}
