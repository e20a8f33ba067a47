//! Bodies that the table cannot generate, by the names of the calls; the work is in the modules
//! named here. Payloads are as the table in [`vgpu_protocol::wire`] says.

#![allow(non_snake_case)]

use crate::call::{Call, Outcome};
use crate::{
    arrays, callbacks, contexts, copies, graph_edges, graph_ends, graph_memory, graph_nodes,
    graph_params, graph_text, graphs, ipc, launch, link, memory, memory_operations, modules,
    registered, streams, tensor_maps, timeline, user_objects,
};
use vgpu_protocol::cuda::{CUfunction, CUresult, CUstream};
use vgpu_protocol::number::internal as number;
use vgpu_protocol::wire::{AttributeRequest, Counters, Flush};

pub use arrays::{
    create_array as cuArrayCreate_v2, create_array_3d as cuArray3DCreate_v2,
    create_mipmapped as cuMipmappedArrayCreate, create_surface as cuSurfObjectCreate,
    create_texture as cuTexObjectCreate, descriptor as cuArrayGetDescriptor_v2,
    descriptor_3d as cuArray3DGetDescriptor_v2, destroy_array as cuArrayDestroy,
    destroy_mipmapped as cuMipmappedArrayDestroy, level as cuMipmappedArrayGetLevel,
    plane as cuArrayGetPlane, surface_resource as cuSurfObjectGetResourceDesc,
    texture_descriptor as cuTexObjectGetTextureDesc,
    texture_resource as cuTexObjectGetResourceDesc, texture_view as cuTexObjectGetResourceViewDesc,
};
pub use callbacks::{
    enqueue as cuLaunchHostFunc, enqueue as cuStreamAddCallback,
    get_node as cuGraphHostNodeGetParams, set_node as cuGraphExecHostNodeSetParams,
    set_node as cuGraphHostNodeSetParams,
};
pub use contexts::{
    create as cuCtxCreate_v2, destroy as cuCtxDestroy_v2, release as cuDevicePrimaryCtxRelease_v2,
    reset as cuDevicePrimaryCtxReset_v2, retain as cuDevicePrimaryCtxRetain,
};
pub use copies::{
    copy_3d as cuMemcpy3DAsync_v2, copy_in as cuMemcpyHtoDAsync_v2,
    copy_out as cuMemcpyDtoHAsync_v2,
};
pub use graph_edges::{
    change as cuGraphAddDependencies, change as cuGraphAddDependencies_v2,
    change as cuGraphRemoveDependencies, change as cuGraphRemoveDependencies_v2,
    edges as cuGraphGetEdges, edges_with_data as cuGraphGetEdges_v2,
    neighbours as cuGraphNodeGetDependencies, neighbours as cuGraphNodeGetDependentNodes,
    neighbours_with_data as cuGraphNodeGetDependencies_v2,
    neighbours_with_data as cuGraphNodeGetDependentNodes_v2,
};
pub use graph_ends::{
    destroy_exec as cuGraphExecDestroy, destroy_graph as cuGraphDestroy,
    destroy_node as cuGraphDestroyNode,
};
pub use graph_memory::{
    add_alloc as cuGraphAddMemAllocNode, add_free as cuGraphAddMemFreeNode,
    get_alloc as cuGraphMemAllocNodeGetParams, memory_attribute as cuDeviceGetGraphMemAttribute,
    memory_attribute as cuDeviceSetGraphMemAttribute,
};
pub use graph_nodes::{
    add_conditional as cuGraphAddNode_v2, add_event as cuGraphAddEventRecordNode,
    add_event as cuGraphAddEventWaitNode, child_graph as cuGraphChildGraphNodeGetGraph,
    create_condition as cuGraphConditionalHandleCreate, find_in_clone as cuGraphNodeFindInClone,
};
pub use graph_params::{
    exec_set_copy as cuGraphExecMemcpyNodeSetParams,
    exec_set_fill as cuGraphExecMemsetNodeSetParams, get_copy as cuGraphMemcpyNodeGetParams,
    get_fill as cuGraphMemsetNodeGetParams, kernel_attribute as cuGraphKernelNodeGetAttribute,
    kernel_attribute as cuGraphKernelNodeSetAttribute, set_copy as cuGraphMemcpyNodeSetParams,
    set_fill as cuGraphMemsetNodeSetParams,
};
pub use graph_text::dot as cuGraphDebugDotPrint;
pub use graphs::{
    add_child as cuGraphAddChildGraphNode, add_copy as cuGraphAddMemcpyNode,
    add_empty as cuGraphAddEmptyNode, add_fill as cuGraphAddMemsetNode,
    add_host as cuGraphAddHostNode, add_kernel as cuGraphAddKernelNode_v2,
    exec_update as cuGraphExecUpdate_v2, get_kernel as cuGraphKernelNodeGetParams_v2,
    instantiate_with_params as cuGraphInstantiateWithParams,
    set_kernel as cuGraphKernelNodeSetParams_v2, set_kernel as cuGraphExecKernelNodeSetParams_v2,
};
pub use ipc::{
    close_memory as cuIpcCloseMemHandle, get_event as cuIpcGetEventHandle,
    get_memory as cuIpcGetMemHandle, open_event as cuIpcOpenEventHandle,
    open_memory as cuIpcOpenMemHandle_v2,
};
pub use launch::{
    launch as cuLaunchKernel, launch as cuLaunchKernelEx, launch as cuLaunchCooperativeKernel,
};
pub use link::{
    add as cuLinkAddData_v2, complete as cuLinkComplete, create as cuLinkCreate_v2,
    destroy as cuLinkDestroy,
};
pub use memory::{
    alloc as cuMemAlloc_v2, alloc_async as cuMemAllocAsync,
    alloc_from_pool as cuMemAllocFromPoolAsync, alloc_pitch as cuMemAllocPitch_v2,
    create as cuMemCreate, free as cuMemFree_v2, free_async as cuMemFreeAsync,
    info as cuMemGetInfo_v2, pool_create as cuMemPoolCreate, pool_get_access as cuMemPoolGetAccess,
    pool_set_access as cuMemPoolSetAccess, release as cuMemRelease, set_access as cuMemSetAccess,
};
pub use memory_operations::{
    add_node as cuGraphAddBatchMemOpNode, get_node as cuGraphBatchMemOpNodeGetParams,
    in_stream as cuStreamBatchMemOp, in_stream as cuStreamBatchMemOp_v2,
    set_node as cuGraphBatchMemOpNodeSetParams, set_node as cuGraphExecBatchMemOpNodeSetParams,
};
pub use modules::{
    kernel_function as cuKernelGetFunction, library_global as cuLibraryGetGlobal,
    library_kernel as cuLibraryGetKernel, library_kernels as cuLibraryEnumerateKernels,
    library_managed as cuLibraryGetManaged, load_library as cuLibraryLoadData,
    load_module as cuModuleLoadData, load_module as cuModuleLoadDataEx,
    module_function as cuModuleGetFunction, module_functions as cuModuleEnumerateFunctions,
    module_global as cuModuleGetGlobal_v2, unload_library as cuLibraryUnload,
    unload_module as cuModuleUnload,
};
pub use registered::{register as cuMemHostRegister_v2, unregister as cuMemHostUnregister};
pub use streams::{
    begin_capture as cuStreamBeginCapture_v2,
    begin_capture_to_graph as cuStreamBeginCaptureToGraph,
    capture_info as cuStreamGetCaptureInfo_v2, create as cuStreamCreate,
    create_with_priority as cuStreamCreateWithPriority, end_capture as cuStreamEndCapture,
    update_capture as cuStreamUpdateCaptureDependencies,
    update_capture as cuStreamUpdateCaptureDependencies_v2,
};
pub use tensor_maps::{
    encode as cuTensorMapEncodeTiled, encode as cuTensorMapEncodeIm2col,
    encode as cuTensorMapEncodeIm2colWide, replace_address as cuTensorMapReplaceAddress,
};

