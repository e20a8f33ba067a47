//! Result codes of the driver API with their names and texts.

use super::Scalar;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A driver API result code. A number, not an enumeration: the driver may return codes newer than
/// this list.
#[repr(transparent)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[must_use]
pub struct CUresult(pub u32);

impl Scalar for CUresult {
    fn to_word(self) -> u64 {
        u64::from(self.0)
    }
    fn from_word(word: u64) -> Self {
        Self(word as u32)
    }
}

impl CUresult {
    /// Success as `Ok`, anything else as `Err`.
    pub fn ok(self) -> Result<(), CUresult> {
        if self == Self::SUCCESS {
            Ok(())
        } else {
            Err(self)
        }
    }

    /// Whether the error leaves the context, and with it the process, unusable: every later call
    /// returns it too, and only a new process recovers.
    pub fn is_sticky(self) -> bool {
        matches!(self.0, 214 | 220 | 226 | 700 | 702 | 710 | 714..=719 | 721)
    }

    /// The enumerator's name and the driver's text, or `None` for a code this list lacks.
    pub fn describe(self) -> Option<(&'static core::ffi::CStr, &'static core::ffi::CStr)> {
        let at = ERRORS.binary_search_by_key(&self.0, |entry| entry.0).ok()?;
        ERRORS.get(at).map(|&(_, name, text)| (name, text))
    }
}

impl From<Result<(), CUresult>> for CUresult {
    fn from(result: Result<(), CUresult>) -> Self {
        match result {
            Ok(()) => Self::SUCCESS,
            Err(error) => error,
        }
    }
}

impl core::fmt::Display for CUresult {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.describe().and_then(|(name, _)| name.to_str().ok()) {
            Some(name) => write!(f, "{name} ({})", self.0),
            None => write!(f, "CUDA error {}", self.0),
        }
    }
}

