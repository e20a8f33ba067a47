//! Request and reply structs.
//!
//! For every row of the table there is a module of the call's name with `Args` and `Reply`,
//! generated from the row: scalars and handles as 64-bit words, structs as they are, in the order
//! of the arguments. Calls whose arguments have variable length carry one of the structs written
//! out below, followed by their bytes.
//!
//! All integers are little-endian; hosts and guests are little-endian (asserted).
//!
//! # Payloads that are not the generated `Args` and `Reply`
//!
//! | call | request | reply |
//! |---|---|---|
//! | `cuModuleLoadDataEx`, `cuLibraryLoadData`, `cuLinkCreate_v2` | [`LoadImage`], [`JitOption`]s | [`LoadReply`] |
//! | `cuLinkAddData_v2` | [`Lookup`] (the link state), [`LoadImage`], [`JitOption`]s, name | [`LoadReply`] |
//! | `cuLinkComplete` | [`ListRequest`]: `object` the link state, `out` room for the image or empty | [`ListReply`]: bytes of the image |
//! | `cuLinkDestroy` | [`Lookup`] | |
//! | `cuModuleGetFunction`, `cuLibraryGetKernel` | [`Lookup`], name | [`FunctionReply`], [`Param`]s |
//! | `cuKernelGetFunction` | `Args` | [`FunctionReply`], [`Param`]s |
//! | `cuModuleGetGlobal_v2`, `cuLibraryGetGlobal`, `cuLibraryGetManaged` | [`Lookup`], name | [`GlobalReply`] |
//! | `cuModuleEnumerateFunctions`, `cuLibraryEnumerateKernels`, `cuGraphGetNodes`, `cuGraphGetRootNodes` | [`ListRequest`] | [`ListReply`] |
//! | `cuGraphGetEdges` | [`ListRequest`]: `out` the sources, `extra` the address of as many targets | [`ListReply`] |
//! | `cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags` | [`AttributeRequest`]: `attribute` flags, `len` 1 for a kernel, `value` block size, dynamic shared memory | [`AttributeReply`]: blocks |
//! | `cuOccupancyAvailableDynamicSMemPerBlock` | [`AttributeRequest`]: `len` 1 for a kernel, `value` blocks, block size | [`AttributeReply`]: bytes |
//! | `cuOccupancyMaxActiveClusters`, `cuOccupancyMaxPotentialClusterSize` | [`Launch`], attributes | [`AttributeReply`]: the number |
//! | `cuLaunchKernel`, `cuLaunchKernelEx`, `cuLaunchCooperativeKernel` | [`Launch`], attributes, parameters | [`LaunchReply`] |
//! | `cuLaunchHostFunc`, `cuStreamAddCallback` | [`HostFunc`] | |
//! | `cuMemcpyHtoDAsync_v2` | [`CopyIn`], bytes if inline | |
//! | `cuMemcpyDtoHAsync_v2` | [`CopyOut`] | |
//! | `cuMemcpy3DAsync_v2` | the struct, the stream | |
//! | `cuMemHostRegister_v2` | [`RegisterHost`] | |
//! | `cuMemHostUnregister` | the address (64 bits) | |
//! | `cuMemPoolCreate` | the properties | `Reply` |
//! | `cuMemPoolGetAttribute`, `cuMemPoolSetAttribute` | [`AttributeRequest`] | [`AttributeReply`] |
//! | `cuMemPoolSetAccess` | [`AttributeRequest`]: `attribute` the count; access descriptors | |
//! | `cuMemPoolGetAccess` | [`AttributeRequest`]: `value` the location | [`AttributeReply`]: flags |
//! | `cuMemSetAccess` | `Args`, access descriptors | |
//! | `cuStreamGetAttribute`, `cuStreamSetAttribute` | [`AttributeRequest`] | [`AttributeReply`] |
//! | `cuStreamGetCaptureInfo_v2` | [`ListRequest`]: `object` the stream, `out` room for dependencies | [`AttributeReply`]: status, id, graph, dependencies there are |
//! | `cuStreamBeginCaptureToGraph` | [`AddNode`], dependencies, stream, mode (64 bits each) | |
//! | `cuGraphInstantiateWithParams` | `Args`, the parameters | `Reply`, the parameters |
//! | `cuGraphExecUpdate_v2` | `Args` | [`AttributeReply`]: result code, then the info's three words; the call's own status is success |
//! | `cuGraphAddEmptyNode` and the other `cuGraphAdd*Node` | [`AddNode`], dependencies, then [`Launch`] and parameters, the copy, the fill, [`HostFunc`] or the child graph | `Reply` |
//! | `cuGraphAddDependencies` | [`AddNode`], sources, targets | |
//! | `cuGraphKernelNodeSetParams_v2`, `cuGraphExecKernelNodeSetParams_v2` | executable graph or 0, node (64 bits each), [`Launch`], parameters | |
//! | `cuGraphAddMemAllocNode` | [`AddNode`], dependencies, the pool's properties, bytes, number of access descriptors (64 bits each), the descriptors | the node, the address |
//! | `cuGraphMemAllocNodeGetParams` | `Args` | the parameters, without descriptors |
//! | `cuGraphAddMemFreeNode`, `cuGraphAddEventRecordNode`, `cuGraphAddEventWaitNode` | [`AddNode`], dependencies, the address or event | `Reply` |
//! | `cuGraphAddNode_v2` | [`AddNode`], dependencies, [`ConditionalNode`] | the node, then its graphs |
//! | `cuGraphConditionalHandleCreate` | `Args`, the context | the handle |
//! | `cuGraphRemoveDependencies` | [`AddNode`], sources, targets | |
//! | `cuGraphAddDependencies_v2`, `cuGraphRemoveDependencies_v2` | [`AddNode`], sources, targets, edge data | |
//! | `cuGraphNodeGetDependencies`, `cuGraphNodeGetDependentNodes` | [`ListRequest`]: `object` the node | [`ListReply`] |
//! | `cuGraphGetEdges_v2` | [`ListRequest`]: `out` the sources; targets and data lie behind, as long each | [`ListReply`] |
//! | `cuGraphNodeGetDependencies_v2`, `cuGraphNodeGetDependentNodes_v2` | [`ListRequest`]: `object` the node, `out` the nodes; the data lies behind, as long | [`ListReply`] |
//! | `cuStreamUpdateCaptureDependencies`, its `_v2` | [`AddNode`]: `graph` the stream, `ctx` the flags; dependencies, edge data for `_v2` | |
//! | `cuStreamBatchMemOp`, its `_v2` | [`MemoryOperations`], operations | |
//! | `cuGraphAddBatchMemOpNode` | [`AddNode`], dependencies, [`MemoryOperations`], operations | `Reply` |
//! | `cuGraphBatchMemOpNodeSetParams`, `cuGraphExecBatchMemOpNodeSetParams` | [`MemoryOperations`], operations | |
//! | `cuGraphBatchMemOpNodeGetParams` | `Args` | [`MemoryOperations`], as many operations as fit |
//! | `cuGraphHostNodeGetParams` | `Args` | [`HostFunc`] |
//! | `cuGraphHostNodeSetParams`, `cuGraphExecHostNodeSetParams` | executable graph or 0, node (64 bits each), [`HostFunc`] | |
//! | `cuGraphKernelNodeGetAttribute`, `cuGraphKernelNodeSetAttribute` | [`AttributeRequest`]: `object` the node | [`AttributeReply`] |
//! | `cuGraphDebugDotPrint` | [`ListRequest`]: `object` the graph, `out` room for the text, `extra` the flags | [`ListReply`]: bytes of the text; nothing is stored if they do not fit |
//! | `cuUserObjectCreate` | [`UserObject`] | `Reply` |
//! | `cuDeviceGetGraphMemAttribute`, `cuDeviceSetGraphMemAttribute` | [`AttributeRequest`]: `object` the device | [`AttributeReply`] |
//! | `cuIpcGetMemHandle`, `cuIpcGetEventHandle` | [`Lookup`]: the address, the event | [`SharedToken`] |
//! | `cuIpcOpenMemHandle_v2` | [`OpenShared`] | [`OpenedMemory`] |
//! | `cuIpcOpenEventHandle` | [`OpenShared`] | the event |
//! | `cuIpcCloseMemHandle` | [`Lookup`]: the address | how often it is still open |
//! | `cuTexObjectCreate` | the resource, the texture, 1 if a view was given (64 bits), the view | `Reply` |
//! | `cuTensorMapEncodeTiled`, `cuTensorMapEncodeIm2col`, `cuTensorMapEncodeIm2colWide` | [`TensorMap`] | the map |
//! | `cuTensorMapReplaceAddress` | the map, the address, bytes by which it misses an alignment of 64 | the map |
//! | `cuGraphKernelNodeGetParams_v2` | `Args` | [`Launch`] (`stream` holds the `CUkernel`, if known), parameters |