pub use user_objects::{
    create as cuUserObjectCreate, release as cuUserObjectRelease,
    release_in_graph as cuGraphReleaseUserObject, retain as cuUserObjectRetain,
    retain_in_graph as cuGraphRetainUserObject,
};

/// As named.
pub fn cuMemPoolGetAttribute(call: &mut Call<'_>) -> Outcome {
    memory::pool_attribute(call, false)
}

/// As named.
pub fn cuMemPoolSetAttribute(call: &mut Call<'_>) -> Outcome {
    memory::pool_attribute(call, true)
}

/// As named.
pub fn cuStreamGetAttribute(call: &mut Call<'_>) -> Outcome {
    streams::attribute(call, false)
}

/// As named.
pub fn cuStreamSetAttribute(call: &mut Call<'_>) -> Outcome {
    streams::attribute(call, true)
}

/// As named.
pub fn cuGraphGetNodes(call: &mut Call<'_>) -> Outcome {
    let get = call.driver().cuGraphGetNodes;
    graphs::nodes(call, get)
}

/// As named.
pub fn cuGraphGetRootNodes(call: &mut Call<'_>) -> Outcome {
    let get = call.driver().cuGraphGetRootNodes;
    graphs::nodes(call, get)
}

/// As named.
pub fn cuOccupancyMaxActiveClusters(call: &mut Call<'_>) -> Outcome {
    let ask = call.driver().cuOccupancyMaxActiveClusters;
    launch::cluster_occupancy(call, ask)
}