#[rustfmt::skip]
impl CUresult {
    /// `CUDA_SUCCESS`: no error
    pub const SUCCESS: Self = Self(0);
    /// `CUDA_ERROR_INVALID_VALUE`: invalid argument
    pub const INVALID_VALUE: Self = Self(1);
    /// `CUDA_ERROR_OUT_OF_MEMORY`: out of memory
    pub const OUT_OF_MEMORY: Self = Self(2);
    /// `CUDA_ERROR_NOT_INITIALIZED`: initialization error
    pub const NOT_INITIALIZED: Self = Self(3);
    /// `CUDA_ERROR_DEINITIALIZED`: driver shutting down
    pub const DEINITIALIZED: Self = Self(4);
    /// `CUDA_ERROR_PROFILER_DISABLED`: profiler disabled while using external profiling tool
    pub const PROFILER_DISABLED: Self = Self(5);
    /// `CUDA_ERROR_PROFILER_NOT_INITIALIZED`: profiler not initialized: call cudaProfilerInitialize()
    pub const PROFILER_NOT_INITIALIZED: Self = Self(6);
    /// `CUDA_ERROR_PROFILER_ALREADY_STARTED`: profiler already started
    pub const PROFILER_ALREADY_STARTED: Self = Self(7);
    /// `CUDA_ERROR_PROFILER_ALREADY_STOPPED`: profiler already stopped
    pub const PROFILER_ALREADY_STOPPED: Self = Self(8);
    /// `CUDA_ERROR_STUB_LIBRARY`: CUDA driver is a stub library
    pub const STUB_LIBRARY: Self = Self(34);
    /// `CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER`: CUDA call requires a newer driver
    pub const CALL_REQUIRES_NEWER_DRIVER: Self = Self(36);
    /// `CUDA_ERROR_DEVICE_UNAVAILABLE`: CUDA-capable device(s) is/are busy or unavailable
    pub const DEVICE_UNAVAILABLE: Self = Self(46);
    /// `CUDA_ERROR_MULTICAST_RESOURCE_FULL`: multicast resource is full
    pub const MULTICAST_RESOURCE_FULL: Self = Self(47);
    /// `CUDA_ERROR_NO_DEVICE`: no CUDA-capable device is detected
    pub const NO_DEVICE: Self = Self(100);
    /// `CUDA_ERROR_INVALID_DEVICE`: invalid device ordinal
    pub const INVALID_DEVICE: Self = Self(101);
    /// `CUDA_ERROR_DEVICE_NOT_LICENSED`: device doesn't have valid Grid license
    pub const DEVICE_NOT_LICENSED: Self = Self(102);
    /// `CUDA_ERROR_INVALID_IMAGE`: device kernel image is invalid
    pub const INVALID_IMAGE: Self = Self(200);
    /// `CUDA_ERROR_INVALID_CONTEXT`: invalid device context
    pub const INVALID_CONTEXT: Self = Self(201);
    /// `CUDA_ERROR_CONTEXT_ALREADY_CURRENT`: context already current
    pub const CONTEXT_ALREADY_CURRENT: Self = Self(202);
    /// `CUDA_ERROR_MAP_FAILED`: mapping of buffer object failed
    pub const MAP_FAILED: Self = Self(205);
    /// `CUDA_ERROR_UNMAP_FAILED`: unmapping of buffer object failed
    pub const UNMAP_FAILED: Self = Self(206);
    /// `CUDA_ERROR_ARRAY_IS_MAPPED`: array is mapped
    pub const ARRAY_IS_MAPPED: Self = Self(207);
    /// `CUDA_ERROR_ALREADY_MAPPED`: resource already mapped
    pub const ALREADY_MAPPED: Self = Self(208);
    /// `CUDA_ERROR_NO_BINARY_FOR_GPU`: no kernel image is available for execution on the device
    pub const NO_BINARY_FOR_GPU: Self = Self(209);
    /// `CUDA_ERROR_ALREADY_ACQUIRED`: resource already acquired
    pub const ALREADY_ACQUIRED: Self = Self(210);
    /// `CUDA_ERROR_NOT_MAPPED`: resource not mapped
    pub const NOT_MAPPED: Self = Self(211);
    /// `CUDA_ERROR_NOT_MAPPED_AS_ARRAY`: resource not mapped as array
    pub const NOT_MAPPED_AS_ARRAY: Self = Self(212);
    /// `CUDA_ERROR_NOT_MAPPED_AS_POINTER`: resource not mapped as pointer
    pub const NOT_MAPPED_AS_POINTER: Self = Self(213);
    /// `CUDA_ERROR_ECC_UNCORRECTABLE`: uncorrectable ECC error encountered
    pub const ECC_UNCORRECTABLE: Self = Self(214);
    /// `CUDA_ERROR_UNSUPPORTED_LIMIT`: limit is not supported on this architecture
    pub const UNSUPPORTED_LIMIT: Self = Self(215);
    /// `CUDA_ERROR_CONTEXT_ALREADY_IN_USE`: exclusive-thread device already in use by a different thread
    pub const CONTEXT_ALREADY_IN_USE: Self = Self(216);
    /// `CUDA_ERROR_PEER_ACCESS_UNSUPPORTED`: peer access is not supported between these two devices
    pub const PEER_ACCESS_UNSUPPORTED: Self = Self(217);
    /// `CUDA_ERROR_INVALID_PTX`: a PTX JIT compilation failed
    pub const INVALID_PTX: Self = Self(218);
    /// `CUDA_ERROR_INVALID_GRAPHICS_CONTEXT`: invalid OpenGL or DirectX context
    pub const INVALID_GRAPHICS_CONTEXT: Self = Self(219);
    /// `CUDA_ERROR_NVLINK_UNCORRECTABLE`: uncorrectable NVLink error detected during the execution
    pub const NVLINK_UNCORRECTABLE: Self = Self(220);
    /// `CUDA_ERROR_JIT_COMPILER_NOT_FOUND`: PTX JIT compiler library not found
    pub const JIT_COMPILER_NOT_FOUND: Self = Self(221);
    /// `CUDA_ERROR_UNSUPPORTED_PTX_VERSION`: the provided PTX was compiled with an unsupported toolchain.
    pub const UNSUPPORTED_PTX_VERSION: Self = Self(222);
    /// `CUDA_ERROR_JIT_COMPILATION_DISABLED`: PTX JIT compilation was disabled
    pub const JIT_COMPILATION_DISABLED: Self = Self(223);
    /// `CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY`: the provided execution affinity is not supported
    pub const UNSUPPORTED_EXEC_AFFINITY: Self = Self(224);
    /// `CUDA_ERROR_UNSUPPORTED_DEVSIDE_SYNC`: the provided PTX contains unsupported call to cudaDeviceSynchronize
    pub const UNSUPPORTED_DEVSIDE_SYNC: Self = Self(225);
    /// `CUDA_ERROR_CONTAINED`: Invalid memory access or execution error occurred in a contained context
    pub const CONTAINED: Self = Self(226);
    /// `CUDA_ERROR_INSUFFICIENT_LOADER_VERSION`: insufficient loader version
    pub const INSUFFICIENT_LOADER_VERSION: Self = Self(227);
    /// `CUDA_ERROR_INVALID_SOURCE`: device kernel image is invalid
    pub const INVALID_SOURCE: Self = Self(300);
    /// `CUDA_ERROR_FILE_NOT_FOUND`: file not found
    pub const FILE_NOT_FOUND: Self = Self(301);
    /// `CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND`: shared object symbol not found
    pub const SHARED_OBJECT_SYMBOL_NOT_FOUND: Self = Self(302);
    /// `CUDA_ERROR_SHARED_OBJECT_INIT_FAILED`: shared object initialization failed
    pub const SHARED_OBJECT_INIT_FAILED: Self = Self(303);
    /// `CUDA_ERROR_OPERATING_SYSTEM`: OS call failed or operation not supported on this OS
    pub const OPERATING_SYSTEM: Self = Self(304);
    /// `CUDA_ERROR_INVALID_HANDLE`: invalid resource handle
    pub const INVALID_HANDLE: Self = Self(400);
    /// `CUDA_ERROR_ILLEGAL_STATE`: the operation cannot be performed in the present state
    pub const ILLEGAL_STATE: Self = Self(401);
    /// `CUDA_ERROR_LOSSY_QUERY`: attempted introspection would be semantically lossy
    pub const LOSSY_QUERY: Self = Self(402);
    /// `CUDA_ERROR_NOT_FOUND`: named symbol not found
    pub const NOT_FOUND: Self = Self(500);
    /// `CUDA_ERROR_NOT_READY`: device not ready
    pub const NOT_READY: Self = Self(600);
    /// `CUDA_ERROR_ILLEGAL_ADDRESS`: an illegal memory access was encountered
    pub const ILLEGAL_ADDRESS: Self = Self(700);
    /// `CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES`: too many resources requested for launch
    pub const LAUNCH_OUT_OF_RESOURCES: Self = Self(701);
    /// `CUDA_ERROR_LAUNCH_TIMEOUT`: the launch timed out and was terminated
    pub const LAUNCH_TIMEOUT: Self = Self(702);
    /// `CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING`: launch uses incompatible texturing mode
    pub const LAUNCH_INCOMPATIBLE_TEXTURING: Self = Self(703);
    /// `CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED`: peer access is already enabled
    pub const PEER_ACCESS_ALREADY_ENABLED: Self = Self(704);
    /// `CUDA_ERROR_PEER_ACCESS_NOT_ENABLED`: peer access has not been enabled
    pub const PEER_ACCESS_NOT_ENABLED: Self = Self(705);
    /// `CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE`: cannot set while device is active in this process
    pub const PRIMARY_CONTEXT_ACTIVE: Self = Self(708);
    /// `CUDA_ERROR_CONTEXT_IS_DESTROYED`: context is destroyed
    pub const CONTEXT_IS_DESTROYED: Self = Self(709);
    /// `CUDA_ERROR_ASSERT`: device-side assert triggered
    pub const ASSERT: Self = Self(710);
    /// `CUDA_ERROR_TOO_MANY_PEERS`: peer mapping resources exhausted
    pub const TOO_MANY_PEERS: Self = Self(711);
    /// `CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED`: part or all of the requested memory range is already mapped
    pub const HOST_MEMORY_ALREADY_REGISTERED: Self = Self(712);
    /// `CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED`: pointer does not correspond to a registered memory region
    pub const HOST_MEMORY_NOT_REGISTERED: Self = Self(713);
    /// `CUDA_ERROR_HARDWARE_STACK_ERROR`: hardware stack error
    pub const HARDWARE_STACK_ERROR: Self = Self(714);
    /// `CUDA_ERROR_ILLEGAL_INSTRUCTION`: an illegal instruction was encountered
    pub const ILLEGAL_INSTRUCTION: Self = Self(715);
    /// `CUDA_ERROR_MISALIGNED_ADDRESS`: misaligned address
    pub const MISALIGNED_ADDRESS: Self = Self(716);
    /// `CUDA_ERROR_INVALID_ADDRESS_SPACE`: operation not supported on global/shared address space
    pub const INVALID_ADDRESS_SPACE: Self = Self(717);
    /// `CUDA_ERROR_INVALID_PC`: invalid program counter
    pub const INVALID_PC: Self = Self(718);
    /// `CUDA_ERROR_LAUNCH_FAILED`: unspecified launch failure
    pub const LAUNCH_FAILED: Self = Self(719);
    /// `CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE`: too many blocks in cooperative launch
    pub const COOPERATIVE_LAUNCH_TOO_LARGE: Self = Self(720);
    /// `CUDA_ERROR_TENSOR_MEMORY_LEAK`: tensor memory not completely freed
    pub const TENSOR_MEMORY_LEAK: Self = Self(721);
    /// `CUDA_ERROR_NOT_PERMITTED`: operation not permitted
    pub const NOT_PERMITTED: Self = Self(800);
    /// `CUDA_ERROR_NOT_SUPPORTED`: operation not supported
    pub const NOT_SUPPORTED: Self = Self(801);
    /// `CUDA_ERROR_SYSTEM_NOT_READY`: system not yet initialized
    pub const SYSTEM_NOT_READY: Self = Self(802);
    /// `CUDA_ERROR_SYSTEM_DRIVER_MISMATCH`: system has unsupported display driver / cuda driver combination
    pub const SYSTEM_DRIVER_MISMATCH: Self = Self(803);
    /// `CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE`: forward compatibility was attempted on non supported HW
    pub const COMPAT_NOT_SUPPORTED_ON_DEVICE: Self = Self(804);
    /// `CUDA_ERROR_MPS_CONNECTION_FAILED`: MPS client failed to connect to the MPS control daemon or the MPS server
    pub const MPS_CONNECTION_FAILED: Self = Self(805);
    /// `CUDA_ERROR_MPS_RPC_FAILURE`: the remote procedural call between the MPS server and the MPS client failed
    pub const MPS_RPC_FAILURE: Self = Self(806);
    /// `CUDA_ERROR_MPS_SERVER_NOT_READY`: MPS server is not ready to accept new MPS client requests
    pub const MPS_SERVER_NOT_READY: Self = Self(807);
    /// `CUDA_ERROR_MPS_MAX_CLIENTS_REACHED`: the hardware resources required to create MPS client have been exhausted
    pub const MPS_MAX_CLIENTS_REACHED: Self = Self(808);
    /// `CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED`: the hardware resources required to support device connections have been exhausted
    pub const MPS_MAX_CONNECTIONS_REACHED: Self = Self(809);
    /// `CUDA_ERROR_MPS_CLIENT_TERMINATED`: the MPS client has been terminated by the server
    pub const MPS_CLIENT_TERMINATED: Self = Self(810);
    /// `CUDA_ERROR_CDP_NOT_SUPPORTED`: is using CUDA Dynamic Parallelism, but the current configuration, like MPS, does not support it
    pub const CDP_NOT_SUPPORTED: Self = Self(811);
    /// `CUDA_ERROR_CDP_VERSION_MISMATCH`: unsupported interaction between different versions of CUDA Dynamic Parallelism
    pub const CDP_VERSION_MISMATCH: Self = Self(812);
    /// `CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED`: operation not permitted when stream is capturing
    pub const STREAM_CAPTURE_UNSUPPORTED: Self = Self(900);
    /// `CUDA_ERROR_STREAM_CAPTURE_INVALIDATED`: operation failed due to a previous error during capture
    pub const STREAM_CAPTURE_INVALIDATED: Self = Self(901);
    /// `CUDA_ERROR_STREAM_CAPTURE_MERGE`: operation would result in a merge of separate capture sequences
    pub const STREAM_CAPTURE_MERGE: Self = Self(902);
    /// `CUDA_ERROR_STREAM_CAPTURE_UNMATCHED`: capture was not ended in the same stream as it began
    pub const STREAM_CAPTURE_UNMATCHED: Self = Self(903);
    /// `CUDA_ERROR_STREAM_CAPTURE_UNJOINED`: capturing stream has unjoined work
    pub const STREAM_CAPTURE_UNJOINED: Self = Self(904);
    /// `CUDA_ERROR_STREAM_CAPTURE_ISOLATION`: dependency created on uncaptured work in another stream
    pub const STREAM_CAPTURE_ISOLATION: Self = Self(905);
    /// `CUDA_ERROR_STREAM_CAPTURE_IMPLICIT`: operation would make the legacy stream depend on a capturing blocking stream
    pub const STREAM_CAPTURE_IMPLICIT: Self = Self(906);
    /// `CUDA_ERROR_CAPTURED_EVENT`: operation not permitted on an event last recorded in a capturing stream
    pub const CAPTURED_EVENT: Self = Self(907);
    /// `CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD`: attempt to terminate a thread-local capture sequence from another thread
    pub const STREAM_CAPTURE_WRONG_THREAD: Self = Self(908);
    /// `CUDA_ERROR_TIMEOUT`: wait operation timed out
    pub const TIMEOUT: Self = Self(909);
    /// `CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE`: the graph update was not performed because it included changes which violated constraints specific to instantiated graph update
    pub const GRAPH_EXEC_UPDATE_FAILURE: Self = Self(910);
    /// `CUDA_ERROR_EXTERNAL_DEVICE`: an async error has occured in external entity outside of CUDA
    pub const EXTERNAL_DEVICE: Self = Self(911);
    /// `CUDA_ERROR_INVALID_CLUSTER_SIZE`: a kernel launch error has occurred due to cluster misconfiguration
    pub const INVALID_CLUSTER_SIZE: Self = Self(912);
    /// `CUDA_ERROR_FUNCTION_NOT_LOADED`: the function handle is not loaded when calling an API that requires a loaded function
    pub const FUNCTION_NOT_LOADED: Self = Self(913);
    /// `CUDA_ERROR_INVALID_RESOURCE_TYPE`: one or more resources passed in are not valid resource types for the operation
    pub const INVALID_RESOURCE_TYPE: Self = Self(914);
    /// `CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION`: one or more resources are insufficient or non-applicable for the operation
    pub const INVALID_RESOURCE_CONFIGURATION: Self = Self(915);
    /// `CUDA_ERROR_KEY_ROTATION`: an error happened during the key rotation sequence
    pub const KEY_ROTATION: Self = Self(916);
    /// `CUDA_ERROR_STREAM_DETACHED`: the requested operation is not permitted because the stream is in a detached state
    pub const STREAM_DETACHED: Self = Self(917);
    /// `CUDA_ERROR_GRAPH_RECAPTURE_FAILURE`: graph recapture failed
    pub const GRAPH_RECAPTURE_FAILURE: Self = Self(918);
    /// `CUDA_ERROR_FABRIC_NOT_READY`: fabric is not ready
    pub const FABRIC_NOT_READY: Self = Self(919);
    /// `CUDA_ERROR_UNKNOWN`: unknown error
    pub const UNKNOWN: Self = Self(999);
}

