//! Structs of the driver API that cross the channel or are filled in by it.

use super::{CUarray, CUcontext, CUdeviceptr, CUfunction, CUgraphNode, CUkernel, CUstream};
use core::ffi::c_void;
use core::mem::size_of;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident = $size:literal { $($(#[$fdoc:meta])* $field:ident : $ty:ty),* $(,)? })*) => { $(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty),* }
        const _: () = assert!(size_of::<$name>() == $size);
        impl Default for $name {
            fn default() -> Self { <Self as zerocopy::FromZeros>::new_zeroed() }
        }
    )* };
}

plain! {
    /// A 16-byte identifier, in memory order.
    CUuuid = 16 {
        /// The bytes.
        bytes: [u8; 16],
    }
    /// A name for an allocation that other processes can open. Opaque to programs.
    CUipcMemHandle = 64 {
        /// The bytes.
        bytes: [u8; 64],
    }
    /// A name for an event that other processes can open. Opaque to programs.
    CUipcEventHandle = 64 {
        /// The bytes.
        bytes: [u8; 64],
    }
    /// Legacy device properties.
    CUdevprop = 56 {
        /// Threads per block.
        max_threads_per_block: i32,
        /// Block extents.
        max_threads_dim: [i32; 3],
        /// Grid extents.
        max_grid_size: [i32; 3],
        /// Shared memory per block in bytes.
        shared_mem_per_block: i32,
        /// Constant memory in bytes.
        total_constant_memory: i32,
        /// Warp size in threads.
        simd_width: i32,
        /// Largest pitch of a copy in bytes.
        mem_pitch: i32,
        /// 32-bit registers per block.
        regs_per_block: i32,
        /// Clock in kHz.
        clock_rate: i32,
        /// Alignment of textures in bytes.
        texture_align: i32,
    }
    /// A two-dimensional copy. Pointers are carried as addresses.
    CUDA_MEMCPY2D = 128 {
        /// Source x in bytes.
        src_x: u64,
        /// Source row.
        src_y: u64,
        /// `CU_MEMORYTYPE_*` of the source.
        src_memory_type: u32,
        /// Padding.
        pad0: u32,
        /// Host source.
        src_host: u64,
        /// Device source.
        src_device: CUdeviceptr,
        /// Array source.
        src_array: CUarray,
        /// Bytes from row to row of the source.
        src_pitch: u64,
        /// Destination x in bytes.
        dst_x: u64,
        /// Destination row.
        dst_y: u64,
        /// `CU_MEMORYTYPE_*` of the destination.
        dst_memory_type: u32,
        /// Padding.
        pad1: u32,
        /// Host destination.
        dst_host: u64,
        /// Device destination.
        dst_device: CUdeviceptr,
        /// Array destination.
        dst_array: CUarray,
        /// Bytes from row to row of the destination.
        dst_pitch: u64,
        /// Width in bytes.
        width: u64,
        /// Rows.
        height: u64,
    }
    /// A three-dimensional copy. Pointers are carried as addresses.
    CUDA_MEMCPY3D = 200 {
        /// Source x in bytes.
        src_x: u64,
        /// Source row.
        src_y: u64,
        /// Source slice.
        src_z: u64,
        /// Source level of detail, 0.
        src_lod: u64,
        /// `CU_MEMORYTYPE_*` of the source.
        src_memory_type: u32,
        /// Padding.
        pad0: u32,
        /// Host source.
        src_host: u64,
        /// Device source.
        src_device: CUdeviceptr,
        /// Array source.
        src_array: CUarray,
        /// Must be null.
        reserved0: u64,
        /// Bytes from row to row of the source.
        src_pitch: u64,
        /// Rows from slice to slice of the source.
        src_height: u64,
        /// Destination x in bytes.
        dst_x: u64,
        /// Destination row.
        dst_y: u64,
        /// Destination slice.
        dst_z: u64,
        /// Destination level of detail, 0.
        dst_lod: u64,
        /// `CU_MEMORYTYPE_*` of the destination.
        dst_memory_type: u32,
        /// Padding.
        pad1: u32,
        /// Host destination.
        dst_host: u64,
        /// Device destination.
        dst_device: CUdeviceptr,
        /// Array destination.
        dst_array: CUarray,
        /// Must be null.
        reserved1: u64,
        /// Bytes from row to row of the destination.
        dst_pitch: u64,
        /// Rows from slice to slice of the destination.
        dst_height: u64,
        /// Width in bytes.
        width: u64,
        /// Rows.
        height: u64,
        /// Slices.
        depth: u64,
    }
    /// Parameters of a memset node.
    CUDA_MEMSET_NODE_PARAMS = 40 {
        /// Destination.
        dst: CUdeviceptr,
        /// Bytes from row to row; unused with one row.
        pitch: u64,
        /// The value.
        value: u32,
        /// 1, 2 or 4.
        element_size: u32,
        /// Elements per row.
        width: u64,
        /// Rows.
        height: u64,
    }
    /// Parameters of a memory allocation node.
    CUDA_MEM_ALLOC_NODE_PARAMS = 120 {
        /// Where and how to allocate.
        props: CUmemPoolProps,
        /// Address of the access descriptors.
        access: u64,
        /// Number of access descriptors.
        access_count: u64,
        /// Bytes wanted.
        bytes: u64,
        /// Out: the address.
        dptr: CUdeviceptr,
    }
    /// Parameters of a node of any type.
    CUgraphNodeParams = 256 {
        /// `CUgraphNodeType`.
        kind: u32,
        /// Must be zero.
        reserved0: [u32; 3],
        /// A C union of the types' own parameters.
        words: [u64; 29],
        /// Must be zero.
        reserved1: u64,
    }
    /// Parameters of instantiation with results.
    CUDA_GRAPH_INSTANTIATE_PARAMS = 32 {
        /// Instantiation flags.
        flags: u64,
        /// Stream for the upload, if asked for by flag.
        upload_stream: CUstream,
        /// Out: the node at fault.
        error_node: CUgraphNode,
        /// Out: `CUgraphInstantiateResult`.
        result: u32,
        /// Padding.
        pad: u32,
    }
    /// Result of an update of an instantiated graph.
    CUgraphExecUpdateResultInfo = 24 {
        /// `CUgraphExecUpdateResult`.
        result: u32,
        /// Padding.
        pad: u32,
        /// The node at fault.
        error_node: CUgraphNode,
        /// The other end of the edge at fault.
        error_from_node: CUgraphNode,
    }
    /// Data of a graph edge; all zero for a plain dependency.
    CUgraphEdgeData = 8 {
        /// Output port, input port, type, reserved.
        bytes: [u8; 8],
    }
    /// Where memory is or is used from.
    CUmemLocation = 8 {
        /// `CUmemLocationType`; 1 is a device.
        kind: u32,
        /// Device ordinal.
        id: i32,
    }
    /// Access of a location to memory.
    CUmemAccessDesc = 12 {
        /// The location.
        location: CUmemLocation,
        /// 0 none, 1 read, 3 read and write.
        flags: u32,
    }
    /// Properties of a memory pool.
    CUmemPoolProps = 88 {
        /// `CUmemAllocationType`; 1 is pinned.
        alloc_type: u32,
        /// `CUmemAllocationHandleType` bits.
        handle_types: u32,
        /// Where the memory is.
        location: CUmemLocation,
        /// Must be null.
        security_attributes: u64,
        /// Largest size, 0 for no limit.
        max_size: u64,
        /// Intended usage bits.
        usage: u16,
        /// Whether GPUDirect RDMA is wanted, then reserved bytes.
        reserved: [u8; 54],
    }
    /// Properties of a physical allocation.
    CUmemAllocationProp = 32 {
        /// `CUmemAllocationType`; 1 is pinned.
        alloc_type: u32,
        /// `CUmemAllocationHandleType` bits.
        handle_types: u32,
        /// Where the memory is.
        location: CUmemLocation,
        /// Must be null.
        security_attributes: u64,
        /// Compression, RDMA, usage, reserved.
        flags: [u8; 8],
    }
    /// Value of a launch or stream attribute, uninterpreted.
    CUlaunchAttributeValue = 64 {
        /// The bytes; a C union aligned to 8.
        words: [u64; 8],
    }
    /// One memory operation of a batch: a C union of 48 bytes.
    CUstreamBatchMemOpParams = 48 {
        /// `CUstreamBatchMemOpType`.
        operation: u32,
        /// Flags of a flush, a barrier or a reduction; else padding.
        flags: u32,
        /// The rest of the operation: for waits and writes address, value, flags; for reductions
        /// operation and type, address, value.
        words: [u64; 5],
    }
    /// Parameters of a node with a batch of memory operations.
    CUDA_BATCH_MEM_OP_NODE_PARAMS = 32 {
        /// Context of the operations.
        ctx: CUcontext,
        /// Number of operations.
        count: u32,
        /// Padding.
        pad: u32,
        /// Address of the operations.
        operations: u64,
        /// Must be 0.
        flags: u32,
        /// Padding.
        pad1: u32,
    }
    /// What is to be known about some of the copies of a batch.
    CUmemcpyAttributes = 24 {
        /// `CUmemcpySrcAccessOrder`.
        order: u32,
        /// Hint about the source.
        source: CUmemLocation,
        /// Hint about the destination.
        destination: CUmemLocation,
        /// `CUmemcpyFlags`.
        flags: u32,
    }
    /// One end of a copy of a batch.
    CUmemcpy3DOperand = 40 {
        /// `CUmemcpy3DOperandType`: 1 memory, 2 array.
        kind: u32,
        /// Padding.
        pad: u32,
        /// A C union: address, row length, layer height, location; or array and offsets.
        words: [u64; 4],
    }
    /// One copy of a batch. Lengths count elements.
    CUDA_MEMCPY3D_BATCH_OP = 112 {
        /// From where.
        src: CUmemcpy3DOperand,
        /// To where.
        dst: CUmemcpy3DOperand,
        /// Width, height, depth.
        extent: [u64; 3],
        /// `CUmemcpySrcAccessOrder`.
        order: u32,
        /// `CUmemcpyFlags`.
        flags: u32,
    }
    /// Memory that an array needs.
    CUDA_ARRAY_MEMORY_REQUIREMENTS = 32 {
        /// Bytes.
        size: u64,
        /// Alignment in bytes.
        alignment: u64,
        /// Reserved.
        reserved: [u32; 4],
    }
    /// How a sparse array is tiled.
    CUDA_ARRAY_SPARSE_PROPERTIES = 48 {
        /// Width, height and depth of a tile in elements.
        tile: [u32; 3],
        /// First level of the mip tail.
        miptail_first: u32,
        /// Bytes of the mip tail.
        miptail_size: u64,
        /// Flags.
        flags: u32,
        /// Reserved.
        reserved: [u32; 5],
    }
    /// Execution affinity of a context.
    CUexecAffinityParam = 8 {
        /// `CUexecAffinityType`.
        kind: u32,
        /// For the number of multiprocessors: that number.
        value: u32,
    }
    /// A one- or two-dimensional array.
    CUDA_ARRAY_DESCRIPTOR = 24 {
        /// Elements per row.
        width: u64,
        /// Rows; 0 for one dimension.
        height: u64,
        /// `CUarray_format`.
        format: u32,
        /// Channels per element.
        channels: u32,
    }
    /// An array of up to three dimensions.
    CUDA_ARRAY3D_DESCRIPTOR = 40 {
        /// Elements per row.
        width: u64,
        /// Rows; 0 for one dimension.
        height: u64,
        /// Slices or layers; 0 for up to two dimensions.
        depth: u64,
        /// `CUarray_format`.
        format: u32,
        /// Channels per element.
        channels: u32,
        /// `CUDA_ARRAY3D_*`.
        flags: u32,
        /// Padding.
        pad: u32,
    }
    /// What a texture or surface is made of.
    CUDA_RESOURCE_DESC = 144 {
        /// `CUresourcetype`: array, mipmapped array, linear or pitched memory.
        kind: u32,
        /// Padding.
        pad: u32,
        /// A C union: a handle, or address, format and channels, then bytes, or width, height and
        /// pitch.
        words: [u64; 16],
        /// Must be 0.
        flags: u32,
        /// Padding.
        pad1: u32,
    }
    /// How a texture is sampled.
    CUDA_TEXTURE_DESC = 104 {
        /// Modes, filters, flags, floats; none is an address.
        words: [u32; 26],
    }
    /// How a resource is seen.
    CUDA_RESOURCE_VIEW_DESC = 112 {
        /// `CUresourceViewFormat`.
        format: u32,
        /// Padding.
        pad: u32,
        /// Width, height, depth.
        extent: [u64; 3],
        /// First and last level, first and last layer.
        parts: [u32; 4],
        /// Reserved.
        reserved: [u32; 16],
    }
    /// A tensor map: opaque but for the address of the tensor in its first word. In C it is aligned
    /// to 64 bytes.
    CUtensorMap = 128 {
        /// The words.
        words: [u64; 16],
    }
    /// A launch attribute.
    CUlaunchAttribute = 72 {
        /// `CUlaunchAttributeID`.
        id: u32,
        /// Padding.
        pad: u32,
        /// The value.
        value: CUlaunchAttributeValue,
    }
}

