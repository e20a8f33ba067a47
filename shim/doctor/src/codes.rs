//! CUDA's error codes: their names, and what mends them. The runtime's codes equal the driver's where both have one.

use vgpu_protocol::cuda::CUresult;

/// `CUDA_ERROR_NO_DEVICE (100)`.
#[must_use]
pub fn name(code: u32) -> String {
    match code {
        // The runtime has these alone.
        35 => "cudaErrorInsufficientDriver (35)".to_owned(),
        103 => "cudaErrorSoftwareValidityNotEstablished (103)".to_owned(),
        _ => CUresult(code).to_string(),
    }
}

/// What a code means when it comes from initialisation, and what to do.
///
/// The causes are those measured with the real libcudart over faulty drivers.
#[must_use]
pub fn meaning(code: u32) -> (&'static str, &'static str) {
    match code {
        2 => (
            "the backend has no memory left for another program, or a quota is used up",
            "end other programs, or raise the daemon's --memory",
        ),
        3 => (
            "the driver does not answer in this process: a stub, or a call after fork",
            "run `vgpu install`",
        ),
        34 => (
            "this libcuda.so.1 is CUDA's stub for linking, not a driver",
            "take the folder `stubs` out of LD_LIBRARY_PATH",
        ),
        35 => (
            "the driver version is older than the libcudart",
            "use a libcudart of the driver's major version, or update the backend's driver",
        ),
        36 => (
            "the driver lacks a function that libcudart needs (cuGetProcAddress did not find it)",
            "run `vgpu install` with a current vgpu: the libcuda.so.1 in use is incomplete",
        ),
        100 => (
            "no CUDA-capable device is seen: no backend answers, or it has no device",
            "see layer 1; VGPU_LOG=1 makes the shim say why",
        ),
        103 => (
            "libcudart's integrity check fails: the libcuda.so.1 in use answers its private tables wrongly",
            "run `vgpu install` with a current vgpu",
        ),
        500 => (
            "libcudart did not find a private table (cuGetExportTable)",
            "run `vgpu install` with a current vgpu: the libcuda.so.1 in use is incomplete",
        ),
        802 => (
            "a backend is there but does not serve this program",
            "see layer 1, and the daemon's log",
        ),
        803 => (
            "the driver and its other half are of different versions: the backend's vgpu, or NVIDIA's kernel module",
            "install the same version of vgpu on both sides; with NVIDIA's own driver, reboot into its version",
        ),
        999 => (
            "the driver failed without a reason",
            "see the daemon's log, or `journalctl -u vgpu-agent`",
        ),
        _ => (
            "",
            "VGPU_LOG=1 makes the shim say why; see the daemon's log",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_driver_and_runtime_have_names() {
        assert_eq!(name(100), "CUDA_ERROR_NO_DEVICE (100)");
        assert!(name(35).contains("InsufficientDriver"));
        assert_eq!(name(54321), "CUDA error 54321");
    }
}
