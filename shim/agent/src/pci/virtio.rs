//! The transport of a modern virtio device on PCI (virtio 1.2, 4.1): features, queues, status.

use super::capabilities::{Capabilities, Place};
use super::mmio::Registers;
use crate::device::{Device, DeviceError, Health, Interrupts};
use crate::queue::Addresses;
use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};
use vgpu_channel::link::virtio::{DeviceConfig, QUEUES};
use zerocopy::FromBytes;

/// How long a reset may take: the host ends every worker first.
const RESET: Duration = Duration::from_secs(15);
/// How often a configuration that keeps changing is read again.
const READS: usize = 100;

// Offsets in the common configuration.
const FEATURE_SELECT: usize = 0;
const FEATURE: usize = 4;
const DRIVER_FEATURE_SELECT: usize = 8;
const DRIVER_FEATURE: usize = 12;
const CONFIG_VECTOR: usize = 16;
const NUM_QUEUES: usize = 18;
const STATUS: usize = 20;
const GENERATION: usize = 21;
const QUEUE_SELECT: usize = 22;
const QUEUE_SIZE: usize = 24;
const QUEUE_VECTOR: usize = 26;
const QUEUE_ENABLE: usize = 28;
const QUEUE_NOTIFY: usize = 30;
const QUEUE_DESCRIPTORS: usize = 32;
const QUEUE_AVAILABLE: usize = 40;
const QUEUE_USED: usize = 48;

// Bits of the status.
const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 64;
const FAILED: u8 = 128;

/// `VIRTIO_F_VERSION_1` is bit 32: bit 0 of the second word.
const VERSION_1: u32 = 1;
/// No interrupt.
const NO_VECTOR: u16 = 0xffff;

/// Vectors of the two sources of interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vectors {
    /// Changes of the configuration.
    pub config: u16,
    /// Both queues.
    pub queues: u16,
}

/// What is opened along with the registers, and must stay open.
pub trait Keep: Any + Send {}
impl<T: Any + Send> Keep for T {}

/// The device.
pub struct VirtioPci {
    common: Registers,
    notify: Registers,
    multiplier: usize,
    config: Registers,
    doorbells: [usize; QUEUES],
    started: bool,
    interrupts: Option<(Interrupts, Vectors)>,
    _keep: Box<dyn Keep>,
}

impl fmt::Debug for VirtioPci {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioPci")
            .field("common", &self.common)
            .field("interrupts", &self.interrupts)
            .finish_non_exhaustive()
    }
}

impl VirtioPci {
    /// A device whose BARs are mapped, all that the capabilities name.
    pub(super) fn new(
        capabilities: &Capabilities,
        bars: &BTreeMap<u8, Registers>,
        interrupts: Option<(Interrupts, Vectors)>,
        keep: Box<dyn Keep>,
    ) -> Option<VirtioPci> {
        let part = |place: Place| {
            let bar = bars.get(&place.bar)?;
            Some(bar.part(place.offset as usize, place.len as usize))
        };
        let common = part(capabilities.common)?;
        let notify = part(capabilities.notify)?;
        let config = part(capabilities.device)?;
        Some(VirtioPci {
            common,
            notify,
            multiplier: capabilities.notify_multiplier as usize,
            config,
            doorbells: [0; QUEUES],
            started: false,
            interrupts,
            _keep: keep,
        })
    }

    fn status(&self) -> u8 {
        self.common.read8(STATUS)
    }

    fn add_status(&self, bit: u8) {
        self.common.write8(STATUS, self.status() | bit);
    }

    fn fail<T>(&self, error: DeviceError) -> Result<T, DeviceError> {
        self.add_status(FAILED);
        Err(error)
    }
}

impl Device for VirtioPci {
    fn config(&self) -> Result<DeviceConfig, DeviceError> {
        for _ in 0..READS {
            let before = self.common.read8(GENERATION);
            let mut bytes = [0; size_of::<DeviceConfig>()];
            for (index, word) in bytes.chunks_exact_mut(4).enumerate() {
                word.copy_from_slice(&self.config.read32(4 * index).to_le_bytes());
            }
            if self.common.read8(GENERATION) == before {
                return DeviceConfig::read_from_bytes(&bytes).map_err(|_| DeviceError::Gone);
            }
        }
        Err(DeviceError::System(std::io::Error::other(
            "its configuration does not come to rest",
        )))
    }

