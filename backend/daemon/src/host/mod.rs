//! The host's own management library. It is loaded only by processes that live for a moment and serve nobody: the
//! [probe](crate::probe), one that looks at free memory, and one that looks at [`figures`]. Read-only.
//!
//! Of what it knows, only what is the same for every device of a kind is told to clients, and how much memory is free, which
//! they see through `libcuda` as well; nothing about what others do with the device, unless the operator says
//! `--nvml=host` (`isolation.md` 17).

pub mod figures;

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use std::path::Path;
use std::process::ExitCode;
use vgpu_protocol::facts::{DeviceFacts, SystemFacts, UNKNOWN, put_text, text};

/// Where distributions and containers put the library. The loader's own search comes first.
const PLACES: &[&str] = &[
    "libnvidia-ml.so.1",
    "/usr/local/nvidia/lib64/libnvidia-ml.so.1",
    "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
    "/usr/lib64/libnvidia-ml.so.1",
    "/usr/lib/wsl/lib/libnvidia-ml.so.1",
    "/run/opengl-driver/lib/libnvidia-ml.so.1",
];

/// Where the kernel module says its version.
const MODULE_VERSION: &str = "/sys/module/nvidia/version";

/// NVIDIA's library, never ours: that one would ask this very daemon. With a `library` given, that one or none.
fn load(library: Option<&Path>) -> Option<Nvml> {
    let places = match library {
        Some(library) => vec![library],
        None => PLACES.iter().map(Path::new).collect(),
    };
    places
        .into_iter()
        .filter(|place| !vgpu_driver::is_own_library(place))
        .find_map(|place| Nvml::builder().lib_path(place.as_os_str()).init().ok())
}

/// A UUID as NVML writes it.
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!(
        "GPU-{}-{}-{}-{}-{}",
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32)
    )
}

/// Adds what the driver does not say about itself.
pub fn complete(system: &mut SystemFacts, devices: &mut [DeviceFacts], library: Option<&Path>) {
    let Some(nvml) = load(library) else {
        if let Ok(version) = std::fs::read_to_string(MODULE_VERSION) {
            put_text(&mut system.driver_version, version.trim().as_bytes());
        }
        return;
    };
    for (field, version) in [
        (&mut system.driver_version, nvml.sys_driver_version()),
        (&mut system.nvml_version, nvml.sys_nvml_version()),
    ] {
        put_text(field, version.unwrap_or_default().as_bytes());
    }
    for facts in devices {
        if let Ok(device) = nvml.device_by_uuid(uuid_text(&facts.uuid)) {
            complete_device(&device, facts);
        }
    }
}

fn complete_device(device: &Device<'_>, facts: &mut DeviceFacts) {
    fn known<T>(value: Result<T, NvmlError>, number: impl FnOnce(T) -> u32) -> u32 {
        value.map_or(UNKNOWN, number)
    }
    if let Ok(memory) = device.memory_info() {
        facts.memory_total = memory.total;
        facts.memory_reserved = memory.reserved;
    }
    if let Ok(pci) = device.pci_info() {
        facts.pci_id = pci.pci_device_id;
        facts.pci_subsystem = pci.pci_sub_system_id.unwrap_or(UNKNOWN);
    }
    put_text(
        &mut facts.board_part,
        device.board_part_number().unwrap_or_default().as_bytes(),
    );
    put_text(
        &mut facts.vbios,
        device.vbios_version().unwrap_or_default().as_bytes(),
    );
    facts.cores = known(device.num_cores(), |cores| cores);
    facts.brand = known(device.brand(), |brand| brand.as_c());
    facts.architecture = known(device.architecture(), |architecture| architecture.as_c());
    facts.bus_width = known(device.memory_bus_width(), |bits| bits);
    facts.max_link_generation = known(device.max_pcie_link_gen(), |generation| generation);
    facts.max_link_width = known(device.max_pcie_link_width(), |lanes| lanes);
    facts.minor = known(device.minor_number(), |minor| minor);
}

/// Whether the host's library was there when `system` was filled in.
pub fn was_there(system: &SystemFacts) -> bool {
    !text(&system.nvml_version).is_empty()
}

/// The process that looks at memory: prints for each UUID how many bytes are free, one number a line.
pub fn memory(uuids: &[String], library: Option<&Path>) -> ExitCode {
    let Some(nvml) = load(library) else {
        return ExitCode::FAILURE;
    };
    for uuid in uuids {
        match nvml
            .device_by_uuid(uuid.as_str())
            .and_then(|d| d.memory_info())
        {
            Ok(memory) => println!("{}", memory.free),
            Err(_) => return ExitCode::FAILURE,
        }
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_written_as_nvml_writes_it() {
        let uuid = std::array::from_fn(|at| at as u8 * 17);
        assert_eq!(uuid_text(&uuid), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    }
}
