//! What the mapper needs of a device: implemented by [`crate::pci`] for the real one, by a host in memory in tests.

use crate::queue::Addresses;
use std::io;
use vgpu_channel::link::Event;
use vgpu_channel::link::virtio::{DeviceConfig, QUEUES};

/// What a device can fail with.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// It does not speak virtio 1.
    #[error(
        "The device offers no VIRTIO_F_VERSION_1: start QEMU with `-device vhost-user-vgpu-pci,disable-legacy=on,disable-modern=off`"
    )]
    NotModern,
    /// It refused the features chosen.
    #[error(
        "The device refuses the agent's choice of features: use vhost-user-vgpu and vgpu of the same release"
    )]
    Features,
    /// It has too few queues or too small ones.
    #[error(
        "The device has no usable queue {0}: use vhost-user-vgpu-pci and vgpu of the same release"
    )]
    Queue(usize),
    /// It did not become idle.
    #[error(
        "The device did not finish its reset within {0:?}; see the log of vhost-user-vgpu on the host"
    )]
    Reset(std::time::Duration),
    /// It is not there any more.
    #[error("The device is gone from the bus")]
    Gone,
    /// The system refused.
    #[error("The device cannot be used")]
    System(#[from] io::Error),
}

/// How a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Working.
    Working,
    /// It asks for a reset: its backend is gone.
    NeedsReset,
    /// It does not answer any more.
    Gone,
}

/// Events that the device's interrupts signal.
#[derive(Debug)]
pub struct Interrupts {
    /// A queue has something.
    pub queues: Event,
    /// The configuration or the device's health changed.
    pub config: Event,
    /// The device has but one vector: the first event stands for both.
    pub shared: bool,
}

/// A virtio device with the two queues of [`vgpu_channel::link::virtio`].
pub trait Device {
    /// The configuration space.
    ///
    /// # Errors
    ///
    /// [`DeviceError`].
    fn config(&self) -> Result<DeviceConfig, DeviceError>;

    /// Resets it, and waits until it says that it is. It touches no memory of its queues after that.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Reset`], [`DeviceError::Gone`].
    fn reset(&mut self) -> Result<(), DeviceError>;

    /// After a reset: agrees on features; returns the most entries of each queue.
    ///
    /// # Errors
    ///
    /// [`DeviceError::NotModern`], [`DeviceError::Features`], [`DeviceError::Queue`].
    fn negotiate(&mut self) -> Result<[u16; QUEUES], DeviceError>;

    /// After [`Device::negotiate`]: gives it its queues and starts it.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Queue`].
    fn start(&mut self, queues: &[Addresses; QUEUES]) -> Result<(), DeviceError>;

    /// How it is.
    fn health(&self) -> Health;

    /// Tells it that a queue has something new.
    fn notify(&self, queue: usize);

    /// Its interrupts, if it has any; else the queues must be looked at.
    fn interrupts(&self) -> Option<&Interrupts>;
}
