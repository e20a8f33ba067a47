//! `vgpu install`, `vgpu uninstall` and `vgpu cdi`: the shims where the loader finds them for every program, services and
//! file-capability binaries included, and everything back as it was.
//!
//! | module | what lives there |
//! |---|---|
//! | [`options`] | the command lines |
//! | [`tree`] | paths inside the system that is changed, which `--root` may set apart from this one |
//! | [`system`] | what that system is: C library, NVIDIA's driver |
//! | [`shim`] | reading shared libraries: whose is this `libcuda.so.1`? |
//! | [`plan`] | what is to be there |
//! | [`manifest`] | what was made, written before it is made |
//! | [`change`] | making and undoing one thing |
//! | [`loader`] | `ldconfig` |
//! | [`service`] | the units, and the running service manager |
//! | [`mod@cdi`] | the specification for container engines |
//!
//! # How it stays undoable
//!
//! The manifest is written before the first change and names all of them; each file appears by a rename. So whatever
//! interrupts an installation, `vgpu uninstall` knows all that can be there. It removes only what is still as it was
//! made: a file that somebody else put in its place stays, and is named.

#![deny(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod cdi;
pub mod change;
pub mod loader;
pub mod manifest;
pub mod options;
pub mod plan;
pub mod service;
pub mod shim;
pub mod system;
pub mod tree;

mod run;

pub use options::{CdiOptions, Options, UninstallOptions};
pub use run::{cdi, install, uninstall};

use std::path::PathBuf;

/// What is installed: finished binaries of one release.
#[derive(Clone, Debug)]
pub struct Source {
    /// The `vgpu` command.
    pub command: PathBuf,
    /// The folder with the shims, named as the loader names them (`libcuda.so.1`).
    pub libraries: PathBuf,
    /// The daemon `vhost-user-vgpu`, which need not be there.
    pub daemon: PathBuf,
    /// Whether this machine has a vgpu device, and so needs the agent.
    pub device: bool,
}
