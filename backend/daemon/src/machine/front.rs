//! The front-end's side: one thread that speaks the vhost-user protocol with the virtual machine monitor, a connection at a
//! time, and hands what changes to the event loop. Where the protocol demands that something is over before the answer, it
//! waits for the loop; the loop never waits for it.
//!
//! The `vhost` crate reads and writes the messages. Its companion `vhost-user-backend` is not used: it serves the queues on
//! a thread of its own, which would need locks around all that the loop owns, and does not tell when a queue starts again.

use super::ring::Place;
use super::table::{Region, Table};
use crate::machine::{CONFIG_BYTES, QUEUE_SIZE, QUEUES};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use vgpu_channel::link::Event;
use vgpu_channel::link::virtio::DeviceConfig;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVirtioFeatures,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    BackendReqHandler, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut,
};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};

/// Regions of RAM that a front-end may add one by one.
const MAX_REGIONS: usize = 509;

/// What the loop is told.
#[derive(Debug)]
pub enum Message {
    /// A front-end connected.
    Came,
    /// A queue starts.
    Start {
        index: usize,
        place: Place,
        kick: File,
        call: Option<File>,
        enabled: bool,
    },
    /// A running queue tells the driver in another way.
    Call(usize, Option<File>),
    /// A running queue is to be served, or not.
    Enable(usize, bool),
    /// A queue stops. Answered with its position.
    Stop(usize, Sender<u16>),
    /// The RAM changes. Answered when nothing maps what is no more.
    Memory(Table, Sender<()>),
    /// The device is reset. Answered when it is.
    Reset(Sender<()>),
    /// The front-end is gone. Answered when nothing of it is left.
    Gone(Sender<()>),
}

/// What a connection was told about a queue.
#[derive(Debug, Default)]
struct Vring {
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
    base: u16,
    call: Option<File>,
    enabled: bool,
    running: bool,
}

/// A connection.
#[derive(Debug)]
struct Front {
    loop_end: LoopEnd,
    config: [u8; CONFIG_BYTES],
    features: u64,
    regions: Vec<Region>,
    vrings: [Vring; QUEUES],
}

/// The way to the event loop.
#[derive(Clone, Debug)]
pub struct LoopEnd {
    /// Where messages go.
    pub messages: Sender<Message>,
    /// Signalled after each.
    pub event: Arc<Event>,
}

impl LoopEnd {
    fn tell(&self, message: Message) -> Result<()> {
        let sent = self.messages.send(message);
        self.event.signal();
        sent.map_err(|_| Error::BackendInternalError)
    }

    fn ask<T>(&self, question: impl FnOnce(Sender<T>) -> Message) -> Result<T> {
        let (sender, answer): (_, Receiver<T>) = channel();
        self.tell(question(sender))?;
        answer.recv().map_err(|_| Error::BackendInternalError)
    }
}

/// Serves front-ends, one after the other, for the rest of the daemon's life.
///
/// # Errors
/// When there can be no thread.
pub fn listen(
    listener: UnixListener,
    lock: OwnedFd,
    config: DeviceConfig,
    loop_end: LoopEnd,
) -> io::Result<()> {
    std::thread::Builder::new()
        .name("vhost-user".to_owned())
        .spawn(move || {
            wait_for_old_workers(&lock);
            loop {
                match listener.accept() {
                    Ok((stream, _)) => {
                        if serve(stream, config, &loop_end).is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::error!("no virtual machine can connect: {error}");
                        std::thread::sleep(std::time::Duration::from_secs(1));
                    }
                }
            }
        })
        .map(drop)
}

/// Waits for the lock that a killed daemon's workers hold until they are gone.
fn wait_for_old_workers(lock: &OwnedFd) {
    if flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
        return;
    }
    tracing::warn!("workers of an older daemon are still alive: nobody is served before they end");
    while let Err(error) = flock(lock, FlockOperation::LockExclusive) {
        if error != Errno::INTR {
            tracing::error!("the lock cannot be taken: {error}");
            return;
        }
    }
}

/// Serves the front-end at the other end of a connection. An error means that the loop has ended.
fn serve(stream: UnixStream, config: DeviceConfig, loop_end: &LoopEnd) -> Result<()> {
    tracing::info!("a virtual machine connected");
    loop_end.tell(Message::Came)?;
    let front = Front {
        loop_end: loop_end.clone(),
        config: zerocopy::transmute!(config),
        features: 0,
        regions: Vec::new(),
        vrings: Default::default(),
    };
    let mut handler = BackendReqHandler::from_stream(stream, Arc::new(Mutex::new(front)));
    let end = loop {
        if let Err(error) = handler.handle_request() {
            break error;
        }
    };
    match end {
        Error::Disconnected | Error::PartialMessage | Error::SocketBroken(_) => {
            tracing::info!("the virtual machine disconnected");
        }
        error => tracing::warn!("the virtual machine is disconnected: {error}"),
    }
    // Only now, so that the front-end does not see the end before everything of it is over.
    let gone = loop_end.ask(Message::Gone);
    drop(handler);
    gone
}

fn unsupported<T>(what: &'static str) -> Result<T> {
    Err(Error::InvalidOperation(what))
}

fn failed(error: &anyhow::Error) -> Error {
    tracing::error!("{error:#}");
    Error::ReqHandlerError(io::Error::other(format!("{error:#}")))
}

impl Front {
    fn vring(&mut self, index: impl TryInto<usize>) -> Result<&mut Vring> {
        let index = index.try_into().map_err(|_| Error::InvalidParam)?;
        self.vrings.get_mut(index).ok_or(Error::InvalidParam)
    }