use crate::cuda::Scalar;
use core::mem::size_of;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const _: () = assert!(
    cfg!(target_endian = "little"),
    "the wire format is little-endian"
);

/// A scalar argument on the wire.
#[repr(transparent)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct Word(pub u64);

impl Word {
    /// Encodes a scalar.
    pub fn of<T: Scalar>(value: T) -> Self {
        Self(value.to_word())
    }
    /// Decodes a scalar.
    pub fn get<T: Scalar>(self) -> T {
        T::from_word(self.0)
    }
}

/// How a result travels in a reply: scalars as one word, structs padded to words.
pub trait Result: Sized {
    /// Wire form.
    type Wire: FromBytes + IntoBytes + KnownLayout + Immutable + Copy + core::fmt::Debug;
    /// Encodes.
    fn to_wire(self) -> Self::Wire;
    /// Decodes.
    fn from_wire(wire: Self::Wire) -> Self;
}

macro_rules! scalar_results {
    ($($ty:ty),* $(,)?) => { $(
        impl Result for $ty {
            type Wire = Word;
            fn to_wire(self) -> Word { Word::of(self) }
            fn from_wire(wire: Word) -> Self { wire.get() }
        }
    )* };
}
use crate::cuda::{
    CUDA_ARRAY_DESCRIPTOR, CUDA_ARRAY3D_DESCRIPTOR, CUDA_MEMCPY3D, CUDA_MEMSET_NODE_PARAMS,
    CUDA_RESOURCE_DESC, CUDA_RESOURCE_VIEW_DESC, CUDA_TEXTURE_DESC, CUarray, CUcontext, CUdevice,
    CUdeviceptr, CUevent, CUfunction, CUgraph, CUgraphExec, CUgraphNode, CUkernel, CUlibrary,
    CUmemoryPool, CUmipmappedArray, CUmodule, CUstream, CUsurfObject, CUtexObject, CUuserObject,
};
use crate::cuda::{
    CUDA_ARRAY_MEMORY_REQUIREMENTS, CUDA_ARRAY_SPARSE_PROPERTIES, CUexecAffinityParam,
};
scalar_results!(
    u32,
    u64,
    usize,
    i32,
    f32,
    CUarray,
    CUcontext,
    CUdevice,
    CUdeviceptr,
    CUevent,
    CUfunction,
    CUgraph,
    CUgraphExec,
    CUgraphNode,
    CUkernel,
    CUlibrary,
    CUmemoryPool,
    CUmipmappedArray,
    CUmodule,
    CUstream,
    CUsurfObject,
    CUtexObject,
    CUuserObject,
);

