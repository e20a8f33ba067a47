//! Reaching a device through VFIO (type 1, legacy groups): for machines with an IOMMU. Gives interrupts, and works where
//! the kernel is locked down.
//!
//! The device itself uses guest-physical addresses (it does not offer `VIRTIO_F_ACCESS_PLATFORM`), so nothing need be
//! mapped for its sake; VFIO's maps serve to pin pages where io_uring is not allowed.
//!
//! Unsafe: ioctls, each with an argument block of the kernel's layout that is alive for the call.

use super::find::Candidate;
use super::mmio::Registers;
use super::sysfs::{COMMAND, MEMORY_AND_MASTER, failed, unbind};
use super::virtio::{Vectors, VirtioPci};
use super::{OpenError, Opened};
use crate::device::Interrupts;
use crate::pages::DmaMap;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vgpu_channel::link::Event;
use vgpu_channel::link::virtio::Piece;
use vgpu_channel::shm::View;

/// The driver to bind to.
const DRIVERS: &str = "/sys/bus/pci/drivers";
/// Where containers come from.
const CONTAINER: &str = "/dev/vfio/vfio";
/// How long the group's node may take to appear.
const NODE: Duration = Duration::from_secs(2);

/// `_IO(';', 100 + n)`.
const fn request(n: u64) -> u64 {
    ((b';' as u64) << 8) | (100 + n)
}

const GET_API_VERSION: u64 = request(0);
const CHECK_EXTENSION: u64 = request(1);
const SET_IOMMU: u64 = request(2);
const GROUP_GET_STATUS: u64 = request(3);
const GROUP_SET_CONTAINER: u64 = request(4);
const GROUP_GET_DEVICE_FD: u64 = request(6);
const GET_REGION_INFO: u64 = request(8);
const GET_IRQ_INFO: u64 = request(9);
const SET_IRQS: u64 = request(10);
const MAP_DMA: u64 = request(13);
const UNMAP_DMA: u64 = request(14);

/// `VFIO_TYPE1v2_IOMMU`.
const TYPE1: libc::c_ulong = 3;
/// Region of the configuration space.
const CONFIG_REGION: u32 = 7;
/// Interrupts of kind MSI-X.
const MSIX: u32 = 2;
/// `VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER`.
const TRIGGER_EVENTS: u32 = 1 << 2 | 1 << 5;
/// `VFIO_REGION_INFO_FLAG_MMAP`.
const CAN_MAP: u32 = 1 << 2;
/// `VFIO_GROUP_FLAGS_VIABLE`.
const VIABLE: u32 = 1;

#[repr(C)]
#[derive(Default)]
struct GroupStatus {
    size: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct RegionInfo {
    size: u32,
    flags: u32,
    index: u32,
    capabilities: u32,
    len: u64,
    offset: u64,
}

#[repr(C)]
#[derive(Default)]
struct IrqInfo {
    size: u32,
    flags: u32,
    index: u32,
    count: u32,
}

#[repr(C)]
struct IrqSet {
    size: u32,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
    events: [RawFd; 2],
}

#[repr(C)]
struct DmaMapRequest {
    size: u32,
    flags: u32,
    address: u64,
    iova: u64,
    len: u64,
}

#[repr(C)]
struct DmaUnmapRequest {
    size: u32,
    flags: u32,
    iova: u64,
    len: u64,
}

/// An ioctl with an argument block that begins with its own size.
///
/// # Safety
///
/// `T` must be what the kernel expects for `request`.
unsafe fn with_block<T>(fd: BorrowedFd<'_>, request: u64, block: &mut T) -> io::Result<i32> {
    // SAFETY: the block is alive for the call; its type is as the caller vouches.
    let got = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, std::ptr::from_mut(block)) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(got)
}

/// An ioctl with a number.
///
/// # Safety
///
/// `request` must be one that takes a number.
unsafe fn with_number(fd: BorrowedFd<'_>, request: u64, number: libc::c_ulong) -> io::Result<i32> {
    // SAFETY: no memory is involved, as the caller vouches.
    let got = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, number) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(got)
}

const fn size_of_u32<T>() -> u32 {
    size_of::<T>() as u32
}

/// Whether VFIO can be tried.
pub(super) fn is_there(candidate: &Candidate) -> bool {
    candidate.group.is_some()
        && Path::new(CONTAINER).exists()
        && Path::new(DRIVERS).join("vfio-pci").exists()
}

/// Container, group and device, open.
#[derive(Debug)]
struct Vfio {
    container: OwnedFd,
    _group: File,
    device: File,
}

