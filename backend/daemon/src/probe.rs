//! Which device to serve. NVIDIA's driver is only ever loaded in another process: a probe that lives
//! for a moment, and workers.

use crate::facts::{Facts, NvmlTerms};
use crate::options::Device;
use crate::{host, process};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use vgpu_worker::setup::{DEVICE_CUDA, DEVICE_SOFTWARE};
use zerocopy::IntoBytes;

/// How long a probe may take: a driver that was not loaded since boot needs seconds.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long the end of a process that was killed may take.
const END: Duration = Duration::from_secs(1);
/// Longest answer that is read: less than a pipe holds, so that nobody waits for it to be read.
const ANSWER_BYTES: u64 = 32 << 10;

/// The probe process: says on standard output, in the bytes of [`Facts::read`], what devices there are, or why none can be
/// used.
pub fn run(software: Option<u32>, library: Option<&Path>) -> ExitCode {
    let driver = match software {
        Some(devices) => {
            vgpu_software::configure(vgpu_software::Options {
                devices: i32::try_from(devices).unwrap_or(1),
                ..vgpu_software::Options::default()
            });
            Ok(vgpu_software::driver())
        }
        None => vgpu_worker::device::load_cuda(),
    };
    let described = driver.and_then(|driver| {
        let devices = vgpu_worker::device::initialise(&driver)?;
        Ok(vgpu_worker::describe::describe(&driver, devices))
    });
    let (mut system, mut devices) = match described {
        Ok(described) => described,
        Err(error) => {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if software.is_none() {
        host::complete(&mut system, &mut devices, library);
    }
    let mut bytes = system.as_bytes().to_vec();
    bytes.extend_from_slice(devices.as_bytes());
    match std::io::stdout().write_all(&bytes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Decides on the device, as workers are told it, and what is known of it; the log says which and why. `devices` is how many
/// the software device shows.
///
/// # Errors
/// When no device works, or not the one that was asked for.
pub fn choose(device: Device, devices: u32, quota: u64, nvml: &NvmlTerms) -> Result<(u32, Facts)> {
    let software =
        || probe(Some(devices), quota, nvml).context("the software device cannot be used");
    if device == Device::Software {
        tracing::info!("serving the software device");
        return Ok((DEVICE_SOFTWARE, software()?));
    }
    match probe(None, quota, nvml) {
        Ok(facts) => {
            tracing::info!("serving {} device(s) of NVIDIA's driver", facts.devices());
            Ok((DEVICE_CUDA, facts))
        }
        Err(error) if device == Device::Auto => {
            tracing::info!("serving the software device, because {error:#}");
            Ok((DEVICE_SOFTWARE, software()?))
        }
        Err(error) => Err(error.context("NVIDIA's driver cannot be used")),
    }
}

fn probe(software: Option<u32>, quota: u64, nvml: &NvmlTerms) -> Result<Facts> {
    let mut arguments = vec![OsString::from("probe")];
    if let Some(devices) = software {
        arguments.extend(["--software".into(), devices.to_string().into()]);
    }
    arguments.extend(nvml.arguments());
    Facts::read(&ask(&arguments, TIMEOUT)?, software.is_some(), quota, nvml)
}

/// What this very program says, in a process of its own, when it is given `arguments`.
///
/// # Errors
/// When it fails, with what it said, or takes too long.
pub fn ask(arguments: &[OsString], timeout: Duration) -> Result<Vec<u8>> {
    let child = process::own_command()
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("no process to ask it")?;
    answer_of(child, timeout)
}

/// Waits until a process is over.
fn end_of(child: &mut Child, timeout: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn answer_of(mut child: Child, timeout: Duration) -> Result<Vec<u8>> {
    let Some(status) = end_of(&mut child, timeout)? else {
        // Its result is of no use any more. It is waited for, so that nothing is left of it; one that hangs in the kernel
        // cannot be ended, and stays.
        let _ = child.kill();
        let _ = end_of(&mut child, END);
        bail!("it did not answer within {timeout:?}");
    };
    let mut bytes = Vec::new();
    if let Some(output) = child.stdout.take() {
        output.take(ANSWER_BYTES).read_to_end(&mut bytes)?;
    }
    if !status.success() {
        let text = String::from_utf8_lossy(&bytes);
        bail!(
            "{}",
            match text.trim() {
                "" => "its probe died",
                text => text,
            }
        );
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn shell(script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped());
        command.spawn().unwrap()
    }

    #[test]
    fn one_that_takes_too_long_is_ended_and_nothing_is_left_of_it() {
        let slow = shell("exec sleep 60");
        let process = format!("/proc/{}", slow.id());
        let error = answer_of(slow, Duration::from_millis(20)).unwrap_err();
        assert!(error.to_string().contains("did not answer"), "{error}");
        assert!(!std::path::Path::new(&process).exists());
    }

    #[test]
    fn an_answer_or_what_a_failing_one_said_is_given() {
        let limit = Duration::from_secs(60);
        assert_eq!(answer_of(shell("echo 7"), limit).unwrap(), b"7\n");
        for (script, said) in [("echo why; exit 1", "why"), ("exit 1", "its probe died")] {
            assert_eq!(
                answer_of(shell(script), limit).unwrap_err().to_string(),
                said
            );
        }
    }
}
