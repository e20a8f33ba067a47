//! The one table of CUDA calls.
//!
//! [`cuda_calls!`](crate::cuda_calls) hands the whole table to a macro of the caller's, which takes from it what it
//! needs. One row per driver function:
//!
//! ```text
//! number  class/where/capture  shim/backend  export @since [| twin @since] (argument: direction type, …);
//! ```
//!
//! | column | values |
//! |---|---|
//! | number | permanent: never reused, never changed (`isolation.md` 9) |
//! | class | `lookup` answered in the guest without device, context, stream, memory or event, so inside a host function too (`semantics.md` 24) · `local` answered in the guest · `post` fire and forget, a closed list (`semantics.md` 9) · `call` needs an answer · `host` names a path, a descriptor or host memory: the guest reads its own files and sends bytes, and what names an object for other processes travels as a token of the daemon's (`isolation.md` 15) |
//! | where | who executes it in the worker: `issuer` (cannot block), `lane` (may block: the caller's own worker thread, `semantics.md` 1), `guest` (nobody) |
//! | capture | `unsafe` if prohibited while a stream capture is active, by the capture mode's rules (`semantics.md` 2) |
//! | shim, backend | `auto` generated from this row; `hand` a function of the same name; `none` nothing to do on that side |
//! | since | the CUDA version in which this very ABI appeared: `cuGetProcAddress` answers follow from it |
//! | twin | the `_ptsz`/`_ptds` export: the same call with the per-thread default stream |
//!
//! | direction | C parameter | meaning |
//! |---|---|---|
//! | `val T` | `T` | by value |
//! | `out T` | `T *` | result; null is `INVALID_VALUE` |
//! | `opt T` | `T *` | result; may be null |
//! | `new T` | `T *` | result: a handle, entered into the worker's live set |
//! | `live T` | `T` | a handle that must be live (`semantics.md` 19) |
//! | `end T` | `T` | a live handle that the call destroys |
//! | `dev CUdevice` | `CUdevice` | a device ordinal, translated by the shim to the host's numbering |
//! | `stream CUstream` | `CUstream` | a live stream or one of the special values |
//! | `src T` | `const T *` | a struct read by the call |
//! | `raw T` | `T` | left to the hand-written bodies; not on the wire |
//!
//! [`cuda_aliases!`](crate::cuda_aliases) lists old names with an unchanged ABI; [`cuda_stubs!`](crate::cuda_stubs) all other symbols the
//! 580-series driver exports: they return `CUDA_ERROR_NOT_SUPPORTED` and are named in the log.

