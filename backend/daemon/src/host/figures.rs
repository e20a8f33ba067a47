//! What the host's management library says of devices at this moment, for `--nvml=host`.

use super::load;
use nvml_wrapper::Device;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, PcieUtilCounter, TemperatureSensor, TemperatureThreshold,
};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::Utilization;
use nvml_wrapper::structs::device::UtilizationInfo;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use vgpu_protocol::facts::{HostFigures, UNKNOWN};
use zerocopy::IntoBytes;

/// In the order of `nvmlClockType_t`.
const CLOCKS: [Clock; 4] = [Clock::Graphics, Clock::SM, Clock::Memory, Clock::Video];
/// In the order of `nvmlTemperatureThresholds_t`.
const THRESHOLDS: [TemperatureThreshold; 4] = [
    TemperatureThreshold::Shutdown,
    TemperatureThreshold::Slowdown,
    TemperatureThreshold::MemoryMax,
    TemperatureThreshold::GpuMax,
];

/// The process that looks: writes [`HostFigures`] for each UUID. A device that the library does not know has unknown ones.
pub fn run(uuids: &[String], library: Option<&Path>) -> ExitCode {
    let Some(nvml) = load(library) else {
        println!("there is no libnvidia-ml.so.1 of NVIDIA's that works");
        return ExitCode::FAILURE;
    };
    let figures: Vec<HostFigures> = uuids
        .iter()
        .map(|uuid| match nvml.device_by_uuid(uuid.as_str()) {
            Ok(device) => of(&device),
            Err(_) => HostFigures::unknown(),
        })
        .collect();
    match std::io::stdout().write_all(figures.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn of(device: &Device<'_>) -> HostFigures {
    let utilization = device.utilization_rates();
    let share = |of: fn(&Utilization) -> u32| utilization.as_ref().map_or(UNKNOWN, of);
    let power_range = device.power_management_limit_constraints();
    let ecc = device.is_ecc_enabled();
    let mut fan_speeds = [UNKNOWN; _];
    let fans = device.num_fans();
    for (fan, speed) in (0..fans.as_ref().copied().unwrap_or(0)).zip(&mut fan_speeds) {
        *speed = known(device.fan_speed(fan));
    }
    HostFigures {
        energy: long(device.total_energy_consumption()),
        clocks_reasons: reasons(device.current_throttle_reasons()),
        supported_clocks_reasons: reasons(device.supported_throttle_reasons()),
        ecc_errors: [MemoryError::Corrected, MemoryError::Uncorrected].map(|kind| {
            [EccCounter::Volatile, EccCounter::Aggregate]
                .map(|counter| long(device.total_ecc_errors(kind, counter)))
        }),
        utilization: share(|rates| rates.gpu),
        memory_utilization: share(|rates| rates.memory),
        encoder: sampled(device.encoder_utilization()),
        decoder: sampled(device.decoder_utilization()),
        clocks: CLOCKS.map(|clock| known(device.clock_info(clock))),
        max_clocks: CLOCKS.map(|clock| known(device.max_clock_info(clock))),
        temperature: known(device.temperature(TemperatureSensor::Gpu)),
        temperature_thresholds: THRESHOLDS.map(|which| known(device.temperature_threshold(which))),
        power: known(device.power_usage()),
        power_enforced: known(device.enforced_power_limit()),
        power_limit: known(device.power_management_limit()),
        power_default: known(device.power_management_limit_default()),
        power_range: power_range.map_or([UNKNOWN; 2], |range| [range.min_limit, range.max_limit]),
        performance_state: known(device.performance_state().map(|state| state.as_c())),
        fans: known(fans),
        fan_speeds,
        link_generation: known(device.current_pcie_link_gen()),
        link_width: known(device.current_pcie_link_width()),
        link_throughput: [PcieUtilCounter::Send, PcieUtilCounter::Receive]
            .map(|direction| known(device.pcie_throughput(direction))),
        link_replays: known(device.pcie_replay_counter()),
        ecc: ecc.map_or([UNKNOWN; 2], |ecc| {
            [ecc.currently_enabled.into(), ecc.pending_enabled.into()]
        }),
        persistence: known(device.is_in_persistent_mode().map(u32::from)),
        reserved: UNKNOWN,
    }
}

fn known(value: Result<u32, NvmlError>) -> u32 {
    value.unwrap_or(UNKNOWN)
}

fn long(value: Result<u64, NvmlError>) -> u64 {
    value.unwrap_or(u64::MAX)
}

fn reasons(value: Result<ThrottleReasons, NvmlError>) -> u64 {
    value.map_or(u64::MAX, |reasons| reasons.bits())
}

fn sampled(value: Result<UtilizationInfo, NvmlError>) -> [u32; 2] {
    value.map_or([UNKNOWN; 2], |info| {
        [info.utilization, info.sampling_period]
    })
}