/// Code, name and text of every known result, ascending by code.
#[rustfmt::skip]
pub const ERRORS: &[(u32, &core::ffi::CStr, &core::ffi::CStr)] = &[
    (0, c"CUDA_SUCCESS", c"no error"),
    (1, c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
    (2, c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
    (3, c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error"),
    (4, c"CUDA_ERROR_DEINITIALIZED", c"driver shutting down"),
    (5, c"CUDA_ERROR_PROFILER_DISABLED", c"profiler disabled while using external profiling tool"),
    (6, c"CUDA_ERROR_PROFILER_NOT_INITIALIZED", c"profiler not initialized: call cudaProfilerInitialize()"),
    (7, c"CUDA_ERROR_PROFILER_ALREADY_STARTED", c"profiler already started"),
    (8, c"CUDA_ERROR_PROFILER_ALREADY_STOPPED", c"profiler already stopped"),
    (34, c"CUDA_ERROR_STUB_LIBRARY", c"CUDA driver is a stub library"),
    (36, c"CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER", c"CUDA call requires a newer driver"),
    (46, c"CUDA_ERROR_DEVICE_UNAVAILABLE", c"CUDA-capable device(s) is/are busy or unavailable"),
    (47, c"CUDA_ERROR_MULTICAST_RESOURCE_FULL", c"multicast resource is full"),
    (100, c"CUDA_ERROR_NO_DEVICE", c"no CUDA-capable device is detected"),
    (101, c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
    (102, c"CUDA_ERROR_DEVICE_NOT_LICENSED", c"device doesn't have valid Grid license"),
    (200, c"CUDA_ERROR_INVALID_IMAGE", c"device kernel image is invalid"),
    (201, c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context"),
    (202, c"CUDA_ERROR_CONTEXT_ALREADY_CURRENT", c"context already current"),
    (205, c"CUDA_ERROR_MAP_FAILED", c"mapping of buffer object failed"),
    (206, c"CUDA_ERROR_UNMAP_FAILED", c"unmapping of buffer object failed"),
    (207, c"CUDA_ERROR_ARRAY_IS_MAPPED", c"array is mapped"),
    (208, c"CUDA_ERROR_ALREADY_MAPPED", c"resource already mapped"),
    (209, c"CUDA_ERROR_NO_BINARY_FOR_GPU", c"no kernel image is available for execution on the device"),
    (210, c"CUDA_ERROR_ALREADY_ACQUIRED", c"resource already acquired"),
    (211, c"CUDA_ERROR_NOT_MAPPED", c"resource not mapped"),
    (212, c"CUDA_ERROR_NOT_MAPPED_AS_ARRAY", c"resource not mapped as array"),
    (213, c"CUDA_ERROR_NOT_MAPPED_AS_POINTER", c"resource not mapped as pointer"),
    (214, c"CUDA_ERROR_ECC_UNCORRECTABLE", c"uncorrectable ECC error encountered"),
    (215, c"CUDA_ERROR_UNSUPPORTED_LIMIT", c"limit is not supported on this architecture"),
    (216, c"CUDA_ERROR_CONTEXT_ALREADY_IN_USE", c"exclusive-thread device already in use by a different thread"),
    (217, c"CUDA_ERROR_PEER_ACCESS_UNSUPPORTED", c"peer access is not supported between these two devices"),
    (218, c"CUDA_ERROR_INVALID_PTX", c"a PTX JIT compilation failed"),
    (219, c"CUDA_ERROR_INVALID_GRAPHICS_CONTEXT", c"invalid OpenGL or DirectX context"),
    (220, c"CUDA_ERROR_NVLINK_UNCORRECTABLE", c"uncorrectable NVLink error detected during the execution"),
    (221, c"CUDA_ERROR_JIT_COMPILER_NOT_FOUND", c"PTX JIT compiler library not found"),
    (222, c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION", c"the provided PTX was compiled with an unsupported toolchain."),
    (223, c"CUDA_ERROR_JIT_COMPILATION_DISABLED", c"PTX JIT compilation was disabled"),
    (224, c"CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY", c"the provided execution affinity is not supported"),
    (225, c"CUDA_ERROR_UNSUPPORTED_DEVSIDE_SYNC", c"the provided PTX contains unsupported call to cudaDeviceSynchronize"),
    (226, c"CUDA_ERROR_CONTAINED", c"Invalid memory access or execution error occurred in a contained context"),
    (227, c"CUDA_ERROR_INSUFFICIENT_LOADER_VERSION", c"insufficient loader version"),
    (300, c"CUDA_ERROR_INVALID_SOURCE", c"device kernel image is invalid"),
    (301, c"CUDA_ERROR_FILE_NOT_FOUND", c"file not found"),
    (302, c"CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND", c"shared object symbol not found"),
    (303, c"CUDA_ERROR_SHARED_OBJECT_INIT_FAILED", c"shared object initialization failed"),
    (304, c"CUDA_ERROR_OPERATING_SYSTEM", c"OS call failed or operation not supported on this OS"),
    (400, c"CUDA_ERROR_INVALID_HANDLE", c"invalid resource handle"),
    (401, c"CUDA_ERROR_ILLEGAL_STATE", c"the operation cannot be performed in the present state"),
    (402, c"CUDA_ERROR_LOSSY_QUERY", c"attempted introspection would be semantically lossy"),
    (500, c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
    (600, c"CUDA_ERROR_NOT_READY", c"device not ready"),
    (700, c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access was encountered"),
    (701, c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", c"too many resources requested for launch"),
    (702, c"CUDA_ERROR_LAUNCH_TIMEOUT", c"the launch timed out and was terminated"),
    (703, c"CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING", c"launch uses incompatible texturing mode"),
    (704, c"CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", c"peer access is already enabled"),
    (705, c"CUDA_ERROR_PEER_ACCESS_NOT_ENABLED", c"peer access has not been enabled"),
    (708, c"CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE", c"cannot set while device is active in this process"),
    (709, c"CUDA_ERROR_CONTEXT_IS_DESTROYED", c"context is destroyed"),
    (710, c"CUDA_ERROR_ASSERT", c"device-side assert triggered"),
    (711, c"CUDA_ERROR_TOO_MANY_PEERS", c"peer mapping resources exhausted"),
    (712, c"CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", c"part or all of the requested memory range is already mapped"),
    (713, c"CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", c"pointer does not correspond to a registered memory region"),
    (714, c"CUDA_ERROR_HARDWARE_STACK_ERROR", c"hardware stack error"),
    (715, c"CUDA_ERROR_ILLEGAL_INSTRUCTION", c"an illegal instruction was encountered"),
    (716, c"CUDA_ERROR_MISALIGNED_ADDRESS", c"misaligned address"),
    (717, c"CUDA_ERROR_INVALID_ADDRESS_SPACE", c"operation not supported on global/shared address space"),
    (718, c"CUDA_ERROR_INVALID_PC", c"invalid program counter"),
    (719, c"CUDA_ERROR_LAUNCH_FAILED", c"unspecified launch failure"),
    (720, c"CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", c"too many blocks in cooperative launch"),
    (721, c"CUDA_ERROR_TENSOR_MEMORY_LEAK", c"tensor memory not completely freed"),
    (800, c"CUDA_ERROR_NOT_PERMITTED", c"operation not permitted"),
    (801, c"CUDA_ERROR_NOT_SUPPORTED", c"operation not supported"),
    (802, c"CUDA_ERROR_SYSTEM_NOT_READY", c"system not yet initialized"),
    (803, c"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", c"system has unsupported display driver / cuda driver combination"),
    (804, c"CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", c"forward compatibility was attempted on non supported HW"),
    (805, c"CUDA_ERROR_MPS_CONNECTION_FAILED", c"MPS client failed to connect to the MPS control daemon or the MPS server"),
    (806, c"CUDA_ERROR_MPS_RPC_FAILURE", c"the remote procedural call between the MPS server and the MPS client failed"),
    (807, c"CUDA_ERROR_MPS_SERVER_NOT_READY", c"MPS server is not ready to accept new MPS client requests"),
    (808, c"CUDA_ERROR_MPS_MAX_CLIENTS_REACHED", c"the hardware resources required to create MPS client have been exhausted"),
    (809, c"CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED", c"the hardware resources required to support device connections have been exhausted"),
    (810, c"CUDA_ERROR_MPS_CLIENT_TERMINATED", c"the MPS client has been terminated by the server"),
    (811, c"CUDA_ERROR_CDP_NOT_SUPPORTED", c"is using CUDA Dynamic Parallelism, but the current configuration, like MPS, does not support it"),
    (812, c"CUDA_ERROR_CDP_VERSION_MISMATCH", c"unsupported interaction between different versions of CUDA Dynamic Parallelism"),
    (900, c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", c"operation not permitted when stream is capturing"),
    (901, c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", c"operation failed due to a previous error during capture"),
    (902, c"CUDA_ERROR_STREAM_CAPTURE_MERGE", c"operation would result in a merge of separate capture sequences"),
    (903, c"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", c"capture was not ended in the same stream as it began"),
    (904, c"CUDA_ERROR_STREAM_CAPTURE_UNJOINED", c"capturing stream has unjoined work"),
    (905, c"CUDA_ERROR_STREAM_CAPTURE_ISOLATION", c"dependency created on uncaptured work in another stream"),
    (906, c"CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", c"operation would make the legacy stream depend on a capturing blocking stream"),
    (907, c"CUDA_ERROR_CAPTURED_EVENT", c"operation not permitted on an event last recorded in a capturing stream"),
    (908, c"CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", c"attempt to terminate a thread-local capture sequence from another thread"),
    (909, c"CUDA_ERROR_TIMEOUT", c"wait operation timed out"),
    (910, c"CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE", c"the graph update was not performed because it included changes which violated constraints specific to instantiated graph update"),
    (911, c"CUDA_ERROR_EXTERNAL_DEVICE", c"an async error has occured in external entity outside of CUDA"),
    (912, c"CUDA_ERROR_INVALID_CLUSTER_SIZE", c"a kernel launch error has occurred due to cluster misconfiguration"),
    (913, c"CUDA_ERROR_FUNCTION_NOT_LOADED", c"the function handle is not loaded when calling an API that requires a loaded function"),
    (914, c"CUDA_ERROR_INVALID_RESOURCE_TYPE", c"one or more resources passed in are not valid resource types for the operation"),
    (915, c"CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION", c"one or more resources are insufficient or non-applicable for the operation"),
    (916, c"CUDA_ERROR_KEY_ROTATION", c"an error happened during the key rotation sequence"),
    (917, c"CUDA_ERROR_STREAM_DETACHED", c"the requested operation is not permitted because the stream is in a detached state"),
    (918, c"CUDA_ERROR_GRAPH_RECAPTURE_FAILURE", c"graph recapture failed"),
    (919, c"CUDA_ERROR_FABRIC_NOT_READY", c"fabric is not ready"),
    (999, c"CUDA_ERROR_UNKNOWN", c"unknown error"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_ascending_and_described() {
        assert!(ERRORS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let (name, text) = CUresult::OUT_OF_MEMORY.describe().expect("a known code");
        assert_eq!(
            (name, text),
            (c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory")
        );
        assert_eq!(CUresult(12345).describe(), None);
    }
}