/// Calls `$callback!` with every row of the table; see the [module documentation](self).
#[macro_export]
macro_rules! cuda_calls {
    ($callback:ident) => { $callback! {
        // Initialisation and devices.
        1 lookup/guest/safe hand/none cuInit @2000 (flags: val u32);
        2 lookup/guest/safe hand/none cuDriverGetVersion @2020 (version: out i32);
        3 lookup/guest/safe hand/none cuGetErrorName @6000 (error: val CUresult, text: out *const c_char);
        4 lookup/guest/safe hand/none cuGetErrorString @6000 (error: val CUresult, text: out *const c_char);
        5 lookup/guest/safe hand/none cuGetProcAddress @11030 (symbol: raw *const c_char, pfn: raw *mut *const c_void, version: val i32, flags: val u64);
        6 lookup/guest/safe hand/none cuGetProcAddress_v2 @12000 (symbol: raw *const c_char, pfn: raw *mut *const c_void, version: val i32, flags: val u64, status: raw *mut u32);
        7 lookup/guest/safe hand/none cuGetExportTable @3000 (table: raw *mut *const c_void, id: raw *const CUuuid);
        8 local/guest/safe hand/none cuDeviceGetCount @2000 (count: out i32);
        9 local/guest/safe hand/none cuDeviceGet @2000 (device: out CUdevice, ordinal: val i32);
        10 local/guest/safe hand/none cuDeviceGetName @2000 (name: raw *mut c_char, len: val i32, dev: dev CUdevice);
        11 local/guest/safe hand/none cuDeviceTotalMem_v2 @3020 (bytes: out usize, dev: dev CUdevice);
        12 local/guest/safe hand/none cuDeviceGetAttribute @2000 (value: out i32, attribute: val i32, dev: dev CUdevice);
        13 local/guest/safe hand/none cuDeviceGetUuid @9020 (uuid: out CUuuid, dev: dev CUdevice);
        14 local/guest/safe hand/none cuDeviceGetUuid_v2 @11040 (uuid: out CUuuid, dev: dev CUdevice);
        15 local/guest/safe hand/none cuDeviceGetLuid @10000 (luid: raw *mut c_char, mask: raw *mut u32, dev: dev CUdevice);
        16 local/guest/safe hand/none cuDeviceGetPCIBusId @4010 (text: raw *mut c_char, len: val i32, dev: dev CUdevice);
        17 local/guest/safe hand/none cuDeviceGetByPCIBusId @4010 (dev: out CUdevice, text: raw *const c_char);
        18 local/guest/safe hand/none cuDeviceComputeCapability @2000 (major: out i32, minor: out i32, dev: dev CUdevice);
        19 local/guest/safe hand/none cuDeviceGetProperties @2000 (prop: out CUdevprop, dev: dev CUdevice);
        20 call/issuer/safe auto/auto cuDeviceCanAccessPeer @4000 (can: out i32, dev: dev CUdevice, peer: dev CUdevice);
        21 call/issuer/safe auto/auto cuDeviceGetP2PAttribute @8000 (value: out i32, attribute: val i32, src: dev CUdevice, dst: dev CUdevice);
        22 call/issuer/safe auto/auto cuDeviceGetDefaultMemPool @11020 (pool: new CUmemoryPool, dev: dev CUdevice);
        23 call/issuer/safe auto/auto cuDeviceGetMemPool @11020 (pool: new CUmemoryPool, dev: dev CUdevice);
        24 call/issuer/safe auto/auto cuDeviceSetMemPool @11020 (dev: dev CUdevice, pool: live CUmemoryPool);
        25 call/issuer/safe auto/auto cuDeviceGetTexture1DLinearMaxWidth @11010 (width: out usize, format: val u32, channels: val u32, dev: dev CUdevice);
        26 call/issuer/safe auto/auto cuDeviceGetExecAffinitySupport @11040 (value: out i32, kind: val u32, dev: dev CUdevice);
        // Contexts.
        27 call/lane/safe hand/hand cuDevicePrimaryCtxRetain @7000 (ctx: new CUcontext, dev: dev CUdevice);
        28 call/lane/safe hand/hand cuDevicePrimaryCtxRelease_v2 @11000 (dev: dev CUdevice);
        29 call/lane/safe hand/hand cuDevicePrimaryCtxReset_v2 @11000 (dev: dev CUdevice);
        30 call/lane/safe hand/auto cuDevicePrimaryCtxSetFlags_v2 @11000 (dev: dev CUdevice, flags: val u32);
        31 call/issuer/safe auto/auto cuDevicePrimaryCtxGetState @7000 (dev: dev CUdevice, flags: out u32, active: out i32);
        32 call/lane/safe hand/hand cuCtxCreate_v2 @3020 (ctx: new CUcontext, flags: val u32, dev: dev CUdevice);
        33 local/guest/safe hand/none cuCtxCreate_v3 @11040 (ctx: raw *mut CUcontext, affinity: raw *mut c_void, count: val i32, flags: val u32, dev: dev CUdevice);
        34 local/guest/safe hand/none cuCtxCreate_v4 @12050 (ctx: raw *mut CUcontext, params: raw *mut c_void, flags: val u32, dev: dev CUdevice);
        35 call/lane/safe hand/hand cuCtxDestroy_v2 @4000 (ctx: end CUcontext);
        36 local/guest/safe hand/none cuCtxGetCurrent @4000 (ctx: out CUcontext);
        37 local/guest/safe hand/none cuCtxSetCurrent @4000 (ctx: raw CUcontext);
        38 local/guest/safe hand/none cuCtxPushCurrent_v2 @4000 (ctx: raw CUcontext);
        39 local/guest/safe hand/none cuCtxPopCurrent_v2 @4000 (ctx: raw *mut CUcontext);
        40 local/guest/safe hand/none cuCtxGetDevice @2000 (dev: out CUdevice);
        41 local/guest/safe hand/none cuCtxGetDevice_v2 @13000 (dev: out CUdevice, ctx: raw CUcontext);
        42 local/guest/safe hand/none cuCtxGetApiVersion @3020 (ctx: raw CUcontext, version: out u32);
        43 call/issuer/safe hand/auto cuCtxGetFlags @7000 (flags: out u32);
        44 call/issuer/safe auto/auto cuCtxSetFlags @12010 (flags: val u32);
        45 call/issuer/safe hand/auto cuCtxGetId @12000 (ctx: live CUcontext, id: out u64);
        46 call/issuer/safe auto/auto cuCtxGetLimit @3010 (value: out usize, limit: val u32);
        47 call/lane/safe hand/auto cuCtxSetLimit @3010 (limit: val u32, value: val usize);
        48 call/issuer/safe auto/auto cuCtxGetCacheConfig @3020 (config: out u32);
        49 call/issuer/safe auto/auto cuCtxSetCacheConfig @3020 (config: val u32);
        50 call/issuer/safe auto/auto cuCtxGetSharedMemConfig @4020 (config: out u32);
        51 call/issuer/safe auto/auto cuCtxSetSharedMemConfig @4020 (config: val u32);
        52 call/issuer/safe hand/auto cuCtxGetStreamPriorityRange @5050 (least: opt i32, greatest: opt i32);
        53 call/issuer/safe auto/auto cuCtxResetPersistingL2Cache @11000 ();
        54 call/lane/unsafe hand/auto cuCtxSynchronize @2000 ();
        55 local/guest/unsafe hand/none cuCtxSynchronize_v2 @13000 (ctx: raw CUcontext);
        56 call/issuer/safe auto/auto cuCtxEnablePeerAccess @4000 (peer: live CUcontext, flags: val u32);
        57 call/issuer/safe auto/auto cuCtxDisablePeerAccess @4000 (peer: live CUcontext);
        // Modules, libraries, functions.
        58 host/guest/safe hand/none cuModuleLoad @2000 (module: raw *mut CUmodule, path: raw *const c_char);
        59 call/lane/safe hand/hand cuModuleLoadData @2000 (module: new CUmodule, image: raw *const c_void);
        60 call/lane/safe hand/hand cuModuleLoadDataEx @2010 (module: new CUmodule, image: raw *const c_void, count: val u32, options: raw *mut u32, values: raw *mut *mut c_void);
        61 local/guest/safe hand/none cuModuleLoadFatBinary @2000 (module: raw *mut CUmodule, image: raw *const c_void);
        62 call/lane/unsafe hand/hand cuModuleUnload @2000 (module: end CUmodule);
        63 lookup/guest/safe hand/none cuModuleGetLoadingMode @11070 (mode: out u32);
        64 call/lane/safe hand/hand cuModuleGetFunction @2000 (function: new CUfunction, module: live CUmodule, name: raw *const c_char);
        65 call/lane/safe hand/hand cuModuleGetGlobal_v2 @3020 (dptr: raw *mut CUdeviceptr, bytes: raw *mut usize, module: live CUmodule, name: raw *const c_char);
        66 call/issuer/safe auto/auto cuModuleGetFunctionCount @12040 (count: out u32, module: live CUmodule);
        67 call/lane/safe hand/hand cuModuleEnumerateFunctions @12040 (functions: raw *mut CUfunction, count: val u32, module: live CUmodule);
        68 call/lane/safe hand/hand cuLibraryLoadData @12000 (library: new CUlibrary, code: raw *const c_void, jit_options: raw *mut u32, jit_values: raw *mut *mut c_void, jit_count: val u32, options: raw *mut u32, values: raw *mut *mut c_void, count: val u32);
        69 host/guest/safe hand/none cuLibraryLoadFromFile @12000 (library: raw *mut CUlibrary, path: raw *const c_char, jit_options: raw *mut u32, jit_values: raw *mut *mut c_void, jit_count: val u32, options: raw *mut u32, values: raw *mut *mut c_void, count: val u32);
        70 call/lane/unsafe hand/hand cuLibraryUnload @12000 (library: end CUlibrary);
        71 call/lane/safe hand/hand cuLibraryGetKernel @12000 (kernel: new CUkernel, library: live CUlibrary, name: raw *const c_char);
        72 call/lane/safe auto/auto cuLibraryGetModule @12000 (module: new CUmodule, library: live CUlibrary);
        73 call/lane/safe hand/hand cuLibraryGetGlobal @12000 (dptr: raw *mut CUdeviceptr, bytes: raw *mut usize, library: live CUlibrary, name: raw *const c_char);
        74 call/lane/safe hand/hand cuLibraryGetManaged @12000 (dptr: raw *mut CUdeviceptr, bytes: raw *mut usize, library: live CUlibrary, name: raw *const c_char);
        75 call/issuer/safe auto/auto cuLibraryGetKernelCount @12040 (count: out u32, library: live CUlibrary);
        76 call/lane/safe hand/hand cuLibraryEnumerateKernels @12040 (kernels: raw *mut CUkernel, count: val u32, library: live CUlibrary);
        77 call/lane/safe hand/hand cuKernelGetFunction @12000 (function: new CUfunction, kernel: live CUkernel);
        78 call/issuer/safe auto/auto cuKernelGetLibrary @12050 (library: new CUlibrary, kernel: live CUkernel);
        79 call/lane/safe hand/auto cuKernelGetAttribute @12000 (value: out i32, attribute: val i32, kernel: live CUkernel, dev: dev CUdevice);
        80 call/lane/safe hand/auto cuKernelSetAttribute @12000 (attribute: val i32, value: val i32, kernel: live CUkernel, dev: dev CUdevice);
        81 call/lane/safe hand/auto cuKernelSetCacheConfig @12000 (kernel: live CUkernel, config: val u32, dev: dev CUdevice);
        82 local/guest/safe hand/none cuKernelGetName @12030 (name: out *const c_char, kernel: raw CUkernel);
        83 local/guest/safe hand/none cuKernelGetParamInfo @12040 (kernel: raw CUkernel, index: val usize, offset: out usize, size: opt usize);
        84 local/guest/safe hand/none cuFuncGetParamInfo @12040 (function: raw CUfunction, index: val usize, offset: out usize, size: opt usize);
        85 call/lane/safe hand/auto cuFuncGetAttribute @2020 (value: out i32, attribute: val i32, function: live CUfunction);
        86 call/lane/safe hand/auto cuFuncSetAttribute @9000 (function: live CUfunction, attribute: val i32, value: val i32);
        87 call/lane/safe hand/auto cuFuncSetCacheConfig @3000 (function: live CUfunction, config: val u32);
        88 call/lane/safe hand/auto cuFuncSetSharedMemConfig @4020 (function: live CUfunction, config: val u32);
        89 call/issuer/safe auto/auto cuFuncGetModule @11000 (module: new CUmodule, function: live CUfunction);
        90 local/guest/safe hand/none cuFuncGetName @12030 (name: out *const c_char, function: raw CUfunction);
        91 call/issuer/safe auto/auto cuFuncIsLoaded @12040 (state: out u32, function: live CUfunction);
        92 call/lane/safe auto/auto cuFuncLoad @12040 (function: live CUfunction);
        93 call/lane/safe hand/hand cuLinkCreate_v2 @6050 (count: val u32, options: raw *mut u32, values: raw *mut *mut c_void, state: raw *mut CUlinkState);
        94 call/lane/safe hand/hand cuLinkAddData_v2 @6050 (state: raw CUlinkState, kind: val u32, data: raw *mut c_void, size: val usize, name: raw *const c_char, count: val u32, options: raw *mut u32, values: raw *mut *mut c_void);
        95 host/guest/safe hand/none cuLinkAddFile_v2 @6050 (state: raw CUlinkState, kind: val u32, path: raw *const c_char, count: val u32, options: raw *mut u32, values: raw *mut *mut c_void);
        96 call/lane/safe hand/hand cuLinkComplete @5050 (state: raw CUlinkState, cubin: raw *mut *mut c_void, size: raw *mut usize);
        97 call/lane/safe hand/hand cuLinkDestroy @5050 (state: raw CUlinkState);
        // Occupancy.
        98 call/lane/safe hand/hand cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags @7000 (blocks: out i32, function: raw CUfunction, block_size: val i32, dynamic_shared: val usize, flags: val u32);
        99 local/guest/safe hand/none cuOccupancyMaxActiveBlocksPerMultiprocessor @6050 (blocks: out i32, function: raw CUfunction, block_size: val i32, dynamic_shared: val usize);
        100 local/guest/safe hand/none cuOccupancyMaxPotentialBlockSize @6050 (min_grid: out i32, block: out i32, function: raw CUfunction, shared_of_block: raw CUoccupancyB2DSize, dynamic_shared: val usize, limit: val i32);
        101 local/guest/safe hand/none cuOccupancyMaxPotentialBlockSizeWithFlags @7000 (min_grid: out i32, block: out i32, function: raw CUfunction, shared_of_block: raw CUoccupancyB2DSize, dynamic_shared: val usize, limit: val i32, flags: val u32);
        102 call/lane/safe hand/hand cuOccupancyAvailableDynamicSMemPerBlock @10020 (bytes: out usize, function: raw CUfunction, blocks: val i32, block_size: val i32);
        103 call/lane/safe hand/hand cuOccupancyMaxActiveClusters @11070 (clusters: out i32, function: raw CUfunction, config: raw *const CUlaunchConfig);
        104 call/lane/safe hand/hand cuOccupancyMaxPotentialClusterSize @11070 (size: out i32, function: raw CUfunction, config: raw *const CUlaunchConfig);
        // Launches.
        105 post/issuer/safe hand/hand cuLaunchKernel @4000 | cuLaunchKernel_ptsz @7000 (function: raw CUfunction, grid_x: val u32, grid_y: val u32, grid_z: val u32, block_x: val u32, block_y: val u32, block_z: val u32, dynamic_shared: val u32, stream: stream CUstream, params: raw *mut *mut c_void, extra: raw *mut *mut c_void);
        106 post/issuer/safe hand/hand cuLaunchKernelEx @11060 | cuLaunchKernelEx_ptsz @11060 (config: raw *const CUlaunchConfig, function: raw CUfunction, params: raw *mut *mut c_void, extra: raw *mut *mut c_void);
        107 call/lane/safe hand/hand cuLaunchCooperativeKernel @9000 | cuLaunchCooperativeKernel_ptsz @9000 (function: raw CUfunction, grid_x: val u32, grid_y: val u32, grid_z: val u32, block_x: val u32, block_y: val u32, block_z: val u32, dynamic_shared: val u32, stream: stream CUstream, params: raw *mut *mut c_void);
        108 call/issuer/safe hand/hand cuLaunchHostFunc @10000 | cuLaunchHostFunc_ptsz @10000 (stream: stream CUstream, function: raw CUhostFn, user: raw *mut c_void);
        109 call/issuer/safe hand/hand cuStreamAddCallback @5000 | cuStreamAddCallback_ptsz @7000 (stream: stream CUstream, callback: raw CUstreamCallback, user: raw *mut c_void, flags: val u32);
        // Memory.
        110 call/lane/unsafe hand/hand cuMemAlloc_v2 @3020 (dptr: out CUdeviceptr, bytes: val usize);
        111 call/lane/unsafe hand/hand cuMemAllocPitch_v2 @3020 (dptr: out CUdeviceptr, pitch: out usize, width: val usize, height: val usize, element: val u32);
        112 call/lane/unsafe hand/hand cuMemFree_v2 @3020 (dptr: val CUdeviceptr);
        113 call/lane/safe auto/hand cuMemGetInfo_v2 @3020 (free: out usize, total: out usize);
        114 call/issuer/safe hand/auto cuMemGetAddressRange_v2 @3020 (base: opt CUdeviceptr, size: opt usize, dptr: val CUdeviceptr);
        115 local/guest/unsafe hand/none cuMemAllocHost_v2 @3020 (pointer: raw *mut *mut c_void, bytes: val usize);
        116 local/guest/unsafe hand/none cuMemHostAlloc @2020 (pointer: raw *mut *mut c_void, bytes: val usize, flags: val u32);
        117 local/guest/unsafe hand/none cuMemFreeHost @2000 (pointer: raw *mut c_void);
        118 call/lane/unsafe hand/hand cuMemHostRegister_v2 @6050 (pointer: raw *mut c_void, bytes: val usize, flags: val u32);
        119 call/lane/unsafe hand/hand cuMemHostUnregister @4000 (pointer: raw *mut c_void);
        120 local/guest/safe hand/none cuMemHostGetDevicePointer_v2 @3020 (dptr: out CUdeviceptr, pointer: raw *mut c_void, flags: val u32);
        121 local/guest/safe hand/none cuMemHostGetFlags @2030 (flags: out u32, pointer: raw *mut c_void);
        122 local/guest/unsafe hand/none cuMemAllocManaged @6000 (dptr: out CUdeviceptr, bytes: val usize, flags: val u32);
        123 local/guest/safe hand/none cuPointerGetAttribute @4000 (data: raw *mut c_void, attribute: val u32, ptr: val CUdeviceptr);
        124 local/guest/safe hand/none cuPointerGetAttributes @7000 (count: val u32, attributes: raw *mut u32, data: raw *mut *mut c_void, ptr: val CUdeviceptr);
        // Memory pools.
        125 call/lane/unsafe hand/hand cuMemAllocAsync @11020 | cuMemAllocAsync_ptsz @11020 (dptr: out CUdeviceptr, bytes: val usize, stream: stream CUstream);
        126 call/lane/unsafe hand/hand cuMemAllocFromPoolAsync @11020 | cuMemAllocFromPoolAsync_ptsz @11020 (dptr: out CUdeviceptr, bytes: val usize, pool: live CUmemoryPool, stream: stream CUstream);
        127 post/issuer/safe hand/hand cuMemFreeAsync @11020 | cuMemFreeAsync_ptsz @11020 (dptr: val CUdeviceptr, stream: stream CUstream);
        128 call/lane/unsafe hand/hand cuMemPoolCreate @11020 (pool: new CUmemoryPool, props: raw *const CUmemPoolProps);
        129 call/lane/unsafe auto/auto cuMemPoolDestroy @11020 (pool: end CUmemoryPool);
        130 call/lane/unsafe auto/auto cuMemPoolTrimTo @11020 (pool: live CUmemoryPool, keep: val usize);
        131 call/issuer/safe hand/hand cuMemPoolGetAttribute @11020 (pool: live CUmemoryPool, attribute: val u32, value: raw *mut c_void);
        132 call/issuer/safe hand/hand cuMemPoolSetAttribute @11020 (pool: live CUmemoryPool, attribute: val u32, value: raw *mut c_void);
        133 call/issuer/safe hand/hand cuMemPoolSetAccess @11020 (pool: live CUmemoryPool, map: raw *const CUmemAccessDesc, count: val usize);
        134 call/issuer/safe hand/hand cuMemPoolGetAccess @11020 (flags: out u32, pool: live CUmemoryPool, location: raw *mut CUmemLocation);
        // Virtual memory.
        135 call/lane/unsafe hand/auto cuMemAddressReserve @10020 (ptr: out CUdeviceptr, size: val usize, alignment: val usize, addr: val CUdeviceptr, flags: val u64);
        136 call/lane/unsafe hand/auto cuMemAddressFree @10020 (ptr: val CUdeviceptr, size: val usize);
        137 call/lane/unsafe hand/hand cuMemCreate @10020 (handle: out u64, size: val usize, prop: src CUmemAllocationProp, flags: val u64);
        138 call/lane/unsafe hand/hand cuMemRelease @10020 (handle: val u64);
        139 call/lane/unsafe hand/auto cuMemMap @10020 (ptr: val CUdeviceptr, size: val usize, offset: val usize, handle: val u64, flags: val u64);
        140 call/lane/unsafe auto/auto cuMemUnmap @10020 (ptr: val CUdeviceptr, size: val usize);
        141 call/lane/unsafe hand/hand cuMemSetAccess @10020 (ptr: val CUdeviceptr, size: val usize, desc: raw *const CUmemAccessDesc, count: val usize);
        142 call/issuer/safe auto/auto cuMemGetAllocationGranularity @10020 (granularity: out usize, prop: src CUmemAllocationProp, option: val u32);
        // Interprocess sharing: what the program calls a handle is a token of the daemon's (`isolation.md` 15).
        400 host/lane/safe hand/hand cuIpcGetMemHandle @4010 (handle: raw *mut CUipcMemHandle, dptr: val CUdeviceptr);
        401 host/lane/unsafe hand/hand cuIpcOpenMemHandle_v2 @11000 (dptr: raw *mut CUdeviceptr, handle: raw CUipcMemHandle, flags: val u32);
        402 host/lane/unsafe hand/hand cuIpcCloseMemHandle @4010 (dptr: val CUdeviceptr);
        403 host/lane/safe hand/hand cuIpcGetEventHandle @4010 (handle: raw *mut CUipcEventHandle, event: live CUevent);
        404 host/lane/safe hand/hand cuIpcOpenEventHandle @4010 (event: raw *mut CUevent, handle: raw CUipcEventHandle);
        405 host/guest/unsafe hand/none cuIpcOpenMemHandle @4010 (dptr: raw *mut CUdeviceptr, handle: raw CUipcMemHandle, flags: val u32);
        // Copies.
        143 post/issuer/unsafe hand/none cuMemcpy @4000 | cuMemcpy_ptds @7000 (dst: val CUdeviceptr, src: val CUdeviceptr, bytes: val usize);
        144 post/issuer/safe hand/none cuMemcpyAsync @4000 | cuMemcpyAsync_ptsz @7000 (dst: val CUdeviceptr, src: val CUdeviceptr, bytes: val usize, stream: stream CUstream);
        145 post/issuer/unsafe hand/none cuMemcpyHtoD_v2 @3020 | cuMemcpyHtoD_v2_ptds @7000 (dst: val CUdeviceptr, src: raw *const c_void, bytes: val usize);
        146 post/issuer/safe hand/hand cuMemcpyHtoDAsync_v2 @3020 | cuMemcpyHtoDAsync_v2_ptsz @7000 (dst: val CUdeviceptr, src: raw *const c_void, bytes: val usize, stream: stream CUstream);
        147 call/lane/unsafe hand/none cuMemcpyDtoH_v2 @3020 | cuMemcpyDtoH_v2_ptds @7000 (dst: raw *mut c_void, src: val CUdeviceptr, bytes: val usize);
        148 post/issuer/safe hand/hand cuMemcpyDtoHAsync_v2 @3020 | cuMemcpyDtoHAsync_v2_ptsz @7000 (dst: raw *mut c_void, src: val CUdeviceptr, bytes: val usize, stream: stream CUstream);
        149 post/issuer/unsafe hand/none cuMemcpyDtoD_v2 @3020 | cuMemcpyDtoD_v2_ptds @7000 (dst: val CUdeviceptr, src: val CUdeviceptr, bytes: val usize);
        150 post/issuer/safe hand/auto cuMemcpyDtoDAsync_v2 @3020 | cuMemcpyDtoDAsync_v2_ptsz @7000 (dst: val CUdeviceptr, src: val CUdeviceptr, bytes: val usize, stream: stream CUstream);
        151 call/lane/unsafe hand/none cuMemcpy2D_v2 @3020 | cuMemcpy2D_v2_ptds @7000 (copy: raw *const CUDA_MEMCPY2D);
        152 call/lane/unsafe hand/none cuMemcpy2DUnaligned_v2 @3020 | cuMemcpy2DUnaligned_v2_ptds @7000 (copy: raw *const CUDA_MEMCPY2D);
        153 call/issuer/safe hand/none cuMemcpy2DAsync_v2 @3020 | cuMemcpy2DAsync_v2_ptsz @7000 (copy: raw *const CUDA_MEMCPY2D, stream: stream CUstream);
        154 call/lane/unsafe hand/none cuMemcpy3D_v2 @3020 | cuMemcpy3D_v2_ptds @7000 (copy: raw *const CUDA_MEMCPY3D);
        155 post/issuer/safe hand/hand cuMemcpy3DAsync_v2 @3020 | cuMemcpy3DAsync_v2_ptsz @7000 (copy: raw *const CUDA_MEMCPY3D, stream: stream CUstream);
        156 post/issuer/unsafe hand/none cuMemcpyPeer @4000 | cuMemcpyPeer_ptds @7000 (dst: val CUdeviceptr, dst_ctx: raw CUcontext, src: val CUdeviceptr, src_ctx: raw CUcontext, bytes: val usize);
        157 post/issuer/safe hand/auto cuMemcpyPeerAsync @4000 | cuMemcpyPeerAsync_ptsz @7000 (dst: val CUdeviceptr, dst_ctx: live CUcontext, src: val CUdeviceptr, src_ctx: live CUcontext, bytes: val usize, stream: stream CUstream);
        // Fills.
        158 post/issuer/unsafe hand/none cuMemsetD8_v2 @3020 | cuMemsetD8_v2_ptds @7000 (dst: val CUdeviceptr, value: val u8, count: val usize);
        159 post/issuer/unsafe hand/none cuMemsetD16_v2 @3020 | cuMemsetD16_v2_ptds @7000 (dst: val CUdeviceptr, value: val u16, count: val usize);
        160 post/issuer/unsafe hand/none cuMemsetD32_v2 @3020 | cuMemsetD32_v2_ptds @7000 (dst: val CUdeviceptr, value: val u32, count: val usize);
        161 post/issuer/unsafe hand/none cuMemsetD2D8_v2 @3020 | cuMemsetD2D8_v2_ptds @7000 (dst: val CUdeviceptr, pitch: val usize, value: val u8, width: val usize, height: val usize);
        162 post/issuer/unsafe hand/none cuMemsetD2D16_v2 @3020 | cuMemsetD2D16_v2_ptds @7000 (dst: val CUdeviceptr, pitch: val usize, value: val u16, width: val usize, height: val usize);
        163 post/issuer/unsafe hand/none cuMemsetD2D32_v2 @3020 | cuMemsetD2D32_v2_ptds @7000 (dst: val CUdeviceptr, pitch: val usize, value: val u32, width: val usize, height: val usize);
        164 post/issuer/safe hand/auto cuMemsetD8Async @3020 | cuMemsetD8Async_ptsz @7000 (dst: val CUdeviceptr, value: val u8, count: val usize, stream: stream CUstream);
        165 post/issuer/safe hand/auto cuMemsetD16Async @3020 | cuMemsetD16Async_ptsz @7000 (dst: val CUdeviceptr, value: val u16, count: val usize, stream: stream CUstream);
        166 post/issuer/safe hand/auto cuMemsetD32Async @3020 | cuMemsetD32Async_ptsz @7000 (dst: val CUdeviceptr, value: val u32, count: val usize, stream: stream CUstream);
        167 post/issuer/safe hand/auto cuMemsetD2D8Async @3020 | cuMemsetD2D8Async_ptsz @7000 (dst: val CUdeviceptr, pitch: val usize, value: val u8, width: val usize, height: val usize, stream: stream CUstream);
        168 post/issuer/safe hand/auto cuMemsetD2D16Async @3020 | cuMemsetD2D16Async_ptsz @7000 (dst: val CUdeviceptr, pitch: val usize, value: val u16, width: val usize, height: val usize, stream: stream CUstream);
        169 post/issuer/safe hand/auto cuMemsetD2D32Async @3020 | cuMemsetD2D32Async_ptsz @7000 (dst: val CUdeviceptr, pitch: val usize, value: val u32, width: val usize, height: val usize, stream: stream CUstream);
        // Streams.
        170 call/lane/safe hand/hand cuStreamCreate @2000 (stream: new CUstream, flags: val u32);
        171 call/lane/safe hand/hand cuStreamCreateWithPriority @5050 (stream: new CUstream, flags: val u32, priority: val i32);
        172 call/lane/safe hand/auto cuStreamDestroy_v2 @4000 (stream: end CUstream);
        173 call/lane/unsafe hand/auto cuStreamSynchronize @2000 | cuStreamSynchronize_ptsz @7000 (stream: stream CUstream);
        174 call/issuer/unsafe hand/auto cuStreamQuery @2000 | cuStreamQuery_ptsz @7000 (stream: stream CUstream);
        175 post/issuer/safe hand/auto cuStreamWaitEvent @3020 | cuStreamWaitEvent_ptsz @7000 (stream: stream CUstream, event: live CUevent, flags: val u32);
        176 local/guest/safe hand/none cuStreamGetFlags @5050 | cuStreamGetFlags_ptsz @7000 (stream: stream CUstream, flags: out u32);
        177 call/issuer/safe auto/auto cuStreamGetPriority @5050 | cuStreamGetPriority_ptsz @7000 (stream: stream CUstream, priority: out i32);
        178 call/issuer/safe hand/auto cuStreamGetId @12000 | cuStreamGetId_ptsz @12000 (stream: stream CUstream, id: out u64);
        179 local/guest/safe hand/none cuStreamGetCtx @9020 | cuStreamGetCtx_ptsz @9020 (stream: stream CUstream, ctx: out CUcontext);
        180 local/guest/safe hand/none cuStreamGetDevice @12080 | cuStreamGetDevice_ptsz @12080 (stream: stream CUstream, dev: out CUdevice);
        181 call/issuer/safe auto/auto cuStreamCopyAttributes @11000 | cuStreamCopyAttributes_ptsz @11000 (dst: stream CUstream, src: stream CUstream);
        182 call/issuer/safe hand/hand cuStreamGetAttribute @11000 | cuStreamGetAttribute_ptsz @11000 (stream: stream CUstream, attribute: val u32, value: raw *mut CUlaunchAttributeValue);
        183 call/issuer/safe hand/hand cuStreamSetAttribute @11000 | cuStreamSetAttribute_ptsz @11000 (stream: stream CUstream, attribute: val u32, value: raw *const CUlaunchAttributeValue);
        184 local/guest/safe hand/none cuStreamAttachMemAsync @6000 | cuStreamAttachMemAsync_ptsz @7000 (stream: stream CUstream, dptr: val CUdeviceptr, bytes: val usize, flags: val u32);
        185 post/issuer/safe hand/auto cuStreamWriteValue32_v2 @11070 | cuStreamWriteValue32_v2_ptsz @11070 (stream: stream CUstream, addr: val CUdeviceptr, value: val u32, flags: val u32);
        186 post/issuer/safe hand/auto cuStreamWriteValue64_v2 @11070 | cuStreamWriteValue64_v2_ptsz @11070 (stream: stream CUstream, addr: val CUdeviceptr, value: val u64, flags: val u32);
        187 post/issuer/safe hand/auto cuStreamWaitValue32_v2 @11070 | cuStreamWaitValue32_v2_ptsz @11070 (stream: stream CUstream, addr: val CUdeviceptr, value: val u32, flags: val u32);
        188 post/issuer/safe hand/auto cuStreamWaitValue64_v2 @11070 | cuStreamWaitValue64_v2_ptsz @11070 (stream: stream CUstream, addr: val CUdeviceptr, value: val u64, flags: val u32);
        // Events.
        189 call/issuer/safe hand/auto cuEventCreate @2000 (event: new CUevent, flags: val u32);
        190 post/issuer/safe hand/auto cuEventRecord @2000 | cuEventRecord_ptsz @7000 (event: live CUevent, stream: stream CUstream);
        191 post/issuer/safe hand/auto cuEventRecordWithFlags @11010 | cuEventRecordWithFlags_ptsz @11010 (event: live CUevent, stream: stream CUstream, flags: val u32);
        192 call/issuer/unsafe hand/auto cuEventQuery @2000 (event: live CUevent);
        193 call/lane/unsafe hand/auto cuEventSynchronize @2000 (event: live CUevent);
        194 post/issuer/safe hand/auto cuEventDestroy_v2 @4000 (event: end CUevent);
        195 call/issuer/safe auto/auto cuEventElapsedTime @2000 (ms: out f32, start: live CUevent, end: live CUevent);
        196 call/issuer/safe auto/auto cuEventElapsedTime_v2 @12080 (ms: out f32, start: live CUevent, end: live CUevent);
        // Capture.
        197 call/issuer/safe hand/hand cuStreamBeginCapture_v2 @10010 | cuStreamBeginCapture_v2_ptsz @10010 (stream: stream CUstream, mode: val u32);
        198 call/issuer/safe hand/hand cuStreamEndCapture @10000 | cuStreamEndCapture_ptsz @10000 (stream: stream CUstream, graph: new CUgraph);
        199 call/issuer/safe hand/auto cuStreamIsCapturing @10000 | cuStreamIsCapturing_ptsz @10000 (stream: stream CUstream, status: out u32);
        200 call/issuer/safe hand/hand cuStreamGetCaptureInfo_v2 @11030 | cuStreamGetCaptureInfo_v2_ptsz @11030 (stream: stream CUstream, status: out u32, id: opt u64, graph: opt CUgraph, dependencies: raw *mut *const CUgraphNode, count: opt usize);
        201 local/guest/safe hand/none cuStreamGetCaptureInfo_v3 @12030 | cuStreamGetCaptureInfo_v3_ptsz @12030 (stream: stream CUstream, status: out u32, id: opt u64, graph: opt CUgraph, dependencies: raw *mut *const CUgraphNode, edges: raw *mut *const CUgraphEdgeData, count: opt usize);
        202 local/guest/safe hand/none cuThreadExchangeStreamCaptureMode @10010 (mode: raw *mut u32);
        // Graphs.
        203 call/issuer/safe auto/auto cuGraphCreate @10000 (graph: new CUgraph, flags: val u32);
        204 call/lane/safe hand/hand cuGraphDestroy @10000 (graph: end CUgraph);
        205 call/lane/safe auto/auto cuGraphClone @10000 (clone: new CUgraph, graph: live CUgraph);
        206 call/lane/unsafe hand/auto cuGraphInstantiateWithFlags @11040 (exec: new CUgraphExec, graph: live CUgraph, flags: val u64);
        207 call/lane/unsafe hand/hand cuGraphInstantiateWithParams @12000 | cuGraphInstantiateWithParams_ptsz @12000 (exec: new CUgraphExec, graph: live CUgraph, params: raw *mut CUDA_GRAPH_INSTANTIATE_PARAMS);
        208 local/guest/unsafe hand/none cuGraphInstantiate_v2 @11000 (exec: raw *mut CUgraphExec, graph: raw CUgraph, error_node: raw *mut CUgraphNode, log: raw *mut c_char, log_size: val usize);
        209 call/lane/safe hand/hand cuGraphExecDestroy @10000 (exec: end CUgraphExec);
        210 post/issuer/safe hand/auto cuGraphLaunch @10000 | cuGraphLaunch_ptsz @10000 (exec: live CUgraphExec, stream: stream CUstream);
        211 call/lane/safe auto/auto cuGraphUpload @11010 | cuGraphUpload_ptsz @11010 (exec: live CUgraphExec, stream: stream CUstream);
        212 call/lane/unsafe hand/hand cuGraphExecUpdate_v2 @12000 (exec: live CUgraphExec, graph: live CUgraph, result: raw *mut CUgraphExecUpdateResultInfo);
        213 call/lane/safe hand/hand cuGraphGetNodes @10000 (graph: live CUgraph, nodes: raw *mut CUgraphNode, count: raw *mut usize);
        214 call/lane/safe hand/hand cuGraphGetRootNodes @10000 (graph: live CUgraph, nodes: raw *mut CUgraphNode, count: raw *mut usize);
        215 call/lane/safe hand/hand cuGraphGetEdges @10000 (graph: live CUgraph, from: raw *mut CUgraphNode, to: raw *mut CUgraphNode, count: raw *mut usize);
        216 call/issuer/safe auto/auto cuGraphNodeGetType @10000 (node: val CUgraphNode, kind: out u32);
        217 call/issuer/safe hand/hand cuGraphDestroyNode @10000 (node: val CUgraphNode);
        218 call/issuer/safe hand/hand cuGraphAddEmptyNode @10000 (node: out CUgraphNode, graph: live CUgraph, dependencies: raw *const CUgraphNode, count: val usize);
        219 call/lane/safe hand/hand cuGraphAddKernelNode_v2 @12000 (node: out CUgraphNode, graph: live CUgraph, dependencies: raw *const CUgraphNode, count: val usize, params: raw *const CUDA_KERNEL_NODE_PARAMS);
        220 call/lane/safe hand/hand cuGraphAddMemcpyNode @10000 (node: out CUgraphNode, graph: live CUgraph, dependencies: raw *const CUgraphNode, count: val usize, copy: raw *const CUDA_MEMCPY3D, ctx: raw CUcontext);
        221 call/lane/safe hand/hand cuGraphAddMemsetNode @10000 (node: out CUgraphNode, graph: live CUgraph, dependencies: raw *const CUgraphNode, count: val usize, params: raw *const CUDA_MEMSET_NODE_PARAMS, ctx: raw CUcontext);
        222 call/lane/safe hand/hand cuGraphAddHostNode @10000 (node: out CUgraphNode, graph: live CUgraph, dependencies: raw *const CUgraphNode, count: val usize, params: raw *const CUDA_HOST_NODE_PARAMS);
        223 call/lane/safe hand/hand cuGraphAddChildGraphNode @10000 (node: out CUgraphNode, graph: live CUgraph, dependencies: raw *const CUgraphNode, count: val usize, child: raw CUgraph);
        224 call/issuer/safe hand/hand cuGraphAddDependencies @10000 (graph: live CUgraph, from: raw *const CUgraphNode, to: raw *const CUgraphNode, count: val usize);
        225 call/lane/safe hand/hand cuGraphExecKernelNodeSetParams_v2 @12000 (exec: live CUgraphExec, node: val CUgraphNode, params: raw *const CUDA_KERNEL_NODE_PARAMS);
        226 call/lane/safe hand/hand cuGraphKernelNodeGetParams_v2 @12000 (node: val CUgraphNode, params: raw *mut CUDA_KERNEL_NODE_PARAMS);
        227 call/lane/safe hand/hand cuGraphKernelNodeSetParams_v2 @12000 (node: val CUgraphNode, params: raw *const CUDA_KERNEL_NODE_PARAMS);
        228 local/guest/unsafe hand/none cuGraphExecUpdate @10020 (exec: raw CUgraphExec, graph: raw CUgraph, error_node: raw *mut CUgraphNode, result: raw *mut u32);
        229 local/guest/safe hand/none cuGraphAddKernelNode @10000 (node: raw *mut CUgraphNode, graph: raw CUgraph, dependencies: raw *const CUgraphNode, count: val usize, params: raw *const CUDA_KERNEL_NODE_PARAMS_v1);
        230 local/guest/safe hand/none cuGraphExecKernelNodeSetParams @10010 (exec: raw CUgraphExec, node: raw CUgraphNode, params: raw *const CUDA_KERNEL_NODE_PARAMS_v1);
        231 local/guest/safe hand/none cuGraphKernelNodeGetParams @10000 (node: raw CUgraphNode, params: raw *mut CUDA_KERNEL_NODE_PARAMS_v1);
        232 local/guest/safe hand/none cuGraphKernelNodeSetParams @10000 (node: raw CUgraphNode, params: raw *const CUDA_KERNEL_NODE_PARAMS_v1);
        // Arrays, textures, surfaces.
        320 call/lane/unsafe auto/hand cuArrayCreate_v2 @3020 (array: new CUarray, descriptor: src CUDA_ARRAY_DESCRIPTOR);
        321 call/lane/unsafe auto/hand cuArray3DCreate_v2 @3020 (array: new CUarray, descriptor: src CUDA_ARRAY3D_DESCRIPTOR);
        322 call/lane/unsafe auto/hand cuArrayDestroy @2000 (array: end CUarray);
        323 call/issuer/safe auto/hand cuArrayGetDescriptor_v2 @3020 (descriptor: out CUDA_ARRAY_DESCRIPTOR, array: live CUarray);
        324 call/issuer/safe auto/hand cuArray3DGetDescriptor_v2 @3020 (descriptor: out CUDA_ARRAY3D_DESCRIPTOR, array: live CUarray);
        325 call/lane/unsafe auto/hand cuMipmappedArrayCreate @5000 (mipmapped: new CUmipmappedArray, descriptor: src CUDA_ARRAY3D_DESCRIPTOR, levels: val u32);
        326 call/lane/unsafe auto/hand cuMipmappedArrayDestroy @5000 (mipmapped: end CUmipmappedArray);
        327 call/lane/safe auto/hand cuMipmappedArrayGetLevel @5000 (array: new CUarray, mipmapped: live CUmipmappedArray, level: val u32);
        328 call/lane/safe hand/hand cuTexObjectCreate @5000 (object: new CUtexObject, resource: raw *const CUDA_RESOURCE_DESC, texture: raw *const CUDA_TEXTURE_DESC, view: raw *const CUDA_RESOURCE_VIEW_DESC);
        329 call/lane/safe auto/auto cuTexObjectDestroy @5000 (object: end CUtexObject);
        330 call/issuer/safe auto/hand cuTexObjectGetResourceDesc @5000 (resource: out CUDA_RESOURCE_DESC, object: live CUtexObject);
        331 call/issuer/safe auto/hand cuTexObjectGetTextureDesc @5000 (texture: out CUDA_TEXTURE_DESC, object: live CUtexObject);
        332 call/issuer/safe auto/hand cuTexObjectGetResourceViewDesc @5000 (view: out CUDA_RESOURCE_VIEW_DESC, object: live CUtexObject);
        333 call/lane/safe auto/hand cuSurfObjectCreate @5000 (object: new CUsurfObject, resource: src CUDA_RESOURCE_DESC);
        334 call/lane/safe auto/auto cuSurfObjectDestroy @5000 (object: end CUsurfObject);
        335 call/issuer/safe auto/hand cuSurfObjectGetResourceDesc @5000 (resource: out CUDA_RESOURCE_DESC, object: live CUsurfObject);
        336 call/lane/unsafe hand/none cuMemcpyAtoA_v2 @3020 | cuMemcpyAtoA_v2_ptds @7000 (dst: live CUarray, dst_offset: val usize, src: live CUarray, src_offset: val usize, bytes: val usize);
        337 call/lane/unsafe hand/none cuMemcpyDtoA_v2 @3020 | cuMemcpyDtoA_v2_ptds @7000 (dst: live CUarray, offset: val usize, src: val CUdeviceptr, bytes: val usize);
        338 call/lane/unsafe hand/none cuMemcpyAtoD_v2 @3020 | cuMemcpyAtoD_v2_ptds @7000 (dst: val CUdeviceptr, src: live CUarray, offset: val usize, bytes: val usize);
        339 call/lane/unsafe hand/none cuMemcpyHtoA_v2 @3020 | cuMemcpyHtoA_v2_ptds @7000 (dst: live CUarray, offset: val usize, src: raw *const c_void, bytes: val usize);
        340 call/lane/unsafe hand/none cuMemcpyAtoH_v2 @3020 | cuMemcpyAtoH_v2_ptds @7000 (dst: raw *mut c_void, src: live CUarray, offset: val usize, bytes: val usize);
        341 call/issuer/safe hand/none cuMemcpyHtoAAsync_v2 @3020 | cuMemcpyHtoAAsync_v2_ptsz @7000 (dst: live CUarray, offset: val usize, src: raw *const c_void, bytes: val usize, stream: stream CUstream);
        342 call/issuer/safe hand/none cuMemcpyAtoHAsync_v2 @3020 | cuMemcpyAtoHAsync_v2_ptsz @7000 (dst: raw *mut c_void, src: live CUarray, offset: val usize, bytes: val usize, stream: stream CUstream);
        // Managed memory.
        304 local/guest/safe hand/none cuMemAdvise @8000 (dptr: val CUdeviceptr, bytes: val usize, advice: val u32, dev: val CUdevice);
        305 local/guest/safe hand/none cuMemAdvise_v2 @12020 (dptr: val CUdeviceptr, bytes: val usize, advice: val u32, location: raw CUmemLocation);
        306 local/guest/safe hand/none cuMemPrefetchAsync @8000 | cuMemPrefetchAsync_ptsz @8000 (dptr: val CUdeviceptr, bytes: val usize, dev: val CUdevice, stream: stream CUstream);
        307 local/guest/safe hand/none cuMemPrefetchAsync_v2 @12020 | cuMemPrefetchAsync_v2_ptsz @12020 (dptr: val CUdeviceptr, bytes: val usize, location: raw CUmemLocation, flags: val u32, stream: stream CUstream);
        308 local/guest/safe hand/none cuMemRangeGetAttribute @8000 (data: raw *mut c_void, size: val usize, attribute: val u32, dptr: val CUdeviceptr, bytes: val usize);
        309 local/guest/safe hand/none cuMemRangeGetAttributes @8000 (data: raw *mut *mut c_void, sizes: raw *mut usize, attributes: raw *mut u32, count: val usize, dptr: val CUdeviceptr, bytes: val usize);
        // Tensor maps.
        300 call/issuer/safe hand/hand cuTensorMapEncodeTiled @12000 (map: raw *mut CUtensorMap, data_type: val u32, rank: val u32, address: raw *mut c_void, dims: raw *const u64, strides: raw *const u64, box_dims: raw *const u32, element_strides: raw *const u32, interleave: val u32, swizzle: val u32, promotion: val u32, fill: val u32);
        301 call/issuer/safe hand/hand cuTensorMapEncodeIm2col @12000 (map: raw *mut CUtensorMap, data_type: val u32, rank: val u32, address: raw *mut c_void, dims: raw *const u64, strides: raw *const u64, lower: raw *const i32, upper: raw *const i32, channels: val u32, pixels: val u32, element_strides: raw *const u32, interleave: val u32, swizzle: val u32, promotion: val u32, fill: val u32);
        302 call/issuer/safe hand/hand cuTensorMapEncodeIm2colWide @12080 (map: raw *mut CUtensorMap, data_type: val u32, rank: val u32, address: raw *mut c_void, dims: raw *const u64, strides: raw *const u64, lower_width: val i32, upper_width: val i32, channels: val u32, pixels: val u32, element_strides: raw *const u32, interleave: val u32, mode: val u32, swizzle: val u32, promotion: val u32, fill: val u32);
        303 call/issuer/safe hand/hand cuTensorMapReplaceAddress @12000 (map: raw *mut CUtensorMap, address: raw *mut c_void);
        // Graphs: further nodes, parameters, forms with edge data.
        350 call/lane/safe hand/hand cuGraphAddMemAllocNode @11040 (node: out CUgraphNode, graph: live CUgraph, dependencies: raw *const CUgraphNode, count: val usize, params: raw *mut CUDA_MEM_ALLOC_NODE_PARAMS);
        351 call/lane/safe hand/hand cuGraphAddMemFreeNode @11040 (node: out CUgraphNode, graph: live CUgraph, dependencies: raw *const CUgraphNode, count: val usize, dptr: val CUdeviceptr);
        352 call/issuer/safe hand/hand cuGraphMemAllocNodeGetParams @11040 (node: val CUgraphNode, params: raw *mut CUDA_MEM_ALLOC_NODE_PARAMS);
        353 call/issuer/safe auto/auto cuGraphMemFreeNodeGetParams @11040 (node: val CUgraphNode, dptr: out CUdeviceptr);
        354 call/lane/safe auto/auto cuDeviceGraphMemTrim @11040 (dev: dev CUdevice);
        355 call/issuer/safe hand/hand cuDeviceGetGraphMemAttribute @11040 (dev: dev CUdevice, attribute: val u32, value: raw *mut c_void);
        356 call/issuer/safe hand/hand cuDeviceSetGraphMemAttribute @11040 (dev: dev CUdevice, attribute: val u32, value: raw *mut c_void);
        357 call/lane/safe auto/hand cuGraphMemsetNodeGetParams @10000 (node: val CUgraphNode, params: out CUDA_MEMSET_NODE_PARAMS);
        358 call/lane/safe auto/hand cuGraphMemcpyNodeGetParams @10000 (node: val CUgraphNode, copy: out CUDA_MEMCPY3D);
        359 call/lane/safe auto/hand cuGraphMemsetNodeSetParams @10000 (node: val CUgraphNode, params: src CUDA_MEMSET_NODE_PARAMS);
        360 call/lane/safe hand/hand cuGraphMemcpyNodeSetParams @10000 (node: val CUgraphNode, copy: src CUDA_MEMCPY3D);
        361 call/lane/safe auto/hand cuGraphExecMemsetNodeSetParams @10020 (exec: live CUgraphExec, node: val CUgraphNode, params: src CUDA_MEMSET_NODE_PARAMS, ctx: val CUcontext);
        362 call/lane/safe hand/hand cuGraphExecMemcpyNodeSetParams @10020 (exec: live CUgraphExec, node: val CUgraphNode, copy: src CUDA_MEMCPY3D, ctx: val CUcontext);
        363 call/lane/safe auto/auto cuGraphExecChildGraphNodeSetParams @11010 (exec: live CUgraphExec, node: val CUgraphNode, child: live CUgraph);
        364 call/lane/safe auto/auto cuGraphNodeSetEnabled @11060 (exec: live CUgraphExec, node: val CUgraphNode, enabled: val u32);
        365 call/issuer/safe auto/auto cuGraphNodeGetEnabled @11060 (exec: live CUgraphExec, node: val CUgraphNode, enabled: out u32);
        366 call/issuer/safe auto/auto cuGraphExecGetFlags @12000 (exec: live CUgraphExec, flags: out u64);
        367 call/lane/safe auto/hand cuGraphNodeFindInClone @10000 (node: out CUgraphNode, original: val CUgraphNode, clone: live CUgraph);
        368 call/lane/safe auto/hand cuGraphChildGraphNodeGetGraph @10000 (node: val CUgraphNode, graph: new CUgraph);
        369 call/lane/safe hand/hand cuGraphRemoveDependencies @10000 (graph: live CUgraph, from: raw *const CUgraphNode, to: raw *const CUgraphNode, count: val usize);
        370 call/lane/safe hand/hand cuGraphNodeGetDependencies @10000 (node: val CUgraphNode, nodes: raw *mut CUgraphNode, count: raw *mut usize);
        371 call/lane/safe hand/hand cuGraphNodeGetDependentNodes @10000 (node: val CUgraphNode, nodes: raw *mut CUgraphNode, count: raw *mut usize);
        372 call/lane/safe hand/hand cuGraphConditionalHandleCreate @12030 (handle: out u64, graph: live CUgraph, ctx: raw CUcontext, value: val u32, flags: val u32);
        373 call/lane/safe hand/hand cuGraphAddNode_v2 @12030 (node: out CUgraphNode, graph: live CUgraph, dependencies: raw *const CUgraphNode, edges: raw *const CUgraphEdgeData, count: val usize, params: raw *mut CUgraphNodeParams);
        374 local/guest/safe hand/none cuGraphAddNode @12020 (node: raw *mut CUgraphNode, graph: raw CUgraph, dependencies: raw *const CUgraphNode, count: val usize, params: raw *mut CUgraphNodeParams);
        375 call/lane/safe hand/hand cuGraphAddEventRecordNode @11010 (node: out CUgraphNode, graph: live CUgraph, dependencies: raw *const CUgraphNode, count: val usize, event: live CUevent);
        376 call/lane/safe hand/hand cuGraphAddEventWaitNode @11010 (node: out CUgraphNode, graph: live CUgraph, dependencies: raw *const CUgraphNode, count: val usize, event: live CUevent);
        377 call/issuer/safe auto/auto cuGraphEventRecordNodeGetEvent @11010 (node: val CUgraphNode, event: out CUevent);
        378 call/issuer/safe auto/auto cuGraphEventWaitNodeGetEvent @11010 (node: val CUgraphNode, event: out CUevent);
        379 call/lane/safe hand/auto cuGraphEventRecordNodeSetEvent @11010 (node: val CUgraphNode, event: live CUevent);
        380 call/lane/safe auto/auto cuGraphEventWaitNodeSetEvent @11010 (node: val CUgraphNode, event: live CUevent);
        381 call/lane/safe hand/auto cuGraphExecEventRecordNodeSetEvent @11010 (exec: live CUgraphExec, node: val CUgraphNode, event: live CUevent);
        382 call/lane/safe auto/auto cuGraphExecEventWaitNodeSetEvent @11010 (exec: live CUgraphExec, node: val CUgraphNode, event: live CUevent);
        383 call/lane/safe hand/hand cuGraphAddDependencies_v2 @12030 (graph: raw CUgraph, from: raw *const CUgraphNode, to: raw *const CUgraphNode, edges: raw *const CUgraphEdgeData, count: val usize);
        384 call/lane/safe hand/hand cuGraphRemoveDependencies_v2 @12030 (graph: raw CUgraph, from: raw *const CUgraphNode, to: raw *const CUgraphNode, edges: raw *const CUgraphEdgeData, count: val usize);
        385 call/lane/safe hand/hand cuGraphGetEdges_v2 @12030 (graph: raw CUgraph, from: raw *mut CUgraphNode, to: raw *mut CUgraphNode, edges: raw *mut CUgraphEdgeData, count: raw *mut usize);
        386 call/lane/safe hand/hand cuGraphNodeGetDependencies_v2 @12030 (node: raw CUgraphNode, nodes: raw *mut CUgraphNode, edges: raw *mut CUgraphEdgeData, count: raw *mut usize);
        387 call/lane/safe hand/hand cuGraphNodeGetDependentNodes_v2 @12030 (node: raw CUgraphNode, nodes: raw *mut CUgraphNode, edges: raw *mut CUgraphEdgeData, count: raw *mut usize);
        388 call/issuer/safe hand/hand cuStreamBeginCaptureToGraph @12030 | cuStreamBeginCaptureToGraph_ptsz @12030 (stream: stream CUstream, graph: live CUgraph, dependencies: raw *const CUgraphNode, edges: raw *const CUgraphEdgeData, count: val usize, mode: val u32);
        // Batches of memory operations, and memory operations by their old names.
        450 call/issuer/safe hand/hand cuStreamBatchMemOp_v2 @11070 | cuStreamBatchMemOp_v2_ptsz @11070 (stream: stream CUstream, count: val u32, operations: raw *mut CUstreamBatchMemOpParams, flags: val u32);
        451 call/issuer/safe hand/hand cuStreamBatchMemOp @8000 | cuStreamBatchMemOp_ptsz @8000 (stream: stream CUstream, count: val u32, operations: raw *mut CUstreamBatchMemOpParams, flags: val u32);
        452 call/issuer/safe hand/auto cuStreamWriteValue32 @8000 | cuStreamWriteValue32_ptsz @8000 (stream: stream CUstream, addr: val CUdeviceptr, value: val u32, flags: val u32);
        453 call/issuer/safe hand/auto cuStreamWriteValue64 @9000 | cuStreamWriteValue64_ptsz @9000 (stream: stream CUstream, addr: val CUdeviceptr, value: val u64, flags: val u32);
        454 call/issuer/safe hand/auto cuStreamWaitValue32 @8000 | cuStreamWaitValue32_ptsz @8000 (stream: stream CUstream, addr: val CUdeviceptr, value: val u32, flags: val u32);
        455 call/issuer/safe hand/auto cuStreamWaitValue64 @9000 | cuStreamWaitValue64_ptsz @9000 (stream: stream CUstream, addr: val CUdeviceptr, value: val u64, flags: val u32);
        456 call/lane/safe hand/hand cuGraphAddBatchMemOpNode @11070 (node: out CUgraphNode, graph: live CUgraph, dependencies: raw *const CUgraphNode, count: val usize, params: raw *const CUDA_BATCH_MEM_OP_NODE_PARAMS);
        457 call/lane/safe hand/hand cuGraphBatchMemOpNodeGetParams @11070 (node: val CUgraphNode, params: raw *mut CUDA_BATCH_MEM_OP_NODE_PARAMS);
        458 call/lane/safe hand/hand cuGraphBatchMemOpNodeSetParams @11070 (node: val CUgraphNode, params: raw *const CUDA_BATCH_MEM_OP_NODE_PARAMS);
        459 call/lane/safe hand/hand cuGraphExecBatchMemOpNodeSetParams @11070 (exec: live CUgraphExec, node: val CUgraphNode, params: raw *const CUDA_BATCH_MEM_OP_NODE_PARAMS);
        // Batches of copies, prefetches and discards.
        460 local/guest/safe hand/none cuMemcpyBatchAsync @12080 | cuMemcpyBatchAsync_ptsz @12080 (dsts: raw *mut CUdeviceptr, srcs: raw *mut CUdeviceptr, sizes: raw *mut usize, count: val usize, attributes: raw *mut CUmemcpyAttributes, starts: raw *mut usize, attribute_count: val usize, fail: raw *mut usize, stream: stream CUstream);
        461 local/guest/safe hand/none cuMemcpyBatchAsync_v2 @13000 | cuMemcpyBatchAsync_v2_ptsz @13000 (dsts: raw *mut CUdeviceptr, srcs: raw *mut CUdeviceptr, sizes: raw *mut usize, count: val usize, attributes: raw *mut CUmemcpyAttributes, starts: raw *mut usize, attribute_count: val usize, stream: stream CUstream);
        462 local/guest/safe hand/none cuMemcpy3DBatchAsync @12080 | cuMemcpy3DBatchAsync_ptsz @12080 (count: val usize, copies: raw *mut CUDA_MEMCPY3D_BATCH_OP, fail: raw *mut usize, flags: val u64, stream: stream CUstream);
        463 local/guest/safe hand/none cuMemcpy3DBatchAsync_v2 @13000 | cuMemcpy3DBatchAsync_v2_ptsz @13000 (count: val usize, copies: raw *mut CUDA_MEMCPY3D_BATCH_OP, flags: val u64, stream: stream CUstream);
        464 local/guest/safe hand/none cuMemPrefetchBatchAsync @13000 | cuMemPrefetchBatchAsync_ptsz @13000 (dptrs: raw *mut CUdeviceptr, sizes: raw *mut usize, count: val usize, places: raw *mut CUmemLocation, starts: raw *mut usize, place_count: val usize, flags: val u64, stream: stream CUstream);
        465 local/guest/safe hand/none cuMemDiscardBatchAsync @13000 | cuMemDiscardBatchAsync_ptsz @13000 (dptrs: raw *mut CUdeviceptr, sizes: raw *mut usize, count: val usize, flags: val u64, stream: stream CUstream);
        466 local/guest/safe hand/none cuMemDiscardAndPrefetchBatchAsync @13000 | cuMemDiscardAndPrefetchBatchAsync_ptsz @13000 (dptrs: raw *mut CUdeviceptr, sizes: raw *mut usize, count: val usize, places: raw *mut CUmemLocation, starts: raw *mut usize, place_count: val usize, flags: val u64, stream: stream CUstream);
        // Capture: further forms.
        467 local/guest/safe hand/none cuStreamBeginCapture @10000 | cuStreamBeginCapture_ptsz @10000 (stream: stream CUstream);
        468 local/guest/safe hand/none cuStreamGetCaptureInfo @10010 | cuStreamGetCaptureInfo_ptsz @10010 (stream: stream CUstream, status: out u32, id: opt u64);
        469 call/issuer/safe hand/hand cuStreamUpdateCaptureDependencies @11030 | cuStreamUpdateCaptureDependencies_ptsz @11030 (stream: stream CUstream, dependencies: raw *mut CUgraphNode, count: val usize, flags: val u32);
        470 call/issuer/safe hand/hand cuStreamUpdateCaptureDependencies_v2 @12030 | cuStreamUpdateCaptureDependencies_v2_ptsz @12030 (stream: stream CUstream, dependencies: raw *mut CUgraphNode, edges: raw *const CUgraphEdgeData, count: val usize, flags: val u32);
        // Graphs: parameters of nodes of any type, attributes, text, objects of the program.
        471 call/issuer/safe hand/hand cuGraphHostNodeGetParams @10000 (node: val CUgraphNode, params: raw *mut CUDA_HOST_NODE_PARAMS);
        472 call/issuer/safe hand/hand cuGraphHostNodeSetParams @10000 (node: val CUgraphNode, params: raw *const CUDA_HOST_NODE_PARAMS);
        473 call/lane/safe hand/hand cuGraphExecHostNodeSetParams @10020 (exec: live CUgraphExec, node: val CUgraphNode, params: raw *const CUDA_HOST_NODE_PARAMS);
        474 call/issuer/safe hand/hand cuGraphKernelNodeGetAttribute @11000 (node: val CUgraphNode, attribute: val u32, value: raw *mut CUlaunchAttributeValue);
        475 call/issuer/safe hand/hand cuGraphKernelNodeSetAttribute @11000 (node: val CUgraphNode, attribute: val u32, value: raw *const CUlaunchAttributeValue);
        476 call/issuer/safe auto/auto cuGraphKernelNodeCopyAttributes @11000 (dst: val CUgraphNode, src: val CUgraphNode);
        477 local/guest/safe hand/none cuGraphNodeSetParams @12020 (node: raw CUgraphNode, params: raw *mut CUgraphNodeParams);
        478 local/guest/safe hand/none cuGraphExecNodeSetParams @12020 (exec: raw CUgraphExec, node: raw CUgraphNode, params: raw *mut CUgraphNodeParams);
        // The path stays in the guest, which writes the text itself.
        479 call/lane/safe hand/hand cuGraphDebugDotPrint @11030 (graph: live CUgraph, path: raw *const c_char, flags: val u32);
        480 call/lane/safe hand/hand cuUserObjectCreate @11030 (object: new CUuserObject, pointer: raw *mut c_void, destroy: raw CUhostFn, count: val u32, flags: val u32);
        481 call/lane/safe auto/hand cuUserObjectRetain @11030 (object: live CUuserObject, count: val u32);
        482 call/lane/safe auto/hand cuUserObjectRelease @11030 (object: live CUuserObject, count: val u32);
        483 call/lane/safe auto/hand cuGraphRetainUserObject @11030 (graph: live CUgraph, object: live CUuserObject, count: val u32, flags: val u32);
        484 call/lane/safe auto/hand cuGraphReleaseUserObject @11030 (graph: live CUgraph, object: live CUuserObject, count: val u32);
        // Profilers: nobody listens.
        485 local/guest/safe hand/none cuProfilerStart @4000 ();
        486 local/guest/safe hand/none cuProfilerStop @4000 ();
        // Arrays: what they are made of.
        488 call/issuer/safe auto/hand cuArrayGetPlane @11020 (plane: new CUarray, array: live CUarray, index: val u32);
        489 call/issuer/safe auto/auto cuArrayGetMemoryRequirements @11060 (requirements: out CUDA_ARRAY_MEMORY_REQUIREMENTS, array: live CUarray, dev: dev CUdevice);
        490 call/issuer/safe auto/auto cuMipmappedArrayGetMemoryRequirements @11060 (requirements: out CUDA_ARRAY_MEMORY_REQUIREMENTS, mipmapped: live CUmipmappedArray, dev: dev CUdevice);
        491 call/issuer/safe auto/auto cuArrayGetSparseProperties @11010 (properties: out CUDA_ARRAY_SPARSE_PROPERTIES, array: live CUarray);
        492 call/issuer/safe auto/auto cuMipmappedArrayGetSparseProperties @11010 (properties: out CUDA_ARRAY_SPARSE_PROPERTIES, mipmapped: live CUmipmappedArray);
        // Contexts and pools by location.
        493 call/issuer/safe auto/auto cuCtxGetExecAffinity @11040 (param: out CUexecAffinityParam, kind: val u32);
        494 call/issuer/safe hand/auto cuMemGetAccess @10020 (flags: out u64, location: src CUmemLocation, ptr: val CUdeviceptr);
        495 local/guest/safe hand/none cuMemGetDefaultMemPool @13000 (pool: raw *mut CUmemoryPool, location: raw *mut CUmemLocation, kind: val u32);
        496 local/guest/safe hand/none cuMemGetMemPool @13000 (pool: raw *mut CUmemoryPool, location: raw *mut CUmemLocation, kind: val u32);
        497 local/guest/safe hand/none cuMemSetMemPool @13000 (location: raw *mut CUmemLocation, kind: val u32, pool: raw CUmemoryPool);
        498 local/guest/safe hand/none cuStreamGetCtx_v2 @12050 | cuStreamGetCtx_v2_ptsz @12050 (stream: stream CUstream, ctx: raw *mut CUcontext, green: raw *mut u64);
        499 local/guest/safe hand/none cuStreamGetGreenCtx @12040 (stream: raw CUstream, green: raw *mut u64);
        500 call/lane/safe hand/auto cuCtxRecordEvent @12050 (ctx: live CUcontext, event: live CUevent);
        501 call/lane/safe hand/auto cuCtxWaitEvent @12050 (ctx: live CUcontext, event: live CUevent);
    } };
}

