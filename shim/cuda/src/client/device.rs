//! A device, as it was described with the welcome.

use std::sync::atomic::AtomicU32;
use vgpu_protocol::cuda::*;
use vgpu_protocol::wire::DeviceSnapshot;

/// A device as the program sees it.
#[derive(Debug)]
pub struct Device {
    pub(super) snapshot: DeviceSnapshot,
    /// The backend's ordinal.
    pub(super) ordinal: i32,
    /// References to the primary context held by the program.
    pub(super) retained: AtomicU32,
    /// Flags set for the primary context.
    pub(super) primary_flags: AtomicU32,
}

impl Device {
    /// `cuDeviceGetUuid`.
    pub fn uuid(&self) -> [u8; 16] {
        self.snapshot.uuid
    }

    /// Everything known of it.
    pub fn snapshot(&self) -> &DeviceSnapshot {
        &self.snapshot
    }

    /// Handle of the primary context, valid before it is retained.
    pub fn primary_ctx(&self) -> CUcontext {
        CUcontext(self.snapshot.primary_ctx)
    }

    /// An attribute.
    ///
    /// # Errors
    /// What the driver returned for it; `INVALID_VALUE` for ids beyond the snapshot.
    pub fn attribute(&self, attribute: i32) -> Result<i32, CUresult> {
        let at = usize::try_from(attribute).map_err(|_| CUresult::INVALID_VALUE)?;
        let status = self
            .snapshot
            .attribute_status
            .get(at)
            .ok_or(CUresult::INVALID_VALUE)?;
        CUresult(*status).ok()?;
        self.snapshot
            .attributes
            .get(at)
            .copied()
            .ok_or(CUresult::INVALID_VALUE)
    }

    /// An attribute, 0 where there is none.
    pub fn attribute_or_zero(&self, attribute: i32) -> i32 {
        self.attribute(attribute).unwrap_or(0)
    }
}
