//! What `ollama gpu-discover` asks the driver and NVML from 0.30 on.

use super::driver;
use super::nvml;
use serde::{Deserialize, Serialize};

/// Its answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// `libcuda.so.1`, else `libcuda.so`.
    pub driver: driver::Answer,
    /// NVML's driver version, empty without NVML.
    pub nvml_version: String,
}

/// Asks.
pub fn ask() -> Answer {
    let mut found = driver::ask("libcuda.so.1");
    if found.load_error.is_some() {
        let other = driver::ask("libcuda.so");
        if other.load_error.is_none() {
            found = other;
        }
    }
    let nvml = nvml::ask("libnvidia-ml.so.1", None);
    Answer {
        driver: found,
        nvml_version: nvml.driver_version,
    }
}