macro_rules! struct_results {
    ($($ty:ty),* $(,)?) => { $(
        impl Result for $ty {
            type Wire = Self;
            fn to_wire(self) -> Self { self }
            fn from_wire(wire: Self) -> Self { wire }
        }
        const _: () = assert!(size_of::<$ty>() % 8 == 0);
    )* };
}
struct_results!(
    CUDA_ARRAY_DESCRIPTOR,
    CUDA_ARRAY3D_DESCRIPTOR,
    CUDA_MEMCPY3D,
    CUDA_MEMSET_NODE_PARAMS,
    CUDA_RESOURCE_DESC,
    CUDA_RESOURCE_VIEW_DESC,
    CUDA_TEXTURE_DESC,
    CUDA_ARRAY_MEMORY_REQUIREMENTS,
    CUDA_ARRAY_SPARSE_PROPERTIES,
    CUexecAffinityParam,
);

/// Wire type of an argument in `Args`.
macro_rules! argument {
    (val $ty:ty) => {
        $crate::wire::Word
    };
    (live $ty:ty) => {
        $crate::wire::Word
    };
    (end $ty:ty) => {
        $crate::wire::Word
    };
    (dev $ty:ty) => {
        $crate::wire::Word
    };
    (stream $ty:ty) => {
        $crate::wire::Word
    };
    (src $ty:ty) => {
        $ty
    };
    ($other:ident $ty:ty) => {
        [u64; 0]
    };
}

