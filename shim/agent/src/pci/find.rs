//! Looking through the PCI bus for virtio devices that no driver of the kernel uses.

use super::capabilities::Capabilities;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use vgpu_channel::link::virtio::{DEVICE_ID, PCI_VENDOR};

/// Where the devices are.
const BUS: &str = "/sys/bus/pci/devices";
/// PCI device id of a modern virtio device less its virtio id.
const MODERN: u16 = 0x1040;
/// PCI device id that a vgpu device has unless its machine's configuration gives it another.
pub const USUAL_ID: u16 = MODERN + DEVICE_ID;

/// A virtio device that may be ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its address on the bus.
    pub address: String,
    /// Its folder in /sys.
    pub path: PathBuf,
    /// PCI device id.
    pub id: u16,
    /// Where its parts are.
    pub capabilities: Capabilities,
    /// The driver it is bound to.
    pub driver: Option<String>,
    /// Its IOMMU group.
    pub group: Option<String>,
}

/// Why there is no candidate.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// No virtio device is free.
    #[error(
        "This machine has no vgpu device: start QEMU with `-chardev socket,id=vgpu,path=...,reconnect-ms=1000 -device vhost-user-vgpu-pci,chardev=vgpu` (libvirt: the `<qemu:commandline>` in docs/virtual-machines.md)"
    )]
    None,
    /// The one asked for is not a free virtio device.
    #[error(
        "{0} is no virtio device that the kernel leaves alone: `lspci -nn -d 1af4:` lists the virtio devices"
    )]
    NotThere(String),
    /// Its configuration space is hidden.
    #[error(
        "The configuration space of {0} cannot be read in full: run `vgpu agent` as root, with CAP_SYS_ADMIN"
    )]
    Hidden(String),
    /// The bus cannot be looked at.
    #[error("{BUS} cannot be read: is /sys mounted (`mount -t sysfs sysfs /sys`)?")]
    NoBus(#[source] io::Error),
}

/// The candidates, the one with the usual id first.
///
/// # Errors
///
/// [`FindError`].
pub fn find(wanted: Option<&str>) -> Result<Vec<Candidate>, FindError> {
    find_in(Path::new(BUS), wanted)
}

fn find_in(bus: &Path, wanted: Option<&str>) -> Result<Vec<Candidate>, FindError> {
    let mut candidates = Vec::new();
    for entry in fs::read_dir(bus).map_err(FindError::NoBus)?.flatten() {
        let address = entry.file_name().to_string_lossy().into_owned();
        if wanted.is_some_and(|wanted| wanted != address) {
            continue;
        }
        candidates.extend(look(&entry.path(), address)?);
    }
    candidates.sort_by_key(|found| (found.id != USUAL_ID, found.address.clone()));
    match (candidates.is_empty(), wanted) {
        (false, _) => Ok(candidates),
        (true, Some(wanted)) => Err(FindError::NotThere(wanted.to_owned())),
        (true, None) => Err(FindError::None),
    }
}

fn number(path: &Path) -> Option<u16> {
    let text = fs::read_to_string(path).ok()?;
    u16::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
}

/// The last part of a link's target.
fn link(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

fn look(path: &Path, address: String) -> Result<Option<Candidate>, FindError> {
    if number(&path.join("vendor")) != Some(PCI_VENDOR) || is_used(path) {
        return Ok(None);
    }
    let config = fs::read(path.join("config")).unwrap_or_default();
    if config.len() == 64 {
        // The rest is for root only, and the capabilities are in it.
        return Err(FindError::Hidden(address));
    }
    Ok(Capabilities::parse(&config).map(|capabilities| Candidate {
        id: number(&path.join("device")).unwrap_or(0),
        driver: link(&path.join("driver")),
        group: link(&path.join("iommu_group")),
        path: path.to_owned(),
        address,
        capabilities,
    }))
}

/// Whether a driver of the kernel uses it: virtio-pci claims each virtio device of a usual id, but only one that some
/// virtio driver took on is used.
fn is_used(path: &Path) -> bool {
    let children = fs::read_dir(path).into_iter().flatten().flatten();
    let mut virtio =
        children.filter(|child| child.file_name().to_string_lossy().starts_with("virtio"));
    virtio.any(|child| child.path().join("driver").exists())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn device(bus: &Path, address: &str, vendor: &str, id: &str, config: &[u8]) -> PathBuf {
        let path = bus.join(address);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("vendor"), vendor).unwrap();
        fs::write(path.join("device"), id).unwrap();
        fs::write(path.join("config"), config).unwrap();
        path
    }

    fn config() -> Vec<u8> {
        let mut config = vec![0; 256];
        config[6] = 0x10;
        config[0x34] = 0x40;
        for kind in 1..5_usize {
            let at = 0x40 + (kind - 1) * 20;
            config[at] = 9;
            config[at + 1] = if kind < 4 { (at + 20) as u8 } else { 0 };
            config[at + 3] = kind as u8;
            config[at + 4] = 4;
            config[at + 13] = 0x10;
        }
        config
    }

    #[test]
    fn free_virtio_devices_are_found_whatever_their_id() {
        let bus = tempfile::tempdir().unwrap();
        let bus = bus.path();
        device(bus, "0000:00:00.0", "0x8086\n", "0x29c0\n", &config());
        let used = device(bus, "0000:00:01.0", "0x1af4\n", "0x1042\n", &config());
        fs::create_dir(used.join("virtio0")).unwrap();
        symlink(
            "../../bus/virtio/drivers/virtio_blk",
            used.join("virtio0/driver"),
        )
        .unwrap();
        fs::create_dir_all(bus.join("../bus/virtio/drivers/virtio_blk")).ok();
        let claimed = device(bus, "0000:00:02.0", "0x1af4\n", "0x107c\n", &config());
        fs::create_dir(claimed.join("virtio1")).unwrap();
        fs::create_dir(bus.join("drv")).unwrap();
        symlink("../drv", claimed.join("driver")).unwrap();
        device(bus, "0000:00:03.0", "0x1af4\n", "0x10f0\n", &config());
        device(bus, "0000:00:04.0", "0x1af4\n", "0x1000\n", &[0; 256]);
        // The link above leads nowhere in this made-up bus; a driver that exists counts.
        fs::remove_file(used.join("virtio0/driver")).unwrap();
        symlink(bus.join("drv"), used.join("virtio0/driver")).unwrap();

        let found = find_in(bus, None).unwrap();
        let addresses: Vec<_> = found.iter().map(|found| found.address.as_str()).collect();
        assert_eq!(addresses, ["0000:00:03.0", "0000:00:02.0"]);
        assert_eq!(found[1].driver.as_deref(), Some("drv"));
        assert_eq!(find_in(bus, Some("0000:00:02.0")).unwrap().len(), 1);
        assert!(matches!(
            find_in(bus, Some("0000:00:01.0")),
            Err(FindError::NotThere(_))
        ));
    }

    #[test]
    fn a_machine_without_one_is_told_how_to_get_one() {
        let bus = tempfile::tempdir().unwrap();
        let error = find_in(bus.path(), None).unwrap_err().to_string();
        assert!(error.contains("-device vhost-user-vgpu-pci"), "{error}");
        device(
            bus.path(),
            "0000:00:03.0",
            "0x1af4\n",
            "0x10f0\n",
            &config()[..64],
        );
        let error = find_in(bus.path(), None).unwrap_err().to_string();
        assert!(error.contains("root"), "{error}");
    }
}