/// Calls `$callback!` with `alias @since = target;` for every old name whose ABI did not change.
#[macro_export]
macro_rules! cuda_aliases {
    ($callback:ident) => {
        $callback! {
            cuCtxDestroy @2000 = cuCtxDestroy_v2;
            cuCtxPushCurrent @2000 = cuCtxPushCurrent_v2;
            cuCtxPopCurrent @2000 = cuCtxPopCurrent_v2;
            cuStreamDestroy @2000 = cuStreamDestroy_v2;
            cuEventDestroy @2000 = cuEventDestroy_v2;
            cuDevicePrimaryCtxRelease @7000 = cuDevicePrimaryCtxRelease_v2;
            cuDevicePrimaryCtxReset @7000 = cuDevicePrimaryCtxReset_v2;
            cuDevicePrimaryCtxSetFlags @7000 = cuDevicePrimaryCtxSetFlags_v2;
            cuMemHostRegister @4000 = cuMemHostRegister_v2;
        }
    };
}

/// Calls `$callback!` with `export @since;` for every symbol that is exported but not implemented.
/// `@0` marks symbols that `cuGetProcAddress` does not know.
#[macro_export]
macro_rules! cuda_stubs {
    ($callback:ident) => {
        $callback! {
            cuArray3DCreate @2000;
            cuArray3DGetDescriptor @2000;
            cuArrayCreate @2000;
            cuArrayGetDescriptor @2000;
            cuCheckpointProcessCheckpoint @12080;
            cuCheckpointProcessGetRestoreThreadId @12080;
            cuCheckpointProcessGetState @12080;
            cuCheckpointProcessLock @12080;
            cuCheckpointProcessRestore @12080;
            cuCheckpointProcessUnlock @12080;
            cuCoredumpGetAttribute @12010;
            cuCoredumpGetAttributeGlobal @12010;
            cuCoredumpSetAttribute @12010;
            cuCoredumpSetAttributeGlobal @12010;
            cuCtxAttach @2000;
            cuCtxCreate @2000;
            cuCtxDetach @2000;
            cuCtxFromGreenCtx @12040;
            cuCtxGetDevResource @12040;
            cudbgApiAttach @0;
            cudbgApiClientPid @0;
            cudbgApiClientRevision @0;
            cudbgApiDetach @0;
            cudbgApiInit @0;
            cudbgAttachHandlerAvailable @0;
            cudbgDebuggerCapabilities @0;
            cudbgDebuggerInitialized @0;
            cudbgDetachSuspendedDevicesMask @0;
            cudbgEnableIntegratedMemcheck @0;
            cudbgEnableLaunchBlocking @0;
            cudbgEnablePreemptionDebugging @0;
            cudbgGetAPI @0;
            cudbgGetAPIVersion @0;
            cudbgInjectionPath @0;
            cudbgIpcFlag @0;
            cudbgMain @0;
            cudbgReportDriverApiError @0;
            cudbgReportDriverApiErrorFlags @0;
            cudbgReportDriverInternalError @0;
            cudbgReportedDriverApiErrorCode @0;
            cudbgReportedDriverApiErrorFuncNameAddr @0;
            cudbgReportedDriverApiErrorFuncNameSize @0;
            cudbgReportedDriverApiErrorNameAddr @0;
            cudbgReportedDriverApiErrorNameSize @0;
            cudbgReportedDriverApiErrorSource @0;
            cudbgReportedDriverApiErrorStringAddr @0;
            cudbgReportedDriverApiErrorStringSize @0;
            cudbgReportedDriverInternalErrorCode @0;
            cudbgResumeForAttachDetach @0;
            cudbgRpcEnabled @0;
            cudbgSessionId @0;
            cudbgUseExternalDebugger @0;
            cuDestroyExternalMemory @10000;
            cuDestroyExternalSemaphore @10000;
            cuDeviceGetDevResource @12040;
            cuDeviceGetHostAtomicCapabilities @13000;
            cuDeviceGetNvSciSyncAttributes @10020;
            cuDeviceGetP2PAtomicCapabilities @13000;
            cuDeviceRegisterAsyncNotification @12040;
            cuDeviceTotalMem @2000;
            cuDeviceUnregisterAsyncNotification @12040;
            cuDevResourceGenerateDesc @12040;
            cuDevSmResourceSplitByCount @12040;
            cuEGLApiInit @0;
            cuEGLStreamConsumerAcquireFrame @7000;
            cuEGLStreamConsumerConnect @7000;
            cuEGLStreamConsumerConnectWithFlags @8000;
            cuEGLStreamConsumerDisconnect @7000;
            cuEGLStreamConsumerReleaseFrame @7000;
            cuEGLStreamProducerConnect @7000;
            cuEGLStreamProducerDisconnect @7000;
            cuEGLStreamProducerPresentFrame @7000;
            cuEGLStreamProducerReturnFrame @7000;
            cuExternalMemoryGetMappedBuffer @10000;
            cuExternalMemoryGetMappedMipmappedArray @10000;
            cuFlushGPUDirectRDMAWrites @11030;
            cuFuncSetBlockShape @2000;
            cuFuncSetSharedSize @2000;
            cuGLCtxCreate @2000;
            cuGLCtxCreate_v2 @3020;
            cuGLGetDevices @4010;
            cuGLGetDevices_v2 @6050;
            cuGLInit @2000;
            cuGLMapBufferObject @2000;
            cuGLMapBufferObjectAsync @2030;
            cuGLMapBufferObjectAsync_v2 @3020;
            cuGLMapBufferObjectAsync_v2_ptsz @7000;
            cuGLMapBufferObject_v2 @3020;
            cuGLMapBufferObject_v2_ptds @7000;
            cuGLRegisterBufferObject @2000;
            cuGLSetBufferObjectMapFlags @2030;
            cuGLUnmapBufferObject @2000;
            cuGLUnmapBufferObjectAsync @2030;
            cuGLUnregisterBufferObject @2000;
            cuGraphAddExternalSemaphoresSignalNode @11020;
            cuGraphAddExternalSemaphoresWaitNode @11020;
            cuGraphExecExternalSemaphoresSignalNodeSetParams @11020;
            cuGraphExecExternalSemaphoresWaitNodeSetParams @11020;
            cuGraphExternalSemaphoresSignalNodeGetParams @11020;
            cuGraphExternalSemaphoresSignalNodeSetParams @11020;
            cuGraphExternalSemaphoresWaitNodeGetParams @11020;
            cuGraphExternalSemaphoresWaitNodeSetParams @11020;
            cuGraphicsEGLRegisterImage @7000;
            cuGraphicsGLRegisterBuffer @3000;
            cuGraphicsGLRegisterImage @3000;
            cuGraphicsMapResources @3000;
            cuGraphicsMapResources_ptsz @7000;
            cuGraphicsResourceGetMappedEglFrame @7000;
            cuGraphicsResourceGetMappedMipmappedArray @5000;
            cuGraphicsResourceGetMappedPointer @3000;
            cuGraphicsResourceGetMappedPointer_v2 @3020;
            cuGraphicsResourceSetMapFlags @3000;
            cuGraphicsResourceSetMapFlags_v2 @6050;
            cuGraphicsSubResourceGetMappedArray @3000;
            cuGraphicsUnmapResources @3000;
            cuGraphicsUnmapResources_ptsz @7000;
            cuGraphicsUnregisterResource @3000;
            cuGraphicsVDPAURegisterOutputSurface @3010;
            cuGraphicsVDPAURegisterVideoSurface @3010;
            cuGraphInstantiate @10000;
            cuGreenCtxCreate @12040;
            cuGreenCtxDestroy @12040;
            cuGreenCtxGetDevResource @12040;
            cuGreenCtxGetId @12090;
            cuGreenCtxRecordEvent @12040;
            cuGreenCtxStreamCreate @12050;
            cuGreenCtxWaitEvent @12040;
            cuImportExternalMemory @10000;
            cuImportExternalSemaphore @10000;
            cuLaunch @2000;
            cuLaunchCooperativeKernelMultiDevice @9000;
            cuLaunchGrid @2000;
            cuLaunchGridAsync @2000;
            cuLibraryGetUnifiedFunction @12000;
            cuLinkAddData @5050;
            cuLinkAddFile @5050;
            cuLinkCreate @5050;
            cuLogsCurrent @12090;
            cuLogsDumpToFile @12090;
            cuLogsDumpToMemory @12090;
            cuLogsRegisterCallback @12090;
            cuLogsUnregisterCallback @12090;
            cuMemAlloc @2000;
            cuMemAllocHost @2000;
            cuMemAllocPitch @2000;
            cuMemBatchDecompressAsync @12060;
            cuMemBatchDecompressAsync_ptsz @12060;
            cuMemcpy2D @2000;
            cuMemcpy2DAsync @2000;
            cuMemcpy2DUnaligned @2000;
            cuMemcpy3D @2000;
            cuMemcpy3DAsync @2000;
            cuMemcpy3DPeer @4000;
            cuMemcpy3DPeerAsync @4000;
            cuMemcpy3DPeerAsync_ptsz @7000;
            cuMemcpy3DPeer_ptds @7000;
            cuMemcpyAtoA @2000;
            cuMemcpyAtoD @2000;
            cuMemcpyAtoH @2000;
            cuMemcpyAtoHAsync @2000;
            cuMemcpyDtoA @2000;
            cuMemcpyDtoD @2000;
            cuMemcpyDtoDAsync @3000;
            cuMemcpyDtoH @2000;
            cuMemcpyDtoHAsync @2000;
            cuMemcpyHtoA @2000;
            cuMemcpyHtoAAsync @2000;
            cuMemcpyHtoD @2000;
            cuMemcpyHtoDAsync @2000;
            cuMemExportToShareableHandle @10020;
            cuMemFree @2000;
            cuMemGetAddressRange @2000;
            cuMemGetAllocationPropertiesFromHandle @10020;
            cuMemGetAttribute @0;
            cuMemGetAttribute_v2 @0;
            cuMemGetHandleForAddressRange @11070;
            cuMemGetInfo @2000;
            cuMemHostGetDevicePointer @2020;
            cuMemImportFromShareableHandle @10020;
            cuMemMapArrayAsync @11010;
            cuMemMapArrayAsync_ptsz @11010;
            cuMemPoolExportPointer @11020;
            cuMemPoolExportToShareableHandle @11020;
            cuMemPoolImportFromShareableHandle @11020;
            cuMemPoolImportPointer @11020;
            cuMemRetainAllocationHandle @11000;
            cuMemsetD16 @2000;
            cuMemsetD2D16 @2000;
            cuMemsetD2D32 @2000;
            cuMemsetD2D8 @2000;
            cuMemsetD32 @2000;
            cuMemsetD8 @2000;
            cuModuleGetGlobal @2000;
            cuModuleGetSurfRef @3000;
            cuModuleGetTexRef @2000;
            cuMulticastAddDevice @12010;
            cuMulticastBindAddr @12010;
            cuMulticastBindMem @12010;
            cuMulticastCreate @12010;
            cuMulticastGetGranularity @12010;
            cuMulticastUnbind @12010;
            cuParamSetf @2000;
            cuParamSeti @2000;
            cuParamSetSize @2000;
            cuParamSetTexRef @2000;
            cuParamSetv @2000;
            cuPointerSetAttribute @6000;
            cuProfilerInitialize @4000;
            cuSignalExternalSemaphoresAsync @10000;
            cuSignalExternalSemaphoresAsync_ptsz @10000;
            cuSurfRefGetArray @3000;
            cuSurfRefSetArray @3000;
            cuTexRefCreate @2000;
            cuTexRefDestroy @2000;
            cuTexRefGetAddress @2000;
            cuTexRefGetAddressMode @2000;
            cuTexRefGetAddress_v2 @3020;
            cuTexRefGetArray @2000;
            cuTexRefGetBorderColor @8000;
            cuTexRefGetFilterMode @2000;
            cuTexRefGetFlags @2000;
            cuTexRefGetFormat @2000;
            cuTexRefGetMaxAnisotropy @5000;
            cuTexRefGetMipmapFilterMode @5000;
            cuTexRefGetMipmapLevelBias @5000;
            cuTexRefGetMipmapLevelClamp @5000;
            cuTexRefGetMipmappedArray @5000;
            cuTexRefSetAddress @2000;
            cuTexRefSetAddress2D @2020;
            cuTexRefSetAddress2D_v2 @3020;
            cuTexRefSetAddress2D_v3 @4010;
            cuTexRefSetAddressMode @2000;
            cuTexRefSetAddress_v2 @3020;
            cuTexRefSetArray @2000;
            cuTexRefSetBorderColor @8000;
            cuTexRefSetFilterMode @2000;
            cuTexRefSetFlags @2000;
            cuTexRefSetFormat @2000;
            cuTexRefSetMaxAnisotropy @5000;
            cuTexRefSetMipmapFilterMode @5000;
            cuTexRefSetMipmapLevelBias @5000;
            cuTexRefSetMipmapLevelClamp @5000;
            cuTexRefSetMipmappedArray @5000;
            cuVDPAUCtxCreate @3010;
            cuVDPAUCtxCreate_v2 @3020;
            cuVDPAUGetDevice @3010;
            cuWaitExternalSemaphoresAsync @10000;
            cuWaitExternalSemaphoresAsync_ptsz @10000;
        }
    };
}