/// Wire type of an argument in `Reply`.
macro_rules! result {
    (out $ty:ty) => {
        <$ty as $crate::wire::Result>::Wire
    };
    (opt $ty:ty) => {
        <$ty as $crate::wire::Result>::Wire
    };
    (new $ty:ty) => {
        <$ty as $crate::wire::Result>::Wire
    };
    ($other:ident $ty:ty) => {
        [u64; 0]
    };
}

macro_rules! generate {
    ($($number:literal $class:ident / $place:ident / $capture:tt $shim:ident / $backend:ident
       $name:ident @ $since:literal $(| $twin:ident @ $twin_since:literal)?
       ($($arg:ident : $dir:ident $ty:ty),*);)*) => { $( one!($class $name ($($arg : $dir $ty),*)); )* };
}
macro_rules! one {
    (lookup $($rest:tt)*) => {};
    (local $($rest:tt)*) => {};
    (host $($rest:tt)*) => {};
    ($class:ident $name:ident ($($arg:ident : $dir:ident $ty:ty),*)) => {
        #[allow(non_snake_case, missing_docs, unused_imports)]
        pub mod $name {
            use crate::cuda::*;
            use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

            /// Arguments, in the order of the table's row. Those that only return are empty.
            #[repr(C)]
            #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
            pub struct Args { $(pub $arg: argument!($dir $ty)),* }
            const _: () = assert!(size_of::<Args>() % 8 == 0);

            /// Results, in the order of the table's row. Arguments that only go in are empty.
            #[repr(C)]
            #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
            pub struct Reply { $(pub $arg: result!($dir $ty)),* }
            const _: () = assert!(size_of::<Reply>() % 8 == 0);
        }
    };
}
cuda_calls!(generate);

macro_rules! wire_struct {
    ($($(#[$doc:meta])* $name:ident = $size:literal { $($(#[$fdoc:meta])* $field:ident : $ty:ty),* $(,)? })*) => { $(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty),* }
        const _: () = assert!(size_of::<$name>() == $size);
    )* };
}

/// A range of the channel's shared memory, by its address (the same on both sides). Bulk bytes
/// travel like this: never in the ring.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct Blob {
    /// Address of the first byte.
    pub addr: u64,
    /// Length in bytes.
    pub len: u64,
}
const _: () = assert!(size_of::<Blob>() == 16);

