//! The real device: a modern virtio device on the PCI bus.
//!
//! | module | what lives there |
//! |---|---|
//! | [`capabilities`] | the virtio capabilities in the configuration space |
//! | [`find`] | looking through the bus |
//! | [`mmio`] | registers, as checked volatile accesses |
//! | [`sysfs`] | reaching a device through files in /sys |
//! | [`vfio`] | reaching a device through VFIO, with interrupts |
//! | [`virtio`] | the transport: features, queues, status |

pub mod capabilities;
pub mod find;
#[allow(unsafe_code)]
pub mod mmio;
pub mod sysfs;
#[allow(unsafe_code)]
pub mod vfio;
pub mod virtio;

use crate::device::{Device, DeviceError};
use crate::options::Access;
use crate::pages::DmaMap;
use find::{Candidate, FindError};
use std::sync::Arc;
use vgpu_channel::link::virtio::CONFIG_MAGIC;
use virtio::VirtioPci;

/// An open device.
#[derive(Debug)]
pub struct Opened {
    /// The device.
    pub device: VirtioPci,
    /// What pins pages, where VFIO is used.
    pub vfio: Option<Arc<dyn DmaMap>>,
}

/// Why the device cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not there.
    #[error(transparent)]
    Find(#[from] FindError),
    /// Something virtio is there, but not ours.
    #[error(
        "None of the machine's {0} unclaimed virtio devices is a vgpu device whose host daemon runs: start vhost-user-vgpu on the host, and QEMU with `-device vhost-user-vgpu-pci,chardev=...`"
    )]
    NoneIsOurs(usize),
    /// The kernel forbids the way through /sys.
    #[error(
        "The kernel is locked down (Secure Boot), which leaves VFIO as the only way to the device: give the machine an IOMMU (QEMU: `-device intel-iommu,intremap=on`, kernel command line `intel_iommu=on`; libvirt: `<iommu model='intel'/>`) and `modprobe vfio-pci`"
    )]
    Lockdown,
    /// VFIO was asked for and is not there.
    #[error(
        "VFIO is not to be had for {0}: it needs an IOMMU (QEMU: `-device intel-iommu,intremap=on`, kernel command line `intel_iommu=on`; libvirt: `<iommu model='intel'/>`) and `modprobe vfio-pci`"
    )]
    NoVfio(String),
    /// Another process drives it.
    #[error("{0} is driven by another agent already: see `systemctl status vgpu-agent`")]
    Busy(String),
    /// The system refused.
    #[error("{address} cannot be opened: {step}")]
    System {
        /// The device.
        address: String,
        /// What was tried.
        step: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The device refused.
    #[error("{0} cannot be used")]
    Device(String, #[source] DeviceError),
}

/// Opens the device at `wanted`, or the first one found.
///
/// # Errors
///
/// [`OpenError`].
pub fn open(wanted: Option<&str>, access: Access) -> Result<Opened, OpenError> {
    let candidates = find::find(wanted)?;
    let mut failed = None;
    for candidate in &candidates {
        match open_one(candidate, access) {
            Ok(Some(opened)) => return Ok(opened),
            Ok(None) => tracing::debug!("{} is another virtio device", candidate.address),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or(OpenError::NoneIsOurs(candidates.len())))
}

/// Opens a candidate; nothing when it is another device.
fn open_one(candidate: &Candidate, access: Access) -> Result<Option<Opened>, OpenError> {
    let lock = sysfs::lock(candidate)?;
    // Looked at before anything is changed, where the device allows it.
    if sysfs::peek(candidate) == Some(false) {
        return Ok(None);
    }
    let vfio_there = vfio::is_there(candidate);
    let opened = match access {
        Access::Vfio if !vfio_there => {
            return Err(OpenError::NoVfio(candidate.address.clone()));
        }
        Access::Vfio => vfio::open(candidate, lock)?,
        Access::Auto if vfio_there => match vfio::open(candidate, lock) {
            Ok(opened) => opened,
            Err(error) if !sysfs::is_locked_down() => {
                tracing::warn!(
                    "{}; going on without interrupts",
                    crate::mapper::error_text(&error)
                );
                sysfs::open(candidate, sysfs::lock(candidate)?)?
            }
            Err(error) => return Err(error),
        },
        Access::Auto | Access::Sysfs => sysfs::open(candidate, lock)?,
    };
    let config = opened
        .device
        .config()
        .map_err(|error| OpenError::Device(candidate.address.clone(), error))?;
    if config.magic != CONFIG_MAGIC {
        return Ok(None);
    }
    tracing::info!(
        "the device is {} ({})",
        candidate.address,
        if opened.device.interrupts().is_some() {
            "through VFIO, with interrupts"
        } else {
            "through /sys, without interrupts"
        }
    );
    Ok(Some(opened))
}
