//! `vgpu agent`: the driver of the vgpu device in user space of a guest. It hands channels to the guest's programs over a
//! unix socket, by the very protocol that the host's daemon serves containers with, and gets out of their way.
//!
//! Three processes, so that a program's bytes and the device's registers are never in the same one:
//!
//! | process | module | has |
//! |---|---|---|
//! | keeper | [`keeper`] | every memory file and a pin on its pages; starts the others |
//! | mapper | [`mapper`] | the device ([`pci`]), its queues ([`queue`]), pages ([`pages`]) |
//! | parser | [`parser`] | the programs' connections, and no privilege |
//!
//! What they tell each other is in [`messages`]; what travels to the host in [`vgpu_channel::link::virtio`].
//!
//! # Unsafe code
//!
//! It is in [`pin`] (io_uring), [`signal`] (asynchronous I/O), [`pci::mmio`] (registers), [`pci::vfio`] (ioctls) and
//! [`store`] (descriptors handed over by the service manager), each with its reasons. The queues
//! are safe code over [`vgpu_channel::shm::View`].

#![deny(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod device;
pub mod keeper;
pub mod mapper;
pub mod messages;
pub mod options;
pub mod pages;
pub mod parser;
pub mod pci;
#[allow(unsafe_code)]
pub mod pin;
pub mod privilege;
pub mod process;
pub mod queue;
pub mod serve;
#[allow(unsafe_code)]
pub mod signal;
#[allow(unsafe_code)]
pub mod store;

pub use options::{MapperOptions, Options, ParserOptions};

/// Name of the hidden subcommand that the mapper is started by.
pub const MAPPER_COMMAND: &str = "agent-mapper";
/// Name of the hidden subcommand that the parser is started by.
pub const PARSER_COMMAND: &str = "agent-parser";