wire_struct! {
    /// [`FLUSH`](crate::number::internal::FLUSH): after everything issued to `stream` so far, write
    /// the low 32 bits of this record's ring position to the stream's timeline word.
    Flush = 16 {
        /// The stream.
        stream: u64,
        /// Address of the timeline word.
        word: u64,
    }
    /// A launch: this header, then `attribute_count` attributes of 72 bytes, then `params_len`
    /// bytes of packed parameters, unless those are in `params`.
    Launch = 64 {
        /// `CUfunction` or `CUkernel`.
        function: u64,
        /// The stream.
        stream: u64,
        /// Grid extents in blocks.
        grid: [u32; 3],
        /// Block extents in threads.
        block: [u32; 3],
        /// Dynamic shared memory in bytes.
        dynamic_shared: u32,
        /// 72-byte attributes after this header.
        attribute_count: u32,
        /// Bytes of packed parameters.
        params_len: u32,
        /// Bit 0: cooperative. Bit 1: `function` is a `CUkernel`.
        flags: u32,
        /// Address of the parameters in the heap, or 0 if they follow inline.
        params: u64,
    }
    /// What other processes open an object by.
    SharedToken = 32 {
        /// Random bytes, which the daemon knows.
        bytes: [u8; 32],
    }
    /// An object of another process is opened.
    OpenShared = 40 {
        /// What the other process gave out.
        token: [u8; 32],
        /// Flags of the call.
        flags: u64,
    }
    /// Memory of another process, opened.
    OpenedMemory = 16 {
        /// Its first address here.
        base: u64,
        /// Its bytes, 0 if the driver does not say.
        size: u64,
    }
    /// Reply of a launch that returns something.
    LaunchReply = 8 {
        /// The updatable node a `DEVICE_UPDATABLE_KERNEL_NODE` attribute asked for, or 0.
        device_node: u64,
    }
    /// A host-to-device copy whose source is in the record or in shared memory. Inline bytes follow
    /// this struct when `src` is 0.
    CopyIn = 32 {
        /// Device destination.
        dst: u64,
        /// Shared-memory source, or 0 if the bytes follow inline.
        src: u64,
        /// Bytes.
        len: u64,
        /// The stream.
        stream: u64,
    }
    /// A device-to-host copy into shared memory.
    CopyOut = 32 {
        /// Shared-memory destination.
        dst: u64,
        /// Device source.
        src: u64,
        /// Bytes.
        len: u64,
        /// The stream.
        stream: u64,
    }
    /// Memory of the program's own, whose pages (the bytes and what else is on their pages) are about
    /// to be exchanged for those at `block`: the worker maps these at the same address.
    RegisterHost = 32 {
        /// First byte in the program.
        address: u64,
        /// Bytes.
        bytes: u64,
        /// The heap's pages that stand for the page of the first byte and those behind it.
        block: u64,
        /// `CU_MEMHOSTREGISTER_*`.
        flags: u32,
        /// Padding.
        pad: u32,
    }
    /// A load of code: module, library or linker input. Options follow as `option_count` pairs
    /// ([`JitOption`]).
    LoadImage = 56 {
        /// The image in shared memory.
        image: Blob,
        /// Where the info log goes, or an empty blob.
        info_log: Blob,
        /// Where the error log goes, or an empty blob.
        error_log: Blob,
        /// Number of [`JitOption`]s.
        option_count: u32,
        /// Kind of linker input (`CUjitInputType`), or 0.
        kind: u32,
    }
    /// A JIT option with an integer value. Options that are pointers are not sent like this.
    JitOption = 16 {
        /// `CUjit_option`.
        option: u32,
        /// Padding.
        pad: u32,
        /// The value.
        value: u64,
    }
    /// Reply of a load.
    LoadReply = 16 {
        /// The new handle.
        handle: u64,
        /// Bytes written to the info log.
        info_len: u32,
        /// Bytes written to the error log.
        error_len: u32,
    }
    /// A lookup by name in a module or library: this, then the name without terminator.
    Lookup = 8 {
        /// Module or library.
        container: u64,
    }
    /// Reply of a lookup of a variable.
    GlobalReply = 16 {
        /// Device address.
        dptr: u64,
        /// Bytes.
        bytes: u64,
    }
    /// Reply of a lookup of a function or kernel; `param_count` [`Param`]s follow (as many as fit;
    /// the rest by [`PARAM_LAYOUT`](crate::number::internal::PARAM_LAYOUT)).
    FunctionReply = 24 {
        /// `CUfunction` or `CUkernel`.
        handle: u64,
        /// Parameters of the kernel in all.
        param_count: u32,
        /// [`Param`]s that follow.
        present: u32,
        /// Bytes of the parameter buffer.
        params_len: u32,
        /// Bit 0: parameters could not be learnt (launch only with `extra`).
        flags: u32,
    }
    /// What a worker has counted for its client.
    Counters = 8 {
        /// Bytes that its CPUs copied between shared and own memory, records and answers included.
        copied: u64,
    }
    /// Asks for more of a parameter layout; answered with [`FunctionReply`].
    ParamLayout = 16 {
        /// `CUfunction` or `CUkernel`.
        function: u64,
        /// First parameter wanted.
        first: u32,
        /// Bit 0: `function` is a `CUkernel`.
        flags: u32,
    }
    /// Offset and size of a kernel parameter.
    Param = 8 {
        /// Bytes from the start of the parameter buffer.
        offset: u32,
        /// Bytes.
        size: u32,
    }
    /// A host function or stream callback to enqueue.
    HostFunc = 32 {
        /// The stream (unused for graph nodes).
        stream: u64,
        /// Address of the guest's function.
        function: u64,
        /// Its argument.
        user: u64,
        /// [`HOST_FUNC`] or [`STREAM_CALLBACK`].
        kind: u32,
        /// Padding.
        pad: u32,
    }
    /// A node added to a graph: this, then `count` dependencies of 8 bytes, then the node's own
    /// parameters.
    AddNode = 24 {
        /// The graph.
        graph: u64,
        /// Context for copies and fills, or 0 for the current one.
        ctx: u64,
        /// Number of dependencies.
        count: u32,
        /// Padding.
        pad: u32,
    }
    /// A conditional node: after [`AddNode`] and its dependencies.
    ConditionalNode = 16 {
        /// The condition.
        handle: u64,
        /// `CUgraphConditionalNodeType`.
        kind: u32,
        /// Graphs that the node gets.
        size: u32,
    }
    /// A batch of memory operations of a stream or of a node: this, then `count` operations of 48
    /// bytes.
    MemoryOperations = 32 {
        /// The stream; 0 for nodes.
        stream: u64,
        /// The executable graph, or 0.
        exec: u64,
        /// The node whose parameters change, or 0.
        node: u64,
        /// Number of operations.
        count: u32,
        /// Flags.
        flags: u32,
    }
    /// An object of the program.
    UserObject = 24 {
        /// Address of the program's function that ends it.
        destroy: u64,
        /// Its argument.
        pointer: u64,
        /// References that the program has.
        count: u32,
        /// Flags.
        flags: u32,
    }
    /// A handle and a blob for a list of handles coming back.
    ListRequest = 32 {
        /// The object asked.
        object: u64,
        /// Room for handles; empty to ask for the number only.
        out: Blob,
        /// Further argument, e.g. the second list's blob address.
        extra: u64,
    }
    /// Reply with a number of list entries.
    ListReply = 8 {
        /// Entries there are, or were written.
        count: u64,
    }
    /// An attribute of up to 64 bytes of an object.
    AttributeRequest = 80 {
        /// The object.
        object: u64,
        /// Which attribute.
        attribute: u32,
        /// Bytes of the value that are meant.
        len: u32,
        /// The value, for setting.
        value: [u64; 8],
    }
    /// A tensor map to encode. Arrays are filled as far as the rank says, the rest is zero.
    TensorMap = 192 {
        /// Address of the tensor.
        address: u64,
        /// Elements of each dimension.
        dims: [u64; 5],
        /// Bytes from one element of each dimension but the first to the next.
        strides: [u64; 4],
        /// Elements of the box; for tiled maps.
        box_dims: [u32; 5],
        /// Steps between elements.
        element_strides: [u32; 5],
        /// Lower corner of the box of pixels; for the wide form only its width.
        lower: [i32; 3],
        /// Upper corner.
        upper: [i32; 3],
        /// `CUtensorMapDataType`.
        data_type: u32,
        /// Dimensions.
        rank: u32,
        /// Channels per pixel, for im2col.
        channels: u32,
        /// Pixels per column, for im2col.
        pixels: u32,
        /// `CUtensorMapInterleave`.
        interleave: u32,
        /// `CUtensorMapIm2ColWideMode`, for the wide form.
        mode: u32,
        /// `CUtensorMapSwizzle`.
        swizzle: u32,
        /// `CUtensorMapL2promotion`.
        promotion: u32,
        /// `CUtensorMapFloatOOBfill`.
        fill: u32,
        /// Which arrays the program left out, as bits: [`TENSOR_NO_DIMS`] and its neighbours.
        absent: u32,
        /// Bytes by which the program's map misses an alignment of 64.
        misaligned: u32,
        /// Padding.
        pad: u32,
    }
    /// The value of an attribute.
    AttributeReply = 64 {
        /// The value.
        value: [u64; 8],
    }
}