/// As named.
pub fn cuOccupancyMaxPotentialClusterSize(call: &mut Call<'_>) -> Outcome {
    let ask = call.driver().cuOccupancyMaxPotentialClusterSize;
    launch::cluster_occupancy(call, ask)
}

/// As named.
pub fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<AttributeRequest>()?;
    let function = CUfunction(args.object);
    call.live(function)?;
    let ask = call
        .driver()
        .cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let [block_size, dynamic_shared, ..] = args.value;
    let mut blocks = 0;
    // SAFETY: the function is live, the result has room.
    call.result(unsafe {
        ask(
            &raw mut blocks,
            function,
            block_size as i32,
            dynamic_shared as usize,
            args.attribute,
        )
    })?;
    launch::reply_number(call, i64::from(blocks).cast_unsigned())
}

/// As named.
pub fn cuOccupancyAvailableDynamicSMemPerBlock(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<AttributeRequest>()?;
    let function = CUfunction(args.object);
    call.live(function)?;
    let ask = call
        .driver()
        .cuOccupancyAvailableDynamicSMemPerBlock
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let [blocks, block_size, ..] = args.value;
    let mut bytes = 0;
    // SAFETY: the function is live, the result has room.
    call.result(unsafe { ask(&raw mut bytes, function, blocks as i32, block_size as i32) })?;
    launch::reply_number(call, bytes as u64)
}

/// Records that are no CUDA call.
///
/// # Errors
/// `NOT_SUPPORTED` for numbers that are not known.
pub fn internal(call: &mut Call<'_>) -> Outcome {
    match call.number() {
        number::FLUSH => {
            let flush = call.decode::<Flush>()?;
            let stream = call.in_stream(CUstream(flush.stream))?;
            timeline::write(call, stream, flush.word)
        }
        number::PARAM_LAYOUT => modules::param_layout(call),
        number::PING => Ok(()),
        number::COUNTERS => call.reply(&Counters {
            copied: vgpu_channel::shm::copied_bytes(),
        }),
        number::DRAIN_OUTPUT => {
            call.worker.output.deliver(&call.worker.channel);
            Ok(())
        }
        unknown => Err(call.worker.unknown(unknown)),
    }
}
