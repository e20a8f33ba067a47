//! Which driver a worker uses, and where NVIDIA's is found.

use std::path::Path;
use vgpu_driver::{Driver, LoadError};
use vgpu_protocol::cuda::{CUdevice, CUresult};

/// Where distributions and containers put the driver's library. The loader's own search comes
/// first; the explicit places are for hosts where that finds our client library or nothing.
const PLACES: &[&str] = &[
    "libcuda.so.1",
    "/usr/local/nvidia/lib64/libcuda.so.1",
    "/usr/lib/x86_64-linux-gnu/libcuda.so.1",
    "/usr/lib64/libcuda.so.1",
    "/usr/lib/wsl/lib/libcuda.so.1",
    "/run/opengl-driver/lib/libcuda.so.1",
];

/// Why there is no usable driver.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// No place has a library that can be loaded; the reason of the first.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The driver refuses to work.
    #[error("The driver's cuInit failed: {0}")]
    Init(CUresult),
    /// The driver works but has no device.
    #[error("The driver has no device")]
    NoDevice,
}

/// Loads NVIDIA's driver from the first place that has it.
///
/// # Errors
/// [`DeviceError::Load`].
pub fn load_cuda() -> Result<Driver, DeviceError> {
    let mut first = None;
    for place in PLACES {
        match Driver::load(Path::new(place)) {
            Ok(driver) => return Ok(driver),
            Err(error) => first = first.or(Some(error)),
        }
    }
    match first {
        Some(error) => Err(error.into()),
        None => Err(DeviceError::NoDevice),
    }
}

/// The compute capabilities of a driver's devices, as 90 for 9.0; none where the driver compiles PTX whatever machine code
/// there is, or does not say.
#[must_use]
pub fn archs(driver: &Driver, devices: i32) -> Vec<u32> {
    const MAJOR: i32 = 75;
    const MINOR: i32 = 76;
    if std::env::var("CUDA_FORCE_PTX_JIT").is_ok_and(|value| value != "0") {
        return Vec::new();
    }
    let attribute = |which: i32, device: i32| {
        let mut value = 0;
        // SAFETY: the result has room.
        let result = unsafe {
            vgpu_driver::call!(
                driver,
                cuDeviceGetAttribute(&raw mut value, which, CUdevice(device))
            )
        };
        result.ok().ok().and_then(|()| u32::try_from(value).ok())
    };
    let all: Option<Vec<u32>> = (0..devices)
        .map(|device| Some(attribute(MAJOR, device)? * 10 + attribute(MINOR, device)?))
        .collect();
    all.unwrap_or_default()
}

/// Initialises a driver and gives its number of devices.
///
/// # Errors
/// [`DeviceError::Init`], [`DeviceError::NoDevice`].
pub fn initialise(driver: &Driver) -> Result<i32, DeviceError> {
    // SAFETY: the first call to the driver, with the only flags there are.
    let result = unsafe { vgpu_driver::call!(driver, cuInit(0)) };
    result.ok().map_err(DeviceError::Init)?;
    let mut count = 0;
    // SAFETY: the result has room.
    let result = unsafe { vgpu_driver::call!(driver, cuDeviceGetCount(&raw mut count)) };
    result.ok().map_err(DeviceError::Init)?;
    if count > 0 {
        Ok(count)
    } else {
        Err(DeviceError::NoDevice)
    }
}
