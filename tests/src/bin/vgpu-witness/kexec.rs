//! Another kernel without a reset of the machine (`kexec_file_load(2)`): what a crash dump or a fast reboot does.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Context, bail};

/// Shuts the devices down and becomes the kernel; comes back with an error only.
pub fn become_kernel(kernel: &str, initrd: &str) -> anyhow::Result<()> {
    let open = |path| File::open(path).with_context(|| format!("cannot open {path}"));
    let (kernel, initrd) = (open(kernel)?, open(initrd)?);
    let line = std::fs::read_to_string("/proc/cmdline")?;
    let line = CString::new(line.trim())?;
    let flags = 0_u64;
    // SAFETY: two open files and a string that ends with a zero byte, which its length counts.
    let loaded = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd.as_raw_fd(),
            line.as_bytes_with_nul().len(),
            line.as_ptr(),
            flags,
        )
    };
    if loaded != 0 {
        return Err(std::io::Error::last_os_error()).context("the kernel cannot be loaded");
    }
    // SAFETY: takes a number; if it succeeds, nothing of this system is left.
    unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_KEXEC) };
    let error = std::io::Error::last_os_error();
    bail!("the kernel cannot be started: {error}")
}
