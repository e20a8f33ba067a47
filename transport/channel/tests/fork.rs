//! What a forked child of a client sees.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use vgpu_channel::segment::{HugePages, SegmentFd, Segments, Side};
use vgpu_channel::shm::ForkWitness;
use vgpu_channel::window::Reservation;

/// Runs `check` in a forked child, which then becomes `true`; whether both succeeded.
fn in_forked_child(check: impl FnMut() -> io::Result<()> + Send + Sync + 'static) -> bool {
    let mut command = Command::new("true");
    // SAFETY: the child only reads memory and files and allocates; the tests of this file that use threads hold no lock
    // that this needs, since each of them only waits for its own child.
    unsafe { command.pre_exec(check) };
    command.status().is_ok_and(|status| status.success())
}

fn expect(condition: bool) -> io::Result<()> {
    if condition {
        Ok(())
    } else {
        Err(io::Error::other("not as expected"))
    }
}

#[test]
fn a_child_is_told_from_its_parent() {
    let witness = Arc::new(ForkWitness::new().unwrap());
    assert!(!witness.in_child());
    let inherited = Arc::clone(&witness);
    assert!(in_forked_child(move || expect(inherited.in_child())));
    assert!(!witness.in_child());
}

#[test]
fn a_child_does_not_inherit_the_segments() {
    let segments = Segments::new(Reservation::for_client().unwrap(), Side::Client);
    let fd = SegmentFd::create(2 << 20, HugePages::Try).unwrap();
    let segment = segments.append(segments.end(), &fd).unwrap();
    let prefix = format!("{:x}-", segment.address);
    let mapped =
        move || Ok::<_, io::Error>(std::fs::read_to_string("/proc/self/maps")?.contains(&prefix));
    assert!(mapped().unwrap());
    assert!(in_forked_child(move || expect(!mapped()?)));
    segments.copy_in(segment.address, b"still here").unwrap();
}