/// [`HostFunc::kind`]: `cuLaunchHostFunc`.
pub const HOST_FUNC: u32 = 0;
/// [`HostFunc::kind`]: `cuStreamAddCallback`.
pub const STREAM_CALLBACK: u32 = 1;

/// [`TensorMap::absent`]: no `dims`.
pub const TENSOR_NO_DIMS: u32 = 1;
/// [`TensorMap::absent`]: no `strides`.
pub const TENSOR_NO_STRIDES: u32 = 2;
/// [`TensorMap::absent`]: no `box_dims`.
pub const TENSOR_NO_BOX: u32 = 4;
/// [`TensorMap::absent`]: no `element_strides`.
pub const TENSOR_NO_STEPS: u32 = 8;
/// [`TensorMap::absent`]: no `lower`.
pub const TENSOR_NO_LOWER: u32 = 16;
/// [`TensorMap::absent`]: no `upper`.
pub const TENSOR_NO_UPPER: u32 = 32;

/// Everything a client may know of a device without asking, taken when it connects.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DeviceSnapshot {
    /// Name, NUL-terminated.
    pub name: [u8; 256],
    /// PCI bus id as `cuDeviceGetPCIBusId` prints it, NUL-terminated.
    pub pci_bus_id: [u8; 32],
    /// `cuDeviceGetUuid`.
    pub uuid: [u8; 16],
    /// `cuDeviceGetUuid_v2`.
    pub uuid_v2: [u8; 16],
    /// `cuDeviceTotalMem`, clipped to the client's quota, in bytes.
    pub total_memory: u64,
    /// Handle of the primary context; valid before it is retained.
    pub primary_ctx: u64,
    /// Value of each attribute; meaningful where the status is 0.
    pub attributes: [i32; crate::cuda::DEVICE_ATTRIBUTE_COUNT],
    /// What asking for each attribute returned.
    pub attribute_status: [u32; crate::cuda::DEVICE_ATTRIBUTE_COUNT],
}
const _: () = assert!(size_of::<DeviceSnapshot>() == 256 + 32 + 32 + 16 + 8 * 176);

