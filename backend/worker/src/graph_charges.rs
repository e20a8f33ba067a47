//! Device memory that belongs to graphs, as far as the quota is concerned.
//!
//! A node that allocates is charged once. Graph and executable graph share that charge (CUDA lets
//! only one executable graph of such a graph exist, and gives both the same address), so it is given
//! back when the last of them is gone, in whatever order they go.

use crate::live::{FastMap, lock};
use std::sync::{Arc, Mutex};

/// The memory of one node.
#[derive(Debug)]
pub struct Charge {
    bytes: u64,
    /// The context it dies with.
    ctx: u64,
}

#[derive(Debug, Default)]
struct Held {
    /// By node: the graph it is in.
    nodes: FastMap<(u64, Arc<Charge>)>,
    execs: FastMap<Vec<Arc<Charge>>>,
}

/// Which graphs hold which charges.
#[derive(Debug, Default)]
pub struct GraphCharges(Mutex<Held>);

/// Charges taken from whoever held them.
#[derive(Debug, Default)]
pub struct Released {
    nodes: Vec<(u64, u64, Arc<Charge>)>,
    exec: Option<(u64, Vec<Arc<Charge>>)>,
}

impl Released {
    /// Ends them: bytes that nobody else holds.
    pub fn bytes(self) -> u64 {
        let nodes = self.nodes.into_iter().map(|(_, _, charge)| charge);
        let exec = self.exec.into_iter().flat_map(|(_, charges)| charges);
        last_of(nodes.chain(exec))
    }
}

/// Bytes of the charges that nobody else holds.
fn last_of(charges: impl Iterator<Item = Arc<Charge>>) -> u64 {
    charges
        .filter_map(Arc::into_inner)
        .fold(0, |sum, charge| sum.saturating_add(charge.bytes))
}

impl GraphCharges {
    /// Notes that `bytes`, charged already, belong to a node of a graph.
    pub fn keep(&self, node: u64, graph: u64, bytes: u64, ctx: u64) {
        let charge = Arc::new(Charge { bytes, ctx });
        lock(&self.0).nodes.insert(node, (graph, charge));
    }

    /// An executable graph was made of these graphs.
    pub fn instantiated(&self, exec: u64, graphs: &[u64]) {
        let mut held = lock(&self.0);
        let of_graphs = held
            .nodes
            .values()
            .filter(|(graph, _)| graphs.contains(graph));
        let charges: Vec<_> = of_graphs.map(|(_, charge)| Arc::clone(charge)).collect();
        if !charges.is_empty() {
            held.execs.insert(exec, charges);
        }
    }

    /// Takes the charges of nodes for which `ends`, told node and graph, says so.
    pub fn take_nodes(&self, ends: impl Fn(u64, u64) -> bool) -> Released {
        let mut held = lock(&self.0);
        let taken = held
            .nodes
            .extract_if(|node, (graph, _)| ends(*node, *graph));
        let nodes = taken
            .map(|(node, (graph, charge))| (node, graph, charge))
            .collect();
        Released { nodes, exec: None }
    }

    /// Takes the charges of an executable graph.
    pub fn take_exec(&self, exec: u64) -> Released {
        let charges = lock(&self.0).execs.remove(&exec);
        Released {
            nodes: Vec::new(),
            exec: charges.map(|charges| (exec, charges)),
        }
    }

    /// Gives charges back to whom they were taken from, whose end failed.
    pub fn put_back(&self, released: Released) {
        let mut held = lock(&self.0);
        for (node, graph, charge) in released.nodes {
            held.nodes.insert(node, (graph, charge));
        }
        held.execs.extend(released.exec);
    }

    /// Forgets the charges of a context that is gone; their bytes.
    pub fn context_died(&self, ctx: u64) -> u64 {
        let mut held = lock(&self.0);
        let mut gone: Vec<_> = held
            .nodes
            .extract_if(|_, (_, charge)| charge.ctx == ctx)
            .map(|(_, (_, charge))| charge)
            .collect();
        for charges in held.execs.values_mut() {
            gone.extend(charges.extract_if(.., |charge| charge.ctx == ctx));
        }
        held.execs.retain(|_, charges| !charges.is_empty());
        last_of(gone.into_iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_ends_with_the_last_that_holds_it() {
        let charges = GraphCharges::default();
        charges.keep(10, 1, 100, 5);
        charges.keep(20, 2, 30, 5);
        charges.instantiated(7, &[1, 2]);
        assert_eq!(charges.take_nodes(|_, graph| graph == 1).bytes(), 0);
        // A graph of the same handle holds memory of its own.
        charges.keep(10, 1, 8, 5);
        assert_eq!(charges.take_exec(7).bytes(), 100);
        assert_eq!(charges.take_exec(7).bytes(), 0);
        assert_eq!(charges.take_nodes(|node, _| node == 20).bytes(), 30);
        assert_eq!(charges.take_nodes(|_, graph| graph == 1).bytes(), 8);
    }

    #[test]
    fn an_end_that_failed_keeps_its_charges() {
        let charges = GraphCharges::default();
        charges.keep(10, 1, 100, 5);
        charges.instantiated(7, &[1]);
        charges.put_back(charges.take_exec(7));
        charges.put_back(charges.take_nodes(|_, _| true));
        assert_eq!(charges.take_nodes(|_, _| true).bytes(), 0);
        assert_eq!(charges.take_exec(7).bytes(), 100);
    }

    #[test]
    fn a_context_takes_the_charges_of_its_graphs_along() {
        let charges = GraphCharges::default();
        charges.keep(10, 1, 100, 5);
        charges.keep(20, 1, 30, 6);
        charges.instantiated(7, &[1]);
        assert_eq!(charges.context_died(5), 100);
        assert_eq!(charges.take_nodes(|_, _| true).bytes(), 0);
        assert_eq!(charges.take_exec(7).bytes(), 30);
    }
}
