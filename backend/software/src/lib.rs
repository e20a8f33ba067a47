//! The software device: a CUDA driver for the CPU.
//!
//! [`driver`] fills the same table of functions that NVIDIA's `libcuda.so.1` fills, so whoever
//! calls through it cannot tell the difference, except that the device says honestly what it is
//! and what it lacks. Kernels are PTX, executed by [`vgpu_ptx`].
//!
//! | module | what lives there |
//! |---|---|
//! | `api` | the C entry points, by family |
//! | `entry`, `foreign` | how a call enters: gates, the caller's pointers |
//! | `current`, `table` | state per thread; handles and what is alive |
//! | `device`, `memory`, `pool`, `raw` | the device, its memory, plain accesses |
//! | `context`, `stream`, `event`, `work`, `callback` | contexts, queues and what they execute |
//! | `copy`, `operations`, `launch`, `printf` | copies and fills, memory operations, kernels and their output |
//! | `module`, `image`, `jit`, `link` | code: loading, its options, linking |
//! | `dispatch`, `capture`, `graph` | from a call to a command or to a node of a graph |
//! | [`ipc`], `interprocess` | memory and events that other processes open |
//! | `dispatch`, `capture`, `graph`, `user_object` | from a call to a command or to a node of a graph; objects whose end graphs put off |
//! | `export` | the private table that tells the primary context's handle |
//!
//! Objects are reached only through live tables, memory only inside live allocations. A fault of a
//! kernel stays with its context, which then refuses everything until it ends.

mod api;
mod callback;
mod capture;
mod context;
mod copy;
mod current;
mod device;
mod dispatch;
mod entry;
mod event;
mod export;
mod foreign;
mod graph;
mod image;
mod interprocess;
pub mod ipc;
mod jit;
mod launch;
mod link;
mod memory;
mod module;
mod operations;
mod pool;
mod printf;
mod raw;
mod stream;
mod table;
mod user_object;
mod work;

pub use device::{MAX_DEVICES, Options, configure};
use vgpu_driver::Driver;

/// Lists the functions this driver has.
macro_rules! table {
    ($($family:ident: $($name:ident)*;)*) => {
        /// The driver's functions. Those it lacks are `None`.
        #[must_use]
        pub fn driver() -> Driver {
            Driver {
                $($($name: Some(api::$family::$name),)*)*
                ..Driver::default()
            }
        }
    };
}