impl Vfio {
    fn region(&self, index: u32) -> io::Result<RegionInfo> {
        let mut info = RegionInfo {
            size: size_of_u32::<RegionInfo>(),
            index,
            ..RegionInfo::default()
        };
        // SAFETY: `struct vfio_region_info`.
        unsafe { with_block(self.device.as_fd(), GET_REGION_INFO, &mut info)? };
        Ok(info)
    }

    /// Lets the device answer to memory accesses and make them.
    fn enable(&self) -> io::Result<()> {
        let at = self.region(CONFIG_REGION)?.offset + COMMAND;
        let mut command = [0; 2];
        self.device.read_exact_at(&mut command, at)?;
        let command = u16::from_le_bytes(command) | MEMORY_AND_MASTER;
        self.device.write_all_at(&command.to_le_bytes(), at)
    }

    fn map(&self, bar: u8) -> io::Result<Registers> {
        let info = self.region(bar.into())?;
        if info.flags & CAN_MAP == 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let len = usize::try_from(info.len).map_err(io::Error::other)?;
        Registers::map(self.device.as_fd(), info.offset, len)
    }

    /// Has MSI-X vectors signal events. Nothing when the device has no vectors.
    fn interrupts(&self) -> io::Result<Option<(Interrupts, Vectors)>> {
        let mut info = IrqInfo {
            size: size_of_u32::<IrqInfo>(),
            index: MSIX,
            ..IrqInfo::default()
        };
        // SAFETY: `struct vfio_irq_info`.
        unsafe { with_block(self.device.as_fd(), GET_IRQ_INFO, &mut info)? };
        if info.count == 0 {
            return Ok(None);
        }
        let interrupts = Interrupts {
            queues: Event::new()?,
            config: Event::new()?,
            shared: info.count < 2,
        };
        let count = info.count.min(2);
        let mut set = IrqSet {
            size: size_of_u32::<IrqSet>() - 4 * (2 - count),
            flags: TRIGGER_EVENTS,
            index: MSIX,
            start: 0,
            count,
            events: [
                interrupts.queues.as_fd().as_raw_fd(),
                interrupts.config.as_fd().as_raw_fd(),
            ],
        };
        // SAFETY: `struct vfio_irq_set` with `count` descriptors behind it; the kernel takes its own references.
        unsafe { with_block(self.device.as_fd(), SET_IRQS, &mut set)? };
        let vectors = Vectors {
            queues: 0,
            config: u16::from(count > 1),
        };
        Ok(Some((interrupts, vectors)))
    }
}

impl DmaMap for Vfio {
    fn map(&self, view: &View, pieces: &[Piece]) -> io::Result<()> {
        let mut address = view.address();
        for (index, piece) in pieces.iter().enumerate() {
            let mut request = DmaMapRequest {
                size: size_of_u32::<DmaMapRequest>(),
                // Readable and writable.
                flags: 3,
                address,
                iova: piece.address,
                len: piece.len,
            };
            // SAFETY: `struct vfio_iommu_type1_dma_map`; the memory named is mapped by `view`. Pages are pinned, so the
            // map may go after the call.
            let done = unsafe { with_block(self.container.as_fd(), MAP_DMA, &mut request) };
            if let Err(error) = done {
                self.unmap(pieces.get(..index).unwrap_or_default());
                return Err(error);
            }
            address += piece.len;
        }
        Ok(())
    }

    fn unmap(&self, pieces: &[Piece]) {
        for piece in pieces {
            let mut request = DmaUnmapRequest {
                size: size_of_u32::<DmaUnmapRequest>(),
                flags: 0,
                iova: piece.address,
                len: piece.len,
            };
            // SAFETY: `struct vfio_iommu_type1_dma_unmap`.
            let done = unsafe { with_block(self.container.as_fd(), UNMAP_DMA, &mut request) };
            if let Err(error) = done {
                tracing::warn!("pages stay pinned by VFIO: {error}");
            }
        }
    }
}

/// Binds the device to vfio-pci.
fn bind(candidate: &Candidate) -> Result<(), OpenError> {
    if candidate.driver.as_deref() == Some("vfio-pci") {
        return Ok(());
    }
    let overriding = candidate.path.join("driver_override");
    fs::write(overriding, "vfio-pci").map_err(failed(candidate, "choosing vfio-pci"))?;
    unbind(candidate)?;
    fs::write("/sys/bus/pci/drivers_probe", &candidate.address)
        .map_err(failed(candidate, "binding it to vfio-pci"))
}

