//! How the mapper process begins.

use super::memory::Memory;
use super::{Limits, Mapper, MapperError, error_text};
use crate::device::Device;
use crate::options::MapperOptions;
use crate::pages::{DmaMap, HugePagePool, PageSource};
use crate::{pci, process};
use std::sync::Arc;
use vgpu_channel::link::Socket;
use vgpu_channel::segment::SEGMENT_ALIGN;

/// The mapper process on the real device.
///
/// # Errors
///
/// A sentence.
pub fn run(options: &MapperOptions) -> Result<(), String> {
    let (keeper, pages) = begin()?;
    let limits = &options.limits;
    let found =
        pci::open(limits.device.as_deref(), limits.access).map_err(|error| error_text(&error))?;
    let pci::Opened { device, vfio } = found;
    if options.reset_only {
        let mut device = device;
        return device.reset().map_err(|error| error_text(&error));
    }
    let vfio: Option<Arc<dyn DmaMap>> = vfio;
    let source = HugePagePool::new(pages, vfio).map_err(|error| error_text(&error))?;
    let limits = Limits {
        heap: limits.heap,
        channels: limits.max_clients,
        per_user: limits.max_clients_per_user.saturating_mul(2),
    };
    serve(device, source, keeper, limits).map_err(|error| error_text(&error))
}

/// Takes the sockets to the keeper: for words, for pages.
///
/// # Errors
///
/// A sentence.
pub fn begin() -> Result<(Socket, Socket), String> {
    let keeper = process::keeper_socket()?;
    let (_, mut fds) = process::receive_start(&keeper)?;
    let pages = fds.pop().ok_or("the keeper sent no socket for pages")?;
    process::raise_descriptor_limit();
    crate::privilege::harden()?;
    rustix::io::ioctl_fionbio(&keeper, true)
        .map_err(|error| format!("the keeper's socket: {error}"))?;
    Ok((keeper, Socket::from_fd(pages)))
}

/// Serves any device with pages of any source.
///
/// # Errors
///
/// [`MapperError`].
pub fn serve(
    mut device: impl Device,
    mut source: impl PageSource,
    keeper: Socket,
    limits: Limits,
) -> Result<(), MapperError> {
    // Before a page is touched that an earlier driver may have given to it.
    device.reset()?;
    // The pool may have no other page until the host has let go of those of dead channels, which takes queues.
    let queues = match source.inherit(SEGMENT_ALIGN)? {
        Some(queues) => queues,
        None => source.take(SEGMENT_ALIGN)?,
    };
    let memory = Memory::start(source)?;
    Mapper::new(device, queues, memory, keeper, limits)?.run()
}