/// Head of the snapshot area; `device_count` [`DeviceSnapshot`]s follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Snapshot {
    /// `cuDriverGetVersion`.
    pub driver_version: u32,
    /// What `cuInit` returned in the worker; with anything but 0 nothing else is meaningful.
    pub init_status: u32,
    /// Devices that follow.
    pub device_count: u32,
    /// `SNAPSHOT_*` bits.
    pub flags: u32,
}
const _: () = assert!(size_of::<Snapshot>() == 16);

/// [`Snapshot::flags`]: the device is the software device.
pub const SNAPSHOT_SOFTWARE: u32 = 1;
/// [`Snapshot::flags`]: stream memory operations may be used for timeline words.
pub const SNAPSHOT_STREAM_MEMOPS: u32 = 2;

/// Record flag: after the call, write the low 32 bits of the record's ring position to the timeline
/// word whose address is the last 8 bytes of the payload.
pub const RECORD_FLUSH: u16 = 1;
/// Record flag: the caller waits on the reply slot. Without it the record is posted: a failure is
/// latched in the reply slot.
pub const RECORD_REPLY: u16 = 2;

/// Record flag: the payload is one [`Blob`], and the real payload is what lies there. So payloads
/// beyond 512 bytes do not lengthen the time between reserving and publishing (`semantics.md` 13).
/// The blob is copied once, before anything is parsed, and belongs to the client again as soon as
/// the record is answered.
pub const RECORD_BLOB: u16 = 1 << 4;

/// Record flag: the command concerns objects of a context that is not the record's scope. Everything before it is
/// executed first, and nothing behind it overtakes it.
pub const RECORD_FOREIGN: u16 = 1 << 5;

/// Record flags: the posting thread's capture mode (`CU_STREAM_CAPTURE_MODE_*`) sits in two bits
/// from here.
pub const RECORD_CAPTURE_MODE_SHIFT: u16 = 2;

/// Reads a wire struct from the front of `bytes`, and what follows it.
pub fn read_prefix<T: FromBytes>(bytes: &[u8]) -> Option<(T, &[u8])> {
    T::read_from_prefix(bytes).ok()
}
