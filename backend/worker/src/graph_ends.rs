//! Ends of graphs, nodes and executable graphs.
//!
//! What ends is taken out of the live sets and of the charges before the driver is asked: it may give
//! the handles away to another thread before its function returns. What did not end comes back.

use crate::call::{Call, Outcome};
use crate::graph_charges::Released;
use crate::live::{Kind, Taken};
use vgpu_protocol::cuda::{CUgraph, CUgraphExec, CUgraphNode, CUresult};
use vgpu_protocol::wire;

/// Makes the driver's call and settles what was taken for it.
fn settle(
    call: &Call<'_>,
    taken: Vec<Taken>,
    released: Released,
    end: impl FnOnce() -> CUresult,
) -> Outcome {
    let ended = call.result(end());
    if ended.is_ok() {
        call.worker.quota.give_back(released.bytes());
    } else {
        call.worker.live.put_back(taken);
        call.worker.graph_charges.put_back(released);
    }
    ended
}

/// The charges of nodes that were taken out, those that nobody listed included.
fn charges_of(call: &Call<'_>, taken: &[Taken]) -> Released {
    let charges = &call.worker.graph_charges;
    charges.take_nodes(|node, graph| {
        is_taken(taken, Kind::Graph, graph) || is_taken(taken, Kind::Node, node)
    })
}

fn is_taken(taken: &[Taken], kind: Kind, handle: u64) -> bool {
    taken
        .iter()
        .any(|taken| taken.kind == kind && taken.handle == handle)
}

/// `cuGraphDestroy`.
///
/// # Errors
/// What the client gets.
pub fn destroy_graph(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuGraphDestroy::Args>()?;
    let graph: CUgraph = args.graph.get();
    // A graph inside of another one ends with its node.
    if call.entry(graph)?.owner != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    let destroy = call
        .driver()
        .cuGraphDestroy
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let taken = call.worker.live.take_graph(graph.0);
    if taken.is_empty() {
        // Another thread was faster.
        return Err(CUresult::INVALID_VALUE);
    }
    let released = charges_of(call, &taken);
    let of_graphs = |graph| is_taken(&taken, Kind::Graph, graph);
    let objects = &call.worker.user_objects;
    let references = objects.take_graphs(of_graphs);
    // SAFETY: the graph was live until just now.
    let ended = settle(call, taken, released, || unsafe { destroy(graph) });
    if ended.is_err() {
        objects.put_back(references);
    }
    ended
}

/// `cuGraphDestroyNode`.
///
/// # Errors
/// What the client gets.
pub fn destroy_node(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuGraphDestroyNode::Args>()?;
    let node: CUgraphNode = args.node.get();
    call.live(node)?;
    let destroy = call
        .driver()
        .cuGraphDestroyNode
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let taken = call.worker.live.take_node(node.0);
    if taken.is_empty() {
        return Err(CUresult::INVALID_VALUE);
    }
    let released = charges_of(call, &taken);
    // SAFETY: the node was live until just now.
    settle(call, taken, released, || unsafe { destroy(node) })
}

/// `cuGraphExecDestroy`.
///
/// # Errors
/// What the client gets.
pub fn destroy_exec(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuGraphExecDestroy::Args>()?;
    let exec: CUgraphExec = args.exec.get();
    call.live(exec)?;
    let destroy = call
        .driver()
        .cuGraphExecDestroy
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let Some(entry) = call.worker.live.remove(Kind::Exec, exec.0) else {
        return Err(CUresult::INVALID_VALUE);
    };
    let taken = vec![Taken {
        kind: Kind::Exec,
        handle: exec.0,
        entry,
    }];
    let released = call.worker.graph_charges.take_exec(exec.0);
    // SAFETY: the executable graph was live until just now.
    settle(call, taken, released, || unsafe { destroy(exec) })
}