/// Takes the device from vfio-pci again.
fn unbind_vfio(candidate: &Candidate) {
    for (file, text) in [
        (candidate.path.join("driver_override"), "\n"),
        (
            candidate.path.join("driver/unbind"),
            candidate.address.as_str(),
        ),
    ] {
        if let Err(error) = fs::write(&file, text) {
            tracing::debug!("{}: {error}", file.display());
        }
    }
}

fn open_group(candidate: &Candidate) -> Result<Vfio, OpenError> {
    let group_number = candidate
        .group
        .as_deref()
        .ok_or_else(|| OpenError::NoVfio(candidate.address.clone()))?;
    let node = Path::new("/dev/vfio").join(group_number);
    let deadline = Instant::now() + NODE;
    while !node.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
    let group = open(&node).map_err(failed(candidate, format!("opening {}", node.display())))?;
    let mut status = GroupStatus {
        size: size_of_u32::<GroupStatus>(),
        flags: 0,
    };
    // SAFETY: `struct vfio_group_status`.
    unsafe { with_block(group.as_fd(), GROUP_GET_STATUS, &mut status) }
        .map_err(failed(candidate, "asking for its group's status"))?;
    if status.flags & VIABLE == 0 {
        let step = format!(
            "its IOMMU group {group_number} holds devices with other drivers (put the device behind a root port of its own)"
        );
        return Err(failed(candidate, step)(io::ErrorKind::ResourceBusy.into()));
    }
    let container =
        open(Path::new(CONTAINER)).map_err(failed(candidate, format!("opening {CONTAINER}")))?;
    // SAFETY: both take a number, the first none at all.
    let fits = unsafe {
        with_number(container.as_fd(), GET_API_VERSION, 0).and_then(|version| {
            Ok((
                version,
                with_number(container.as_fd(), CHECK_EXTENSION, TYPE1)?,
            ))
        })
    };
    if !matches!(fits, Ok((0, 1))) {
        return Err(OpenError::NoVfio(candidate.address.clone()));
    }
    let mut descriptor = container.as_raw_fd();
    // SAFETY: takes a pointer to a descriptor.
    unsafe { with_block(group.as_fd(), GROUP_SET_CONTAINER, &mut descriptor) }
        .map_err(failed(candidate, "joining its group to a container"))?;
    // SAFETY: takes a number.
    unsafe { with_number(container.as_fd(), SET_IOMMU, TYPE1) }
        .map_err(failed(candidate, "setting up its IOMMU"))?;
    let mut name = [0_u8; 32];
    for (to, from) in name.iter_mut().zip(candidate.address.bytes().take(31)) {
        *to = from;
    }
    // SAFETY: takes a string, which ends within the array.
    let device = unsafe { with_block(group.as_fd(), GROUP_GET_DEVICE_FD, &mut name) }
        .map_err(failed(candidate, "taking it from its group"))?;
    // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
    let device = unsafe { OwnedFd::from_raw_fd(device) };
    Ok(Vfio {
        container: container.into(),
        _group: group,
        device: device.into(),
    })
}

/// Opens the device. `lock` is kept open.
pub(super) fn open(candidate: &Candidate, lock: File) -> Result<Opened, OpenError> {
    bind(candidate)?;
    let opened = set_up(candidate, lock);
    if opened.is_err() {
        unbind_vfio(candidate);
    }
    opened
}

fn set_up(candidate: &Candidate, lock: File) -> Result<Opened, OpenError> {
    let vfio = open_group(candidate)?;
    vfio.enable().map_err(failed(candidate, "enabling it"))?;
    let capabilities = candidate.capabilities;
    let mut bars = BTreeMap::new();
    for place in [
        capabilities.common,
        capabilities.notify,
        capabilities.isr,
        capabilities.device,
    ] {
        if let std::collections::btree_map::Entry::Vacant(vacant) = bars.entry(place.bar) {
            let step = format!("mapping BAR {}", place.bar);
            vacant.insert(vfio.map(place.bar).map_err(failed(candidate, step))?);
        }
    }
    let interrupts = vfio
        .interrupts()
        .map_err(failed(candidate, "setting up its interrupts"))?;
    let vfio = Arc::new(vfio);
    let keep = Box::new((lock, Arc::clone(&vfio)));
    let device = VirtioPci::new(&capabilities, &bars, interrupts, keep);
    let missing = || failed(candidate, "finding its registers")(io::ErrorKind::NotFound.into());
    Ok(Opened {
        device: device.ok_or_else(missing)?,
        vfio: Some(vfio),
    })
}
