//! Device memory that belongs to graphs, as far as the quota is concerned.
//!
//! A node that allocates is charged for what of its memory no other node of its graph has: the driver
//! gives one address to several nodes whose memory is not needed at the same time. Graph and
//! executable graph share that charge (CUDA lets only one executable graph of such a graph exist, and
//! gives both the same address), so it is given back when the last of them is gone, in whatever order
//! they go. What a capture allocates that is invalidated later stays charged until its context ends.

use crate::live::{FastMap, lock};
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// What is charged for one node.
#[derive(Debug)]
pub struct Charge {
    bytes: u64,
    /// The context it dies with.
    ctx: u64,
}

/// A node that allocates.
#[derive(Debug)]
struct Node {
    graph: u64,
    /// Its memory.
    range: Range<u64>,
    charge: Arc<Charge>,
}

#[derive(Debug, Default)]
struct Held {
    nodes: FastMap<Node>,
    execs: FastMap<Vec<Arc<Charge>>>,
}

/// Bytes of `range` that lie in one of `others`, which may overlap.
fn covered(range: &Range<u64>, others: impl Iterator<Item = Range<u64>>) -> u64 {
    let clip = |other: Range<u64>| other.start.max(range.start)..other.end.min(range.end);
    let mut parts: Vec<_> = others.map(clip).filter(|part| !part.is_empty()).collect();
    parts.sort_unstable_by_key(|part| part.start);
    let (mut sum, mut end) = (0, range.start);
    for part in parts {
        sum += part.end.saturating_sub(part.start.max(end));
        end = end.max(part.end);
    }
    sum
}

/// Which graphs hold which charges.
#[derive(Debug, Default)]
pub struct GraphCharges(Mutex<Held>);

/// Charges taken from whoever held them.
#[derive(Debug, Default)]
pub struct Released {
    nodes: Vec<(u64, Node)>,
    exec: Option<(u64, Vec<Arc<Charge>>)>,
}

impl Released {
    /// Ends them: bytes that nobody else holds.
    pub fn bytes(self) -> u64 {
        let nodes = self.nodes.into_iter().map(|(_, node)| node.charge);
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
    /// Notes that memory, charged already, belongs to a node of a graph. Gives the bytes of it that
    /// other nodes of the graph are charged for.
    #[must_use]
    pub fn keep(&self, node: u64, graph: u64, range: Range<u64>, ctx: u64) -> u64 {
        let mut held = lock(&self.0);
        let others = held.nodes.values().filter(|other| other.graph == graph);
        let shared = covered(&range, others.map(|other| other.range.clone()));
        let bytes = (range.end - range.start) - shared;
        let charge = Arc::new(Charge { bytes, ctx });
        let node_of = Node {
            graph,
            range,
            charge,
        };
        held.nodes.insert(node, node_of);
        shared
    }

    /// An executable graph was made of these graphs.
    pub fn instantiated(&self, exec: u64, graphs: &[u64]) {
        let mut held = lock(&self.0);
        let of_graphs = held
            .nodes
            .values()
            .filter(|node| graphs.contains(&node.graph));
        let charges: Vec<_> = of_graphs.map(|node| Arc::clone(&node.charge)).collect();
        if !charges.is_empty() {
            held.execs.insert(exec, charges);
        }
    }

    /// Takes the charges of nodes for which `ends`, told node and graph, says so.
    pub fn take_nodes(&self, ends: impl Fn(u64, u64) -> bool) -> Released {
        let mut held = lock(&self.0);
        let taken = held
            .nodes
            .extract_if(|handle, node| ends(*handle, node.graph));
        let nodes = taken.collect();
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
        held.nodes.extend(released.nodes);
        held.execs.extend(released.exec);
    }

    /// Forgets the charges of a context that is gone; their bytes.
    pub fn context_died(&self, ctx: u64) -> u64 {
        let mut held = lock(&self.0);
        let mut gone: Vec<_> = held
            .nodes
            .extract_if(|_, node| node.charge.ctx == ctx)
            .map(|(_, node)| node.charge)
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
        assert_eq!(charges.keep(10, 1, 1089536..1089636, 5), 0);
        assert_eq!(charges.keep(20, 2, 2179072..2179102, 5), 0);
        charges.instantiated(7, &[1, 2]);
        assert_eq!(charges.take_nodes(|_, graph| graph == 1).bytes(), 0);
        // A graph of the same handle holds memory of its own.
        assert_eq!(charges.keep(10, 1, 1089536..1089544, 5), 0);
        assert_eq!(charges.take_exec(7).bytes(), 100);
        assert_eq!(charges.take_exec(7).bytes(), 0);
        assert_eq!(charges.take_nodes(|node, _| node == 20).bytes(), 30);
        assert_eq!(charges.take_nodes(|_, graph| graph == 1).bytes(), 8);
    }

    #[test]
    fn an_end_that_failed_keeps_its_charges() {
        let charges = GraphCharges::default();
        assert_eq!(charges.keep(10, 1, 1089536..1089636, 5), 0);
        charges.instantiated(7, &[1]);
        charges.put_back(charges.take_exec(7));
        charges.put_back(charges.take_nodes(|_, _| true));
        assert_eq!(charges.take_nodes(|_, _| true).bytes(), 0);
        assert_eq!(charges.take_exec(7).bytes(), 100);
    }

    #[test]
    fn a_context_takes_the_charges_of_its_graphs_along() {
        let charges = GraphCharges::default();
        assert_eq!(charges.keep(10, 1, 1089536..1089636, 5), 0);
        assert_eq!(charges.keep(20, 1, 1130496..1130526, 6), 0);
        charges.instantiated(7, &[1]);
        assert_eq!(charges.context_died(5), 100);
        assert_eq!(charges.take_nodes(|_, _| true).bytes(), 0);
        assert_eq!(charges.take_exec(7).bytes(), 30);
    }

    #[test]
    fn nodes_that_share_memory_are_charged_for_it_once() {
        assert_eq!(covered(&(10..20), [].into_iter()), 0);
        assert_eq!(
            covered(&(10..20), [0..12, 11..13, 18..30, 20..40].into_iter()),
            5
        );
        let charges = GraphCharges::default();
        assert_eq!(charges.keep(1, 1, 1000..1100, 5), 0);
        assert_eq!(charges.keep(2, 1, 1000..1100, 5), 100);
        assert_eq!(charges.keep(3, 1, 1050..1200, 5), 50);
        // Another graph has memory of its own.
        assert_eq!(charges.keep(4, 2, 1000..1100, 5), 0);
        assert_eq!(charges.take_nodes(|_, graph| graph == 1).bytes(), 200);
        assert_eq!(charges.take_nodes(|_, _| true).bytes(), 100);
    }
}