/// Launch configuration of `cuLaunchKernelEx`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CUlaunchConfig {
    /// Grid extents in blocks.
    pub grid: [u32; 3],
    /// Block extents in threads.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub dynamic_shared: u32,
    /// The stream.
    pub stream: CUstream,
    /// `attribute_count` attributes.
    pub attributes: *mut CUlaunchAttribute,
    /// Number of attributes.
    pub attribute_count: u32,
}
const _: () = assert!(size_of::<CUlaunchConfig>() == 56);

/// Parameters of a kernel node (`_v2`).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CUDA_KERNEL_NODE_PARAMS {
    /// The function, or null when `kernel` is given.
    pub function: CUfunction,
    /// Grid extents in blocks.
    pub grid: [u32; 3],
    /// Block extents in threads.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub dynamic_shared: u32,
    /// Pointers to the parameters.
    pub params: *mut *mut c_void,
    /// The `extra` array.
    pub extra: *mut *mut c_void,
    /// The kernel, when `function` is null.
    pub kernel: CUkernel,
    /// Context of the kernel, or null for the current one.
    pub ctx: CUcontext,
}
const _: () = assert!(size_of::<CUDA_KERNEL_NODE_PARAMS>() == 72);

/// Parameters of a kernel node before CUDA 12: without kernel and context.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types, reason = "CUDA's own name")]
pub struct CUDA_KERNEL_NODE_PARAMS_v1 {
    /// The function.
    pub function: CUfunction,
    /// Grid extents in blocks.
    pub grid: [u32; 3],
    /// Block extents in threads.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub dynamic_shared: u32,
    /// Pointers to the parameters.
    pub params: *mut *mut c_void,
    /// The `extra` array.
    pub extra: *mut *mut c_void,
}
const _: () = assert!(size_of::<CUDA_KERNEL_NODE_PARAMS_v1>() == 56);

impl From<CUDA_KERNEL_NODE_PARAMS_v1> for CUDA_KERNEL_NODE_PARAMS {
    fn from(old: CUDA_KERNEL_NODE_PARAMS_v1) -> Self {
        let CUDA_KERNEL_NODE_PARAMS_v1 {
            function,
            grid,
            block,
            dynamic_shared,
            params,
            extra,
        } = old;
        let (kernel, ctx) = (CUkernel::NULL, CUcontext::NULL);
        Self {
            function,
            grid,
            block,
            dynamic_shared,
            params,
            extra,
            kernel,
            ctx,
        }
    }
}

/// Parameters of a host node.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CUDA_HOST_NODE_PARAMS {
    /// The function.
    pub function: super::CUhostFn,
    /// Its argument.
    pub user: *mut c_void,
}