table! {
    device: cuInit cuDriverGetVersion cuGetErrorName cuGetErrorString cuGetExportTable
        cuDeviceGetCount cuDeviceGet cuDeviceGetName cuDeviceTotalMem_v2 cuDeviceGetAttribute
        cuDeviceGetUuid cuDeviceGetUuid_v2 cuDeviceGetPCIBusId cuDeviceGetByPCIBusId
        cuDeviceComputeCapability cuDeviceGetProperties cuDeviceCanAccessPeer
        cuDeviceGetP2PAttribute cuDeviceGetExecAffinitySupport;
    context: cuDevicePrimaryCtxRetain cuDevicePrimaryCtxRelease_v2 cuDevicePrimaryCtxReset_v2
        cuDevicePrimaryCtxSetFlags_v2 cuDevicePrimaryCtxGetState cuCtxCreate_v2 cuCtxCreate_v3
        cuCtxCreate_v4 cuCtxDestroy_v2 cuCtxGetCurrent cuCtxSetCurrent cuCtxPushCurrent_v2
        cuCtxPopCurrent_v2 cuCtxGetDevice cuCtxGetDevice_v2 cuCtxGetApiVersion cuCtxGetFlags
        cuCtxSetFlags cuCtxGetId cuCtxGetLimit cuCtxSetLimit cuCtxGetCacheConfig
        cuCtxSetCacheConfig cuCtxGetSharedMemConfig cuCtxSetSharedMemConfig
        cuCtxGetStreamPriorityRange cuCtxResetPersistingL2Cache cuCtxSynchronize
        cuCtxSynchronize_v2 cuCtxEnablePeerAccess cuCtxDisablePeerAccess;
    memory: cuMemAlloc_v2 cuMemAllocPitch_v2 cuMemFree_v2 cuMemGetInfo_v2 cuMemGetAddressRange_v2
        cuMemAllocHost_v2 cuMemHostAlloc cuMemFreeHost cuMemHostRegister_v2 cuMemHostUnregister
        cuMemHostGetDevicePointer_v2 cuMemHostGetFlags cuPointerGetAttribute
        cuPointerGetAttributes;
    ipc: cuIpcGetMemHandle cuIpcOpenMemHandle_v2 cuIpcCloseMemHandle cuIpcGetEventHandle
        cuIpcOpenEventHandle;
    pool: cuMemAllocAsync cuMemAllocFromPoolAsync cuMemFreeAsync cuDeviceGetDefaultMemPool
        cuDeviceGetMemPool cuDeviceSetMemPool cuMemPoolCreate cuMemPoolDestroy cuMemPoolTrimTo
        cuMemPoolGetAttribute cuMemPoolSetAttribute cuMemPoolSetAccess cuMemPoolGetAccess;
    copy: cuMemcpy cuMemcpyAsync cuMemcpyHtoD_v2 cuMemcpyHtoDAsync_v2 cuMemcpyDtoH_v2
        cuMemcpyDtoHAsync_v2 cuMemcpyDtoD_v2 cuMemcpyDtoDAsync_v2 cuMemcpy2D_v2
        cuMemcpy2DUnaligned_v2 cuMemcpy2DAsync_v2 cuMemcpy3D_v2 cuMemcpy3DAsync_v2 cuMemcpyPeer
        cuMemcpyPeerAsync;
    fill: cuMemsetD8_v2 cuMemsetD16_v2 cuMemsetD32_v2 cuMemsetD2D8_v2 cuMemsetD2D16_v2
        cuMemsetD2D32_v2 cuMemsetD8Async cuMemsetD16Async cuMemsetD32Async cuMemsetD2D8Async
        cuMemsetD2D16Async cuMemsetD2D32Async;
    stream: cuStreamCreate cuStreamCreateWithPriority cuStreamDestroy_v2 cuStreamSynchronize
        cuStreamQuery cuStreamWaitEvent cuStreamGetFlags cuStreamGetPriority cuStreamGetId
        cuStreamGetCtx cuStreamGetDevice cuStreamCopyAttributes cuStreamGetAttribute
        cuStreamSetAttribute cuStreamWriteValue32_v2 cuStreamWriteValue64_v2
        cuStreamWaitValue32_v2 cuStreamWaitValue64_v2 cuStreamBatchMemOp_v2 cuLaunchHostFunc
        cuStreamAddCallback;
    event: cuEventCreate cuEventRecord cuEventRecordWithFlags cuEventQuery cuEventSynchronize
        cuEventDestroy_v2 cuEventElapsedTime cuEventElapsedTime_v2;
    capture: cuStreamBeginCapture_v2 cuStreamEndCapture cuStreamIsCapturing
        cuStreamGetCaptureInfo_v2 cuStreamGetCaptureInfo_v3 cuStreamUpdateCaptureDependencies
        cuThreadExchangeStreamCaptureMode;
    module: cuModuleLoadData cuModuleLoadDataEx cuModuleLoadFatBinary cuModuleUnload
        cuModuleGetLoadingMode cuModuleGetFunction cuModuleGetGlobal_v2 cuModuleGetFunctionCount
        cuModuleEnumerateFunctions cuLibraryLoadData cuLibraryUnload cuLibraryGetKernel
        cuLibraryGetModule cuLibraryGetGlobal cuLibraryGetManaged cuLibraryGetKernelCount
        cuLibraryEnumerateKernels cuKernelGetFunction cuKernelGetLibrary cuKernelGetName
        cuFuncGetModule cuFuncIsLoaded cuFuncLoad cuFuncGetName;
    function: cuFuncGetAttribute cuFuncSetAttribute cuFuncSetCacheConfig cuFuncSetSharedMemConfig
        cuFuncGetParamInfo cuKernelGetAttribute cuKernelSetAttribute cuKernelSetCacheConfig
        cuKernelGetParamInfo cuOccupancyMaxActiveBlocksPerMultiprocessor
        cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags cuOccupancyMaxPotentialBlockSize
        cuOccupancyMaxPotentialBlockSizeWithFlags cuOccupancyAvailableDynamicSMemPerBlock;
    link: cuLinkCreate_v2 cuLinkAddData_v2 cuLinkComplete cuLinkDestroy;
    launch: cuLaunchKernel cuLaunchKernelEx;
    graph: cuGraphCreate cuGraphDestroy cuGraphClone cuGraphInstantiateWithFlags
        cuGraphInstantiateWithParams cuGraphInstantiate_v2 cuGraphExecDestroy cuGraphLaunch
        cuGraphUpload cuGraphExecUpdate_v2 cuGraphGetNodes cuGraphGetRootNodes cuGraphGetEdges
        cuGraphNodeGetType cuGraphDestroyNode cuGraphAddEmptyNode cuGraphAddKernelNode_v2
        cuGraphAddMemcpyNode cuGraphAddMemsetNode cuGraphAddHostNode cuGraphAddChildGraphNode
        cuGraphAddDependencies cuGraphExecKernelNodeSetParams_v2 cuGraphKernelNodeGetParams_v2
        cuGraphKernelNodeSetParams_v2;
    graph_params: cuGraphMemcpyNodeSetParams cuGraphMemsetNodeSetParams cuGraphHostNodeSetParams
        cuGraphHostNodeGetParams cuGraphExecMemcpyNodeSetParams cuGraphExecMemsetNodeSetParams
        cuGraphExecHostNodeSetParams cuGraphAddBatchMemOpNode cuGraphBatchMemOpNodeGetParams
        cuGraphBatchMemOpNodeSetParams cuGraphExecBatchMemOpNodeSetParams cuGraphDebugDotPrint
        cuUserObjectCreate cuUserObjectRetain cuUserObjectRelease cuGraphRetainUserObject
        cuGraphReleaseUserObject;
}
