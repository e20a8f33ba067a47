//! What the device does for everybody: utilisation, clocks, temperature, power, fans, PCI Express, ECC errors. The backend
//! tells it only with `--nvml=host`; else all of it is [`Error::NOT_SUPPORTED`], and nobody is asked.

use crate::ask::{self, NoAnswer};
use crate::device::{Device, struct_version};
use crate::error::{Error, Outcome};
use crate::give;
use core::ffi::{c_int, c_uint, c_ulonglong};
use nvml_wrapper_sys::bindings::{self as nvml, nvmlDevice_t};
use vgpu_protocol::facts::{HostFigures, QUERY_FIGURES};

/// `nvmlClockId_t` of the clock as it is.
const CLOCK_NOW: c_uint = 0;
/// `nvmlTemperatureSensors_t` of the only sensor there is.
const SENSOR_GPU: c_uint = 0;

/// The figures of a device now.
///
/// # Errors
/// [`Error::NOT_SUPPORTED`] where they are not told; [`Error::GPU_IS_LOST`] when the backend does not answer.
pub fn now(device: nvmlDevice_t) -> Result<HostFigures, Error> {
    let device = Device::of(device)?;
    if !device.tells_figures() {
        return Err(Error::NOT_SUPPORTED);
    }
    ask::facts(QUERY_FIGURES, device.index as u32, 0).map_err(|NoAnswer| Error::GPU_IS_LOST)
}

/// Stores the figure that `of` picks.
fn one(device: nvmlDevice_t, to: *mut c_uint, of: impl FnOnce(&HostFigures) -> u32) -> Outcome {
    give::known(to, of(&now(device)?))
}

/// Stores the one of several figures that the program named by its number.
fn chosen(
    device: nvmlDevice_t,
    to: *mut c_uint,
    number: c_uint,
    of: impl FnOnce(&HostFigures) -> &[u32],
) -> Outcome {
    let figures = now(device)?;
    let figure = of(&figures).get(number as usize);
    give::known(to, *figure.ok_or(Error::INVALID_ARGUMENT)?)
}

/// Stores a pair of figures, both or none.
fn pair(to: [*mut c_uint; 2], figures: [u32; 2]) -> Outcome {
    if to.iter().any(|to| to.is_null()) {
        return Err(Error::INVALID_ARGUMENT);
    }
    for (to, figure) in to.into_iter().zip(figures) {
        give::known(to, figure)?;
    }
    Ok(())
}

/// Stores a figure of 64 bits.
fn long(to: *mut c_ulonglong, figure: u64) -> Outcome {
    if to.is_null() {
        return Err(Error::INVALID_ARGUMENT);
    }
    match figure {
        u64::MAX => Err(Error::NOT_SUPPORTED),
        figure => give::value(to, figure),
    }
}

/// `nvmlDeviceGetUtilizationRates`.
pub fn utilization(device: nvmlDevice_t, rates: *mut nvml::nvmlUtilization_t) -> Outcome {
    let figures = now(device)?;
    let (mut gpu, mut memory) = (0, 0);
    give::known(&raw mut gpu, figures.utilization)?;
    give::known(&raw mut memory, figures.memory_utilization)?;
    give::value(rates, nvml::nvmlUtilization_t { gpu, memory })
}

/// `nvmlDeviceGetEncoderUtilization`.
pub fn encoder(device: nvmlDevice_t, percent: *mut c_uint, period: *mut c_uint) -> Outcome {
    pair([percent, period], now(device)?.encoder)
}

/// `nvmlDeviceGetDecoderUtilization`.
pub fn decoder(device: nvmlDevice_t, percent: *mut c_uint, period: *mut c_uint) -> Outcome {
    pair([percent, period], now(device)?.decoder)
}

/// `nvmlDeviceGetClockInfo`.
pub fn clock(device: nvmlDevice_t, which: nvml::nvmlClockType_t, mhz: *mut c_uint) -> Outcome {
    chosen(device, mhz, which, |figures| &figures.clocks)
}

/// `nvmlDeviceGetMaxClockInfo`.
pub fn max_clock(device: nvmlDevice_t, which: nvml::nvmlClockType_t, mhz: *mut c_uint) -> Outcome {
    chosen(device, mhz, which, |figures| &figures.max_clocks)
}

/// `nvmlDeviceGetClock`: only what it is now.
pub fn clock_by_id(
    device: nvmlDevice_t,
    which: nvml::nvmlClockType_t,
    id: nvml::nvmlClockId_t,
    mhz: *mut c_uint,
) -> Outcome {
    let figures = now(device)?;
    if id != CLOCK_NOW {
        return Err(Error::NOT_SUPPORTED);
    }
    let figure = figures.clocks.get(which as usize);
    give::known(mhz, *figure.ok_or(Error::INVALID_ARGUMENT)?)
}

