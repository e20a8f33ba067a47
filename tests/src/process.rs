//! Looking at processes through `/proc`: whether they live, what they hold, how much processor time they have used.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// The processor time a process has used, all its threads together; `None` when it is gone.
///
/// Read from `/proc/PID/stat` fields 14 and 15 (`proc_pid_stat(5)`), in clock ticks, which are 10 ms on Linux.
#[must_use]
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let fields = stat_after_name(pid)?;
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    // SAFETY: sysconf takes no pointers and has no preconditions.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let per_second = u64::try_from(per_second).ok().filter(|n| *n > 0)?;
    Some(Duration::from_millis(ticks * 1000 / per_second))
}

/// Whether a process exists and is not a zombie waiting for its parent.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    stat_after_name(pid).is_some_and(|fields| {
        fields
            .first()
            .is_some_and(|state| state != "Z" && state != "X")
    })
}

/// How much memory of a process is resident, in KiB (`VmRSS` of `/proc/PID/status`); `None` when it is gone.
#[must_use]
pub fn resident_kib(pid: u32) -> Option<u64> {
    status_number(pid, "VmRSS:")
}

/// How many threads a process has; `None` when it is gone.
#[must_use]
pub fn threads(pid: u32) -> Option<u64> {
    status_number(pid, "Threads:")
}

/// The number behind `name` in `/proc/PID/status`.
fn status_number(pid: u32, name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The fields of `/proc/PID/stat` from the state on: the name before them may hold spaces and parentheses.
fn stat_after_name(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// All descendants of `root`, itself included when it lives; a snapshot.
#[must_use]
pub fn family(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in processes() {
        let parent = stat_after_name(pid).and_then(|fields| fields.get(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut pending = vec![root];
    while let Some(pid) = pending.pop() {
        if is_alive(pid) {
            found.push(pid);
        }
        pending.extend(children.remove(&pid).unwrap_or_default());
    }
    found
}

/// The numbers of all processes that can be seen.
#[must_use]
pub fn processes() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// The living processes whose environment holds `NAME=value`: how a test finds all that descended from it, also those
/// that moved to another parent or process group.
#[must_use]
pub fn marked(name: &str, value: &str) -> Vec<u32> {
    let want = format!("{name}={value}");
    processes()
        .into_iter()
        .filter(|pid| {
            is_alive(*pid)
                && fs::read(format!("/proc/{pid}/environ")).is_ok_and(|text| {
                    text.split(|byte| *byte == 0)
                        .any(|entry| entry == want.as_bytes())
                })
        })
        .collect()
}

/// What a process's open descriptors point to, e.g. `/memfd:name (deleted)` or `socket:[123]`.
#[must_use]
pub fn descriptors(pid: u32) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .collect()
}

/// The inode numbers of the anonymous memory files (`memfd_create`) mapped into a process: two processes that have one
/// in common share memory. All such files lie on one internal file system, so the number alone identifies them.
#[must_use]
pub fn shared_memory(pid: u32) -> BTreeSet<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    text.lines()
        .filter(|line| line.contains("/memfd:"))
        .filter_map(|line| line.split_whitespace().nth(4)?.parse().ok())
        .collect()
}

/// The paths of all files mapped into a process, without repetitions.
#[must_use]
pub fn mapped_files(pid: u32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let mut files: Vec<String> = text
        .lines()
        .filter_map(|line| line.find('/').map(|at| line[at..].to_owned()))
        .collect();
    files.sort();
    files.dedup();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen_with_its_time_files_and_environment() {
        let me = std::process::id();
        assert!(is_alive(me));
        assert!(cpu_time(me).is_some());
        assert!(resident_kib(me).is_some_and(|size| size > 100));
        assert!(threads(me).is_some_and(|count| count >= 1));
        assert!(mapped_files(me).iter().any(|file| file.contains("libc")));
        assert!(family(me).contains(&me));
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        assert!(descriptors(me).iter().any(|target| target == file.path()));
        let path = std::env::var("PATH").expect("PATH is set");
        assert!(marked("PATH", &path).contains(&me));
    }

    #[test]
    fn a_mapped_memory_file_is_seen_by_its_inode() {
        use std::os::unix::fs::MetadataExt;
        let fd = rustix::fs::memfd_create("process-test", rustix::fs::MemfdFlags::CLOEXEC)
            .expect("a memfd");
        let file = fs::File::from(fd);
        file.set_len(4096).expect("it grows");
        let me = std::process::id();
        let inode = file.metadata().expect("metadata").ino();
        assert!(!shared_memory(me).contains(&inode));
        // SAFETY: a fresh shared mapping at an address of the kernel's choice; nothing refers to it but this test.
        let mapping = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                4096,
                rustix::mm::ProtFlags::READ,
                rustix::mm::MapFlags::SHARED,
                &file,
                0,
            )
        };
        let address = mapping.expect("it is mapped");
        assert!(shared_memory(me).contains(&inode));
        // SAFETY: the mapping was made above, with this length, and is not used any more.
        unsafe { rustix::mm::munmap(address, 4096).expect("it is unmapped") };
    }

    #[test]
    fn an_ended_process_is_not_alive() {
        let mut child = std::process::Command::new("true")
            .spawn()
            .expect("true runs");
        let pid = child.id();
        while is_alive(pid) {
            std::thread::yield_now();
        }
        child.wait().expect("it is reaped");
        assert!(cpu_time(pid).is_none());
    }
}