/// Notes that an executable graph was made of a graph.
pub fn instantiated(call: &Call<'_>, graph: CUgraph, exec: CUgraphExec) {
    let graphs = call.worker.live.graphs_of(graph.0);
    call.worker.graph_charges.instantiated(exec.0, &graphs);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{Executor, Request, execute};
    use crate::live::Entry;
    use crate::state::{Parts, Worker};
    use std::sync::{Arc, OnceLock};
    use vgpu_channel::link::Hello;
    use vgpu_channel::loopback;
    use vgpu_channel::server::Config;
    use vgpu_driver::Driver;
    use vgpu_protocol::cuda::CUcontext;
    use vgpu_protocol::number::call as number;

    static WORKER: OnceLock<Arc<Worker>> = OnceLock::new();

    fn of(owner: u64) -> Entry {
        Entry {
            owner,
            ..Entry::default()
        }
    }

    /// A driver that gives the handles away again, to another thread of the client, before it returns.
    unsafe extern "C" fn reuse(graph: CUgraph) -> CUresult {
        let worker = WORKER.get().expect("set by the test");
        worker.live.enter(Kind::Graph, graph.0, of(0));
        worker.live.enter(Kind::Node, 0x20, of(graph.0));
        assert_eq!(worker.quota.charge(30), Ok(()));
        let range = 0x9000..0x9000 + 30;
        assert_eq!(worker.graph_charges.keep(0x20, graph.0, range, 1), 0);
        CUresult::SUCCESS
    }

    unsafe extern "C" fn set_current(_: CUcontext) -> CUresult {
        CUresult::SUCCESS
    }

    unsafe extern "C" fn refuse(node: CUgraphNode) -> CUresult {
        let worker = WORKER.get().expect("set by the test");
        assert!(!worker.live.contains(Kind::Node, node.0));
        CUresult::NOT_SUPPORTED
    }

    unsafe extern "C" fn end(_: CUgraphExec) -> CUresult {
        CUresult::SUCCESS
    }

    #[test]
    fn handles_that_the_driver_gives_out_again_stay_live_and_charged() {
        let pair = loopback::pair(&Config::default(), Hello::new(0, 0), &[]).expect("a channel");
        let worker = Worker::new(Parts {
            quota: 1000,
            ..Parts::bare(
                Driver {
                    cuCtxSetCurrent: Some(set_current),
                    cuGraphDestroy: Some(reuse),
                    cuGraphDestroyNode: Some(refuse),
                    cuGraphExecDestroy: Some(end),
                    ..Driver::default()
                },
                Arc::clone(&pair.server),
            )
        });
        WORKER.set(Arc::clone(&worker)).expect("one test");
        let slot = pair.client.alloc_reply().expect("a slot");
        let mut thread = Executor::new(&worker.driver, 0);
        let mut ask = |call: u16, handle: u64| {
            let request = Request::of_client(call, slot);
            execute(&worker, &mut thread, request, &handle.to_le_bytes());
        };
        worker.live.enter(Kind::Graph, 0x10, of(0));
        worker.live.enter(Kind::Node, 0x20, of(0x10));
        worker.live.enter(Kind::Exec, 0x30, of(0));
        assert_eq!(worker.quota.charge(500), Ok(()));
        let range = 0x1000..0x1000 + 500;
        assert_eq!(worker.graph_charges.keep(0x20, 0x10, range, 1), 0);
        worker.graph_charges.instantiated(0x30, &[0x10]);
        // An end that fails changes nothing.
        ask(number::cuGraphDestroyNode, 0x20);
        assert!(worker.live.contains(Kind::Node, 0x20));
        assert_eq!(worker.quota.clip_free(1000), 500);
        // The executable graph keeps its memory charged; what came anew is live and charged, too.
        ask(number::cuGraphDestroy, 0x10);
        assert!(worker.live.contains(Kind::Graph, 0x10));
        assert!(worker.live.contains(Kind::Node, 0x20));
        assert_eq!(worker.quota.clip_free(1000), 470);
        ask(number::cuGraphExecDestroy, 0x30);
        assert!(!worker.live.contains(Kind::Exec, 0x30));
        assert_eq!(worker.quota.clip_free(1000), 970);
    }
}
