//! Which device to serve. NVIDIA's driver is only ever loaded in another process: a probe that lives
//! for a moment, and workers.

use crate::options::Device;
use crate::process;
use anyhow::{Context, Result, bail};
use std::io::Read;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};
use vgpu_worker::setup::{DEVICE_CUDA, DEVICE_SOFTWARE};

/// How long a probe may take: a driver that was not loaded since boot needs seconds.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The probe process: says on standard output how many devices there are, or why none can be used.
pub fn run() -> ExitCode {
    let devices = vgpu_worker::device::load_cuda()
        .and_then(|driver| vgpu_worker::device::initialise(&driver));
    match devices {
        Ok(devices) => {
            println!("{devices}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Decides on the device, as workers are told it; the log says which and why.
///
/// # Errors
/// When NVIDIA's driver was asked for and does not work.
pub fn choose(device: Device) -> Result<u32> {
    if device == Device::Software {
        tracing::info!("serving the software device");
        return Ok(DEVICE_SOFTWARE);
    }
    match probe() {
        Ok(devices) => {
            tracing::info!("serving {devices} device(s) of NVIDIA's driver");
            Ok(DEVICE_CUDA)
        }
        Err(error) if device == Device::Auto => {
            tracing::info!("serving the software device, because {error:#}");
            Ok(DEVICE_SOFTWARE)
        }
        Err(error) => Err(error.context("NVIDIA's driver cannot be used")),
    }
}

fn probe() -> Result<u32> {
    let mut child = process::own_command()
        .arg("probe")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("the driver could not be probed")?;
    let deadline = Instant::now() + TIMEOUT;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            // Its result is of no use any more, whether or not it can be ended.
            let _ = child.kill();
            bail!("the driver did not initialise within {TIMEOUT:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut text = String::new();
    if let Some(output) = child.stdout.take() {
        output.take(4096).read_to_string(&mut text)?;
    }
    let text = text.trim();
    if !status.success() {
        bail!(
            "{}",
            if text.is_empty() {
                "its probe died"
            } else {
                text
            }
        );
    }
    text.parse()
        .context("the probe's answer cannot be understood")
}