/// `nvmlDeviceGetCurrentClocksEventReasons`, `…ThrottleReasons`.
pub fn clocks_reasons(device: nvmlDevice_t, reasons: *mut c_ulonglong) -> Outcome {
    long(reasons, now(device)?.clocks_reasons)
}

/// `nvmlDeviceGetSupportedClocksEventReasons`, `…ThrottleReasons`.
pub fn supported_clocks_reasons(device: nvmlDevice_t, reasons: *mut c_ulonglong) -> Outcome {
    long(reasons, now(device)?.supported_clocks_reasons)
}

/// `nvmlDeviceGetTemperature`.
pub fn temperature(
    device: nvmlDevice_t,
    sensor: nvml::nvmlTemperatureSensors_t,
    degrees: *mut c_uint,
) -> Outcome {
    let figures = now(device)?;
    if sensor != SENSOR_GPU {
        return Err(Error::INVALID_ARGUMENT);
    }
    give::known(degrees, figures.temperature)
}

/// `nvmlDeviceGetTemperatureV`.
pub fn temperature_struct(device: nvmlDevice_t, to: *mut nvml::nvmlTemperature_t) -> Outcome {
    let figures = now(device)?;
    if give::read(to.cast::<c_uint>())? != struct_version::<nvml::nvmlTemperature_t>(1) {
        return Err(Error::VERSION_MISMATCH);
    }
    let mut filled = give::read(to)?;
    if filled.sensorType != SENSOR_GPU {
        return Err(Error::INVALID_ARGUMENT);
    }
    let mut degrees = 0;
    give::known(&raw mut degrees, figures.temperature)?;
    filled.temperature = c_int::try_from(degrees).map_err(|_| Error::UNKNOWN)?;
    give::value(to, filled)
}

/// `nvmlDeviceGetTemperatureThreshold`: those of a device that computes; acoustic ones are not told.
pub fn temperature_threshold(
    device: nvmlDevice_t,
    which: nvml::nvmlTemperatureThresholds_t,
    degrees: *mut c_uint,
) -> Outcome {
    let figures = now(device)?;
    let figure = figures.temperature_thresholds.get(which as usize);
    give::known(degrees, *figure.ok_or(Error::NOT_SUPPORTED)?)
}

/// `nvmlDeviceGetPowerUsage`.
pub fn power(device: nvmlDevice_t, milliwatts: *mut c_uint) -> Outcome {
    one(device, milliwatts, |figures| figures.power)
}

/// `nvmlDeviceGetEnforcedPowerLimit`.
pub fn power_enforced(device: nvmlDevice_t, milliwatts: *mut c_uint) -> Outcome {
    one(device, milliwatts, |figures| figures.power_enforced)
}

/// `nvmlDeviceGetPowerManagementLimit`.
pub fn power_limit(device: nvmlDevice_t, milliwatts: *mut c_uint) -> Outcome {
    one(device, milliwatts, |figures| figures.power_limit)
}

/// `nvmlDeviceGetPowerManagementDefaultLimit`.
pub fn power_default(device: nvmlDevice_t, milliwatts: *mut c_uint) -> Outcome {
    one(device, milliwatts, |figures| figures.power_default)
}

/// `nvmlDeviceGetPowerManagementLimitConstraints`.
pub fn power_range(device: nvmlDevice_t, low: *mut c_uint, high: *mut c_uint) -> Outcome {
    pair([low, high], now(device)?.power_range)
}

/// `nvmlDeviceGetTotalEnergyConsumption`.
pub fn energy(device: nvmlDevice_t, millijoules: *mut c_ulonglong) -> Outcome {
    long(millijoules, now(device)?.energy)
}

/// `nvmlDeviceGetPerformanceState`, `nvmlDeviceGetPowerState`.
pub fn performance_state(device: nvmlDevice_t, state: *mut nvml::nvmlPstates_t) -> Outcome {
    give::known(state.cast(), now(device)?.performance_state)
}

/// `nvmlDeviceGetNumFans`.
pub fn fans(device: nvmlDevice_t, count: *mut c_uint) -> Outcome {
    one(device, count, |figures| figures.fans)
}

/// `nvmlDeviceGetFanSpeed`: of the first.
pub fn fan_speed(device: nvmlDevice_t, percent: *mut c_uint) -> Outcome {
    one(device, percent, |figures| figures.fan_speeds[0])
}

/// `nvmlDeviceGetFanSpeed_v2`.
pub fn fan_speed_of(device: nvmlDevice_t, fan: c_uint, percent: *mut c_uint) -> Outcome {
    chosen(device, percent, fan, |figures| &figures.fan_speeds)
}

/// `nvmlDeviceGetCurrPcieLinkGeneration`.
pub fn link_generation(device: nvmlDevice_t, generation: *mut c_uint) -> Outcome {
    one(device, generation, |figures| figures.link_generation)
}

/// `nvmlDeviceGetCurrPcieLinkWidth`.
pub fn link_width(device: nvmlDevice_t, lanes: *mut c_uint) -> Outcome {
    one(device, lanes, |figures| figures.link_width)
}

