//! Giving up privileges, for good.

use rustix::process::{DumpableBehavior, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};
use rustix::{process, thread};

/// Ends this process when its parent ends.
///
/// # Errors
///
/// A sentence.
pub fn die_with_parent() -> Result<(), String> {
    process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| format!("cannot be tied to the keeper: {error}"))
}

/// For a process that stays root: no more rights by what it executes, and no core file with what it maps.
///
/// # Errors
///
/// A sentence.
pub fn harden() -> Result<(), String> {
    thread::set_no_new_privs(true)
        .and_then(|()| process::set_dumpable_behavior(DumpableBehavior::NotDumpable))
        .map_err(|error| format!("the process cannot be hardened: {error}"))
}

/// Highest number of a capability that a kernel may know.
const LAST_CAPABILITY: u32 = 63;

/// Becomes `user`, with the group of the same number, no other group, no capability and no way back.
///
/// A process that is not root already (in tests) keeps its user and gives up the rest.
///
/// # Errors
///
/// A sentence.
pub fn drop_all(user: u32) -> Result<(), String> {
    drop_steps(user)
        .map_err(|(step, error)| format!("privileges cannot be dropped ({step}): {error}"))
}

fn drop_steps(user: u32) -> Result<(), (&'static str, rustix::io::Errno)> {
    let step = |name: &'static str| move |error| (name, error);
    thread::set_no_new_privs(true).map_err(step("no_new_privs"))?;
    if process::geteuid().is_root() {
        for number in 0..=LAST_CAPABILITY {
            let Some(capability) = CapabilitySet::from_bits(1 << number) else {
                continue;
            };
            // The kernel refuses the ones that it does not know.
            match thread::remove_capability_from_bounding_set(capability) {
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(("bounding set", error)),
            }
        }
        let uid = process::Uid::from_raw(user);
        let gid = process::Gid::from_raw(user);
        // This process has one thread yet.
        thread::set_thread_groups(&[]).map_err(step("groups"))?;
        thread::set_thread_res_gid(gid, gid, gid).map_err(step("group"))?;
        thread::set_thread_res_uid(uid, uid, uid).map_err(step("user"))?;
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    thread::set_capabilities(None, none).map_err(step("capabilities"))?;
    process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(step("dumpable"))?;
    // The change of user cleared it.
    process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(step("parent"))
}
