//! One module for each layer; each looks, and adds what it found to the report.

pub mod compute;
pub mod context;
pub mod driver;
pub mod environment;
pub mod exports;
pub mod llama;
pub mod loading;
pub mod nvml;
pub mod ollama;
pub mod refusal;
pub mod sandbox;
pub mod shim_file;
pub mod torch;
pub mod transport;

use crate::child::Setting;
use crate::discovery::ollama::Installation;
use crate::report::Report;
use crate::target::Target;
use std::path::PathBuf;

/// Where the backend listens unless `VGPU_SOCKET` says otherwise.
const DEFAULT_SOCKET: &str = "/run/vgpu/vgpu.sock";

/// What the layers share.
#[derive(Debug)]
pub struct Case {
    /// Whom it is about.
    pub target: Target,
    /// As whom and in which environment probes run.
    pub setting: Setting,
    /// The socket that the shim would connect to.
    pub socket: PathBuf,
    /// The file that `libcuda.so.1` leads to in the target's environment, once known.
    pub winner: Option<PathBuf>,
    /// Ollama, if the target is it, or it is installed.
    pub ollama: Option<Installation>,
    /// A ggml backend library beside a llama.cpp program.
    pub llama: Option<PathBuf>,
}

impl Case {
    /// Gathers what all layers need.
    #[must_use]
    pub fn new(target: Target, setting: Setting) -> Self {
        let socket = setting
            .variable("VGPU_SOCKET")
            .map_or_else(|| PathBuf::from(DEFAULT_SOCKET), PathBuf::from);
        let ollama = Installation::find(&target, &setting);
        let llama = llama::backend_of(&target, ollama.as_ref());
        Self {
            socket,
            ollama,
            llama,
            target,
            setting,
            winner: None,
        }
    }
}

/// A layer's check.
pub type Check = fn(&mut Case, &mut Report);

/// In the order in which they are made.
pub const CHECKS: [Check; 12] = [
    context::check,
    transport::check,
    shim_file::check,
    loading::check,
    exports::check,
    driver::check,
    nvml::check,
    environment::check,
    ollama::check,
    llama::check,
    torch::check,
    compute::check,
];