/// `nvmlDeviceGetPcieThroughput`.
pub fn link_throughput(
    device: nvmlDevice_t,
    direction: nvml::nvmlPcieUtilCounter_t,
    kilobytes: *mut c_uint,
) -> Outcome {
    chosen(device, kilobytes, direction, |figures| {
        &figures.link_throughput
    })
}

/// `nvmlDeviceGetPcieReplayCounter`.
pub fn link_replays(device: nvmlDevice_t, count: *mut c_uint) -> Outcome {
    one(device, count, |figures| figures.link_replays)
}

/// `nvmlDeviceGetEccMode`.
pub fn ecc(
    device: nvmlDevice_t,
    current: *mut nvml::nvmlEnableState_t,
    pending: *mut nvml::nvmlEnableState_t,
) -> Outcome {
    pair([current.cast(), pending.cast()], now(device)?.ecc)
}

/// `nvmlDeviceGetTotalEccErrors`.
pub fn ecc_errors(
    device: nvmlDevice_t,
    kind: nvml::nvmlMemoryErrorType_t,
    counter: nvml::nvmlEccCounterType_t,
    count: *mut c_ulonglong,
) -> Outcome {
    let figures = now(device)?;
    let figure = figures
        .ecc_errors
        .get(kind as usize)
        .and_then(|counters| counters.get(counter as usize));
    long(count, *figure.ok_or(Error::INVALID_ARGUMENT)?)
}

/// `nvmlDeviceGetPersistenceMode`.
pub fn persistence(device: nvmlDevice_t, mode: *mut nvml::nvmlEnableState_t) -> Outcome {
    give::known(mode.cast(), now(device)?.persistence)
}

/// The figure that a field of `nvmlDeviceGetFieldValues` asks for, with its `nvmlValueType_t`; `None` if it is not known or
/// none of these.
pub fn field(figures: &HostFigures, id: c_uint) -> Option<(nvml::nvmlValueType_t, u64)> {
    use nvml::field_id;
    const INT: nvml::nvmlValueType_t = nvml::nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT;
    const LONG: nvml::nvmlValueType_t = nvml::nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
    let [[corrected, corrected_ever], [uncorrected, uncorrected_ever]] = figures.ecc_errors;
    let int = |figure: u32| (figure != u32::MAX).then_some((INT, u64::from(figure)));
    let long = |figure: u64| (figure != u64::MAX).then_some((LONG, figure));
    match id {
        field_id::NVML_FI_DEV_ECC_CURRENT => int(figures.ecc[0]),
        field_id::NVML_FI_DEV_ECC_PENDING => int(figures.ecc[1]),
        field_id::NVML_FI_DEV_ECC_SBE_VOL_TOTAL => long(corrected),
        field_id::NVML_FI_DEV_ECC_DBE_VOL_TOTAL => long(uncorrected),
        field_id::NVML_FI_DEV_ECC_SBE_AGG_TOTAL => long(corrected_ever),
        field_id::NVML_FI_DEV_ECC_DBE_AGG_TOTAL => long(uncorrected_ever),
        field_id::NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION => long(figures.energy),
        field_id::NVML_FI_DEV_POWER_MIN_LIMIT => int(figures.power_range[0]),
        field_id::NVML_FI_DEV_POWER_MAX_LIMIT => int(figures.power_range[1]),
        field_id::NVML_FI_DEV_POWER_DEFAULT_LIMIT => int(figures.power_default),
        field_id::NVML_FI_DEV_POWER_CURRENT_LIMIT => int(figures.power_enforced),
        field_id::NVML_FI_DEV_POWER_REQUESTED_LIMIT => int(figures.power_limit),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_figures_are_not_supported_and_pairs_are_given_whole() {
        let (mut a, mut b) = (7, 8);
        assert_eq!(pair([&raw mut a, &raw mut b], [1, 2]), Ok(()));
        assert_eq!((a, b), (1, 2));
        let half = [&raw mut a, core::ptr::null_mut()];
        assert_eq!(pair(half, [3, 4]), Err(Error::INVALID_ARGUMENT));
        assert_eq!(a, 1);
        let mut figure = 9;
        assert_eq!(long(&raw mut figure, u64::MAX), Err(Error::NOT_SUPPORTED));
        assert_eq!(figure, 9);
        assert_eq!(long(&raw mut figure, 10), Ok(()));
        assert_eq!(figure, 10);
    }

    #[test]
    fn fields_have_their_types_and_unknown_ones_none() {
        let mut figures = HostFigures::unknown();
        figures.ecc_errors[1][0] = 3;
        figures.power_enforced = 700_000;
        assert_eq!(field(&figures, 4), Some((3, 3)));
        assert_eq!(field(&figures, 190), Some((1, 700_000)));
        for id in [1, 3, 83, 82, 186, 9999] {
            assert_eq!(field(&figures, id), None, "{id}");
        }
    }
}