    /// Where the front-end's own address is in the guest.
    fn guest_address(&self, user: u64) -> Result<u64> {
        self.regions
            .iter()
            .find(|region| user.wrapping_sub(region.user) < region.len)
            .map(|region| user - region.user + region.address)
            .ok_or(Error::InvalidParam)
    }

    fn set_regions(&mut self, regions: Vec<Region>) -> Result<()> {
        let table = Table::new(regions).map_err(|error| failed(&error))?;
        self.regions = table.regions().to_vec();
        self.loop_end.ask(|done| Message::Memory(table, done))
    }

    fn has(&self, feature: u32) -> bool {
        self.features & (1 << feature) != 0
    }
}

fn region(region: &VhostUserMemoryRegion, file: File) -> Result<Region> {
    let (address, len) = (region.guest_phys_addr, region.memory_size);
    Region::new(address, len, region.user_addr, region.mmap_offset, file)
        .map_err(|error| failed(&error))
}

impl VhostUserBackendReqHandlerMut for Front {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        self.features = 0;
        for vring in &mut self.vrings {
            *vring = Vring::default();
        }
        self.loop_end.ask(Message::Reset)
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok((1 << VIRTIO_F_VERSION_1)
            | (1 << VIRTIO_RING_F_INDIRECT_DESC)
            | (1 << VIRTIO_RING_F_EVENT_IDX)
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !self.get_features()? != 0 {
            return Err(Error::InvalidParam);
        }
        self.features = features;
        if features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
            for index in 0..QUEUES {
                self.vring(index)?.enabled = true;
                self.loop_end.tell(Message::Enable(index, true))?;
            }
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        let all: Result<_> = regions
            .iter()
            .zip(files)
            .map(|(r, f)| region(r, f))
            .collect();
        self.set_regions(all?)?;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let size = u16::try_from(num).map_err(|_| Error::InvalidParam)?;
        if size == 0 || size > QUEUE_SIZE || !size.is_power_of_two() {
            tracing::error!(
                "a queue cannot have {num} entries, but a power of two up to {QUEUE_SIZE}"
            );
            return Err(Error::InvalidParam);
        }
        self.vring(index)?.size = size;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let descriptors = self.guest_address(descriptor)?;
        let (used, available) = (self.guest_address(used)?, self.guest_address(available)?);
        let vring = self.vring(index)?;
        (vring.descriptors, vring.used, vring.available) = (descriptors, used, available);
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.vring(index)?.base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let at = index as usize;
        if self.vring(at)?.running {
            let base = self.loop_end.ask(|answer| Message::Stop(at, answer))?;
            let vring = self.vring(at)?;
            (vring.base, vring.running, vring.call) = (base, false, None);
        }
        let base = self.vring(at)?.base;
        Ok(VhostUserVringState::new(index, u32::from(base)))
    }

    fn set_vring_kick(&mut self, index: u8, kick: Option<File>) -> Result<()> {
        let Some(kick) = kick else {
            return unsupported("queues that are polled");
        };
        let event_idx = self.has(VIRTIO_RING_F_EVENT_IDX);
        let vring = self.vring(index)?;
        if vring.running {
            return unsupported("another kick for a queue that runs");
        }
        vring.running = true;
        let place = Place {
            size: vring.size,
            descriptors: vring.descriptors,
            available: vring.available,
            used: vring.used,
            base: vring.base,
            event_idx,
        };
        let (call, enabled) = (vring.call.take(), vring.enabled);
        self.loop_end.tell(Message::Start {
            index: usize::from(index),
            place,
            kick,
            call,
            enabled,
        })
    }

    fn set_vring_call(&mut self, index: u8, call: Option<File>) -> Result<()> {
        let vring = self.vring(index)?;
        if vring.running {
            return self.loop_end.tell(Message::Call(usize::from(index), call));
        }
        vring.call = call;
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, _err: Option<File>) -> Result<()> {
        self.vring(index).map(drop)
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS)
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(QUEUES as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.vring(index)?.enabled = enable;
        self.loop_end.tell(Message::Enable(index as usize, enable))
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        // What lies behind the configuration reads as zero.
        let bytes = self.config.iter().copied().chain(std::iter::repeat(0));
        Ok(bytes.skip(offset as usize).take(size as usize).collect())
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        unsupported("writing the configuration")
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        unsupported("a display")
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        unsupported("shared objects")
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        unsupported("requests that outlive a daemon")
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        unsupported("requests that outlive a daemon")
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MAX_REGIONS as u64)
    }

    fn add_mem_region(
        &mut self,
        added: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<u64>> {
        if self.regions.len() >= MAX_REGIONS {
            return Err(Error::InvalidParam);
        }
        let mut regions = self.regions.clone();
        regions.push(region(added, file)?);
        self.set_regions(regions)?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, gone: &VhostUserSingleMemoryRegion) -> Result<()> {
        let mut regions = self.regions.clone();
        regions.retain(|region| {
            (region.address, region.len, region.user)
                != (gone.guest_phys_addr, gone.memory_size, gone.user_addr)
        });
        if regions.len() == self.regions.len() {
            return Err(Error::InvalidParam);
        }
        self.set_regions(regions)
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        unsupported("migration")
    }

    fn check_device_state(&mut self) -> Result<()> {
        unsupported("migration")
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        unsupported("shared memory of the device")
    }

    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Result<()> {
        unsupported("migration")
    }
}