    fn reset(&mut self) -> Result<(), DeviceError> {
        if self.health() == Health::Gone {
            return Err(DeviceError::Gone);
        }
        self.started = false;
        self.common.write8(STATUS, 0);
        let deadline = Instant::now() + RESET;
        let mut pause = Duration::from_micros(10);
        loop {
            match self.status() {
                0 => return Ok(()),
                u8::MAX => return Err(DeviceError::Gone),
                _ if Instant::now() > deadline => return Err(DeviceError::Reset(RESET)),
                _ => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    fn negotiate(&mut self) -> Result<[u16; QUEUES], DeviceError> {
        self.add_status(ACKNOWLEDGE);
        self.add_status(DRIVER);
        self.common.write32(FEATURE_SELECT, 1);
        if self.common.read32(FEATURE) & VERSION_1 == 0 {
            return self.fail(DeviceError::NotModern);
        }
        for (word, features) in [(0, 0), (1, VERSION_1)] {
            self.common.write32(DRIVER_FEATURE_SELECT, word);
            self.common.write32(DRIVER_FEATURE, features);
        }
        self.add_status(FEATURES_OK);
        if self.status() & FEATURES_OK == 0 {
            return self.fail(DeviceError::Features);
        }
        let mut most = [0; QUEUES];
        let count = usize::from(self.common.read16(NUM_QUEUES));
        for (queue, most) in most.iter_mut().enumerate() {
            if queue < count {
                self.common.write16(QUEUE_SELECT, queue as u16);
                *most = self.common.read16(QUEUE_SIZE);
            }
            if *most == 0 {
                return self.fail(DeviceError::Queue(queue));
            }
        }
        Ok(most)
    }

    fn start(&mut self, queues: &[Addresses; QUEUES]) -> Result<(), DeviceError> {
        let vectors = self.interrupts.as_ref().map(|(_, vectors)| *vectors);
        let config_vector = vectors.map_or(NO_VECTOR, |vectors| vectors.config);
        let queue_vector = vectors.map_or(NO_VECTOR, |vectors| vectors.queues);
        self.common.write16(CONFIG_VECTOR, config_vector);
        for (queue, addresses) in queues.iter().enumerate() {
            self.common.write16(QUEUE_SELECT, queue as u16);
            self.common.write16(QUEUE_SIZE, addresses.size);
            self.common.write16(QUEUE_VECTOR, queue_vector);
            if self.common.read16(QUEUE_VECTOR) != queue_vector {
                return self.fail(DeviceError::Queue(queue));
            }
            self.common
                .write64(QUEUE_DESCRIPTORS, addresses.descriptors);
            self.common.write64(QUEUE_AVAILABLE, addresses.available);
            self.common.write64(QUEUE_USED, addresses.used);
            let doorbell = usize::from(self.common.read16(QUEUE_NOTIFY)) * self.multiplier;
            if doorbell + 2 > self.notify.len() {
                return self.fail(DeviceError::Queue(queue));
            }
            if let Some(place) = self.doorbells.get_mut(queue) {
                *place = doorbell;
            }
            self.common.write16(QUEUE_ENABLE, 1);
        }
        self.add_status(DRIVER_OK);
        self.started = true;
        Ok(())
    }

    fn health(&self) -> Health {
        match self.status() {
            u8::MAX => Health::Gone,
            status if status & NEEDS_RESET != 0 => Health::NeedsReset,
            // Somebody else reset it: the machine was suspended, say.
            status if self.started && status & DRIVER_OK == 0 => Health::NeedsReset,
            _ => Health::Working,
        }
    }

    fn notify(&self, queue: usize) {
        if let Some(&doorbell) = self.doorbells.get(queue) {
            self.notify.write16(doorbell, queue as u16);
        }
    }

    fn interrupts(&self) -> Option<&Interrupts> {
        self.interrupts.as_ref().map(|(interrupts, _)| interrupts)
    }
}
