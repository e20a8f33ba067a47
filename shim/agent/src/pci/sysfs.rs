//! Reaching a device through files in /sys: for machines without an IOMMU. There are no interrupts this way.

use super::find::Candidate;
use super::mmio::Registers;
use super::virtio::VirtioPci;
use super::{OpenError, Opened};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use vgpu_channel::link::virtio::CONFIG_MAGIC;

/// Command register.
pub(super) const COMMAND: u64 = 4;
/// Command: the device answers to memory accesses, and may make them.
pub(super) const MEMORY_AND_MASTER: u16 = 0b110;

pub(super) fn failed(
    candidate: &Candidate,
    step: impl Into<String>,
) -> impl FnOnce(io::Error) -> OpenError {
    let (address, step) = (candidate.address.clone(), step.into());
    move |source| OpenError::System {
        address,
        step,
        source,
    }
}

/// Opens the configuration space and makes sure that no other agent has.
pub(super) fn lock(candidate: &Candidate) -> Result<File, OpenError> {
    use rustix::fs::{FlockOperation, flock};
    let config = OpenOptions::new()
        .read(true)
        .write(true)
        .open(candidate.path.join("config"))
        .map_err(failed(candidate, "opening its configuration space"))?;
    match flock(&config, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(config),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Busy(candidate.address.clone())),
        Err(error) => Err(failed(candidate, "locking it")(error.into())),
    }
}

/// Whether the kernel forbids what this module does.
pub(super) fn is_locked_down() -> bool {
    fs::read_to_string("/sys/kernel/security/lockdown")
        .is_ok_and(|text| text.contains("[integrity]") || text.contains("[confidentiality]"))
}

/// Looks at the magic number through the window in the configuration space, which disturbs nobody; nothing when that
/// cannot be done.
pub(super) fn peek(candidate: &Candidate) -> Option<bool> {
    let capabilities = &candidate.capabilities;
    if capabilities.window == 0 {
        return None;
    }
    let config = OpenOptions::new()
        .read(true)
        .write(true)
        .open(candidate.path.join("config"))
        .ok()?;
    let window = u64::from(capabilities.window);
    let mut magic = [0; 8];
    for (index, half) in magic.chunks_exact_mut(4).enumerate() {
        let offset = capabilities.device.offset + 4 * index as u32;
        config
            .write_all_at(&[capabilities.device.bar], window + 4)
            .ok()?;
        config
            .write_all_at(&offset.to_le_bytes(), window + 8)
            .ok()?;
        config
            .write_all_at(&4_u32.to_le_bytes(), window + 12)
            .ok()?;
        config.read_exact_at(half, window + 16).ok()?;
    }
    Some(u64::from_le_bytes(magic) == CONFIG_MAGIC)
}

/// Takes the device from the driver that it is bound to.
pub(super) fn unbind(candidate: &Candidate) -> Result<(), OpenError> {
    let driver = candidate.path.join("driver");
    if !driver.exists() {
        return Ok(());
    }
    fs::write(driver.join("unbind"), &candidate.address)
        .map_err(failed(candidate, "unbinding its driver"))
}

/// Sizes of the BARs.
fn bar_len(path: &Path, bar: u8) -> Option<usize> {
    let text = fs::read_to_string(path.join("resource")).ok()?;
    let line = text.lines().nth(usize::from(bar))?;
    let mut fields = line
        .split_whitespace()
        .map(|field| u64::from_str_radix(field.trim_start_matches("0x"), 16));
    let (start, end) = (fields.next()?.ok()?, fields.next()?.ok()?);
    usize::try_from(end.checked_sub(start)? + 1).ok()
}

/// Opens the device.
pub(super) fn open(candidate: &Candidate, config: File) -> Result<Opened, OpenError> {
    if is_locked_down() {
        return Err(OpenError::Lockdown);
    }
    // virtio-pci holds the BARs of what it is bound to, so that they cannot be mapped.
    unbind(candidate)?;
    // With a driver of its own, it is enabled already.
    let enabled = fs::write(candidate.path.join("enable"), "1");
    let mut command = [0; 2];
    config
        .read_exact_at(&mut command, COMMAND)
        .map_err(failed(candidate, "reading its command register"))?;
    let command = u16::from_le_bytes(command) | MEMORY_AND_MASTER;
    config
        .write_all_at(&command.to_le_bytes(), COMMAND)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => OpenError::Lockdown,
            _ => failed(candidate, "enabling it")(error),
        })?;
    if let Err(error) = enabled {
        tracing::debug!("{}: enable: {error}", candidate.address);
    }
    let capabilities = candidate.capabilities;
    let mut bars = BTreeMap::new();
    for place in [
        capabilities.common,
        capabilities.notify,
        capabilities.isr,
        capabilities.device,
    ] {
        if bars.contains_key(&place.bar) {
            continue;
        }
        let step = format!("mapping BAR {}", place.bar);
        let len = bar_len(&candidate.path, place.bar)
            .filter(|&len| len > 1)
            .ok_or_else(|| failed(candidate, step.clone())(io::ErrorKind::NotFound.into()))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(candidate.path.join(format!("resource{}", place.bar)))
            .map_err(failed(candidate, step.clone()))?;
        let registers =
            Registers::map(file.as_fd(), 0, len).map_err(|error| match error.raw_os_error() {
                Some(libc::EPERM) => OpenError::Lockdown,
                _ => failed(candidate, step)(error),
            })?;
        bars.insert(place.bar, registers);
    }
    let device = VirtioPci::new(&capabilities, &bars, None, Box::new(config));
    let step = "finding its registers";
    let missing = || failed(candidate, step)(io::ErrorKind::NotFound.into());
    Ok(Opened {
        device: device.ok_or_else(missing)?,
        vfio: None,
    })
}
