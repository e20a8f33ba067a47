//! Parameters of copies and fills in graphs and attributes of kernels, read and changed.

use crate::call::{Call, Outcome};
use crate::copies::check_3d;
use crate::graphs::live_ctx;
use crate::launch;

use vgpu_protocol::cuda::{
    CUDA_MEMCPY3D, CUDA_MEMSET_NODE_PARAMS, CUcontext, CUgraphExec, CUgraphNode,
    CUlaunchAttributeValue, CUresult,
};
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, AttributeReply, AttributeRequest};

/// `cuGraphMemsetNodeGetParams`.
///
/// # Errors
/// What the client gets.
pub fn get_fill(call: &mut Call<'_>) -> Outcome {
    let node: CUgraphNode = call
        .decode::<wire::cuGraphMemsetNodeGetParams::Args>()?
        .node
        .get();
    call.live(node)?;
    let get = call
        .driver()
        .cuGraphMemsetNodeGetParams
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut params = CUDA_MEMSET_NODE_PARAMS::default();
    // SAFETY: the node is live, the result has room.
    call.result(unsafe { get(node, &raw mut params) })?;
    call.reply(&params)
}

/// `cuGraphMemcpyNodeGetParams`.
///
/// # Errors
/// What the client gets.
pub fn get_copy(call: &mut Call<'_>) -> Outcome {
    let node: CUgraphNode = call
        .decode::<wire::cuGraphMemcpyNodeGetParams::Args>()?
        .node
        .get();
    call.live(node)?;
    let get = call
        .driver()
        .cuGraphMemcpyNodeGetParams
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut copy = CUDA_MEMCPY3D::default();
    // SAFETY: the node is live, the result has room.
    call.result(unsafe { get(node, &raw mut copy) })?;
    call.reply(&copy)
}

/// `cuGraphMemsetNodeSetParams`.
///
/// # Errors
/// What the client gets.
pub fn set_fill(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuGraphMemsetNodeSetParams::Args>()?;
    let node: CUgraphNode = args.node.get();
    call.live(node)?;
    call.worker.device_address(args.params.dst.0)?;
    let set = call
        .driver()
        .cuGraphMemsetNodeSetParams
        .ok_or(CUresult::NOT_SUPPORTED)?;
    // SAFETY: the node is live, the address lies in the window; the driver copies the parameters.
    call.result(unsafe { set(node, &raw const args.params) })
}

/// `cuGraphExecMemsetNodeSetParams`.
///
/// # Errors
/// What the client gets.
pub fn exec_set_fill(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuGraphExecMemsetNodeSetParams::Args>()?;
    let (exec, node): (CUgraphExec, CUgraphNode) = (args.exec.get(), args.node.get());
    let ctx = context_of(call, args.ctx.get());
    call.live(exec)?;
    call.live(node)?;
    live_ctx(call, ctx)?;
    call.worker.device_address(args.params.dst.0)?;
    let set = call
        .driver()
        .cuGraphExecMemsetNodeSetParams
        .ok_or(CUresult::NOT_SUPPORTED)?;
    // SAFETY: all handles are live, the address lies in the window; the driver copies the
    // parameters.
    call.result(unsafe { set(exec, node, &raw const args.params, ctx) })
}

/// `cuGraphMemcpyNodeSetParams`.
///
/// # Errors
/// What the client gets.
pub fn set_copy(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuGraphMemcpyNodeSetParams::Args>()?;
    let node: CUgraphNode = args.node.get();
    call.live(node)?;
    check_3d(call, &args.copy)?;
    let set = call
        .driver()
        .cuGraphMemcpyNodeSetParams
        .ok_or(CUresult::NOT_SUPPORTED)?;
    // SAFETY: the node is live, both sides of the copy were checked; the driver copies the
    // parameters.
    call.result(unsafe { set(node, &raw const args.copy) })
}

/// `cuGraphExecMemcpyNodeSetParams`.
///
/// # Errors
/// What the client gets.
pub fn exec_set_copy(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuGraphExecMemcpyNodeSetParams::Args>()?;
    let (exec, node): (CUgraphExec, CUgraphNode) = (args.exec.get(), args.node.get());
    let ctx = context_of(call, args.ctx.get());
    call.live(exec)?;
    call.live(node)?;
    live_ctx(call, ctx)?;
    check_3d(call, &args.copy)?;
    let set = call
        .driver()
        .cuGraphExecMemcpyNodeSetParams
        .ok_or(CUresult::NOT_SUPPORTED)?;
    // SAFETY: all handles are live, both sides of the copy were checked; the driver copies the
    // parameters.
    call.result(unsafe { set(exec, node, &raw const args.copy, ctx) })
}

/// `cuGraphKernelNodeGetAttribute`, `cuGraphKernelNodeSetAttribute`.
///
/// # Errors
/// What the client gets.
pub fn kernel_attribute(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<AttributeRequest>()?;
    let node = CUgraphNode(args.object);
    call.live(node)?;
    launch::check_attribute(call, args.attribute, &args.value)?;
    let mut value = CUlaunchAttributeValue { words: args.value };
    let driver = call.driver();
    let result = if call.number() == number::cuGraphKernelNodeSetAttribute {
        // SAFETY: the node is live, the value has the size of the C union and was checked.
        unsafe {
            vgpu_driver::call!(
                driver,
                cuGraphKernelNodeSetAttribute(node, args.attribute, &raw const value)
            )
        }
    } else {
        // SAFETY: as above, and the result has room.
        unsafe {
            vgpu_driver::call!(
                driver,
                cuGraphKernelNodeGetAttribute(node, args.attribute, &raw mut value)
            )
        }
    };
    call.result(result)?;
    call.reply(&AttributeReply { value: value.words })
}

/// The context that a call names, or the record's own.
fn context_of(call: &Call<'_>, named: CUcontext) -> CUcontext {
    if named == CUcontext::NULL {
        CUcontext(call.request.header.scope)
    } else {
        named
    }
}
