//! Graphs: nodes, dependencies, copies of graphs.

pub(crate) mod exec;

use crate::callback::HostCall;
use crate::copy::{Copy, Fill};
use crate::event::Event;
use crate::foreign::Outcome;
use crate::launch::KernelLaunch;
use crate::operations::Operations;
use crate::table::{Kind, Table};
use crate::user_object::{References, Token};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use vgpu_protocol::cuda::CUresult;

/// What a node does.
#[derive(Clone)]
pub(crate) enum Action {
    /// Nothing: only its order counts.
    Empty,
    /// Launches a kernel.
    Kernel(Arc<KernelLaunch>),
    /// Copies.
    Copy(Copy),
    /// Fills.
    Fill(Fill),
    /// Calls the program.
    Host(HostCall),
    /// Executes another graph.
    Child(Arc<Graph>),
    /// Records an event.
    Record(Arc<Event>),
    /// Waits for an event recorded outside.
    WaitEvent(Arc<Event>),
    /// Writes words and waits for some.
    Operations(Operations),
}

impl Action {
    /// `CUgraphNodeType`.
    pub(crate) fn node_type(&self) -> u32 {
        match self {
            Self::Kernel(_) => 0,
            Self::Copy(_) => 1,
            Self::Fill(_) => 2,
            Self::Host(_) => 3,
            Self::Child(_) => 4,
            Self::Empty => 5,
            Self::WaitEvent(_) => 6,
            Self::Record(_) => 7,
            Self::Operations(_) => 12,
        }
    }
}

/// A node of a graph.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) action: Action,
    /// Nodes it waits for.
    pub(crate) after: Vec<u64>,
}

/// A graph. Nodes are kept by handle, which is the order they were added in.
pub(crate) struct Graph {
    pub(crate) handle: u64,
    nodes: Mutex<BTreeMap<u64, Node>>,
    /// References to objects of the program.
    pub(crate) objects: Mutex<References>,
}

static GRAPHS: Table<Graph> = Table::new(Kind::Graph);
static OWNERS: RwLock<BTreeMap<u64, Weak<Graph>>> = RwLock::new(BTreeMap::new());

/// The live graph of a handle.
pub(crate) fn get(handle: u64) -> Outcome<Arc<Graph>> {
    GRAPHS.get(handle).ok_or(CUresult::INVALID_VALUE)
}

/// Destroys a graph with its nodes.
pub(crate) fn destroy(handle: u64) -> Outcome {
    let graph = GRAPHS.remove(handle).ok_or(CUresult::INVALID_VALUE)?;
    let nodes = graph.nodes.lock();
    OWNERS.write().retain(|node, _| !nodes.contains_key(node));
    Ok(())
}

/// The graph of a live node.
pub(crate) fn owner(node: u64) -> Outcome<Arc<Graph>> {
    let owner = OWNERS.read().get(&node).and_then(Weak::upgrade);
    owner.ok_or(CUresult::INVALID_VALUE)
}

impl Graph {
    /// An empty graph.
    pub(crate) fn create() -> Arc<Self> {
        GRAPHS.insert_with(|handle| Self {
            handle,
            nodes: Mutex::new(BTreeMap::new()),
            objects: Mutex::default(),
        })
    }

    /// Adds a node.
    ///
    /// # Errors
    /// `INVALID_VALUE` for dependencies that are no nodes of this graph or named twice.
    pub(crate) fn add(self: &Arc<Self>, action: Action, after: &[u64]) -> Outcome<u64> {
        let mut nodes = self.nodes.lock();
        let distinct: BTreeSet<_> = after.iter().collect();
        let known = after.iter().all(|node| nodes.contains_key(node));
        if distinct.len() != after.len() || !known {
            return Err(CUresult::INVALID_VALUE);
        }
        let handle = Kind::Node.mint();
        let after = after.to_vec();
        nodes.insert(handle, Node { action, after });
        OWNERS.write().insert(handle, Arc::downgrade(self));
        Ok(handle)
    }

    /// Makes nodes wait for others: each of `edges` is (from, to).
    ///
    /// # Errors
    /// `INVALID_VALUE` for nodes of other graphs, edges that are there already, and circles; then
    /// nothing is added.
    pub(crate) fn connect(&self, edges: &[(u64, u64)]) -> Outcome {
        let mut nodes = self.nodes.lock();
        let mut changed = nodes.clone();
        for (from, to) in edges {
            if !changed.contains_key(from) || from == to {
                return Err(CUresult::INVALID_VALUE);
            }
            let node = changed.get_mut(to).ok_or(CUresult::INVALID_VALUE)?;
            if node.after.contains(from) {
                return Err(CUresult::INVALID_VALUE);
            }
            node.after.push(*from);
        }
        if order(&changed).is_none() {
            return Err(CUresult::INVALID_VALUE);
        }
        *nodes = changed;
        Ok(())
    }

    /// Removes a node and its edges.
    pub(crate) fn remove(&self, node: u64) -> Outcome {
        let mut nodes = self.nodes.lock();
        nodes.remove(&node).ok_or(CUresult::INVALID_VALUE)?;
        for other in nodes.values_mut() {
            other.after.retain(|from| *from != node);
        }
        OWNERS.write().remove(&node);
        Ok(())
    }

    /// Looks at a node.
    pub(crate) fn node(&self, node: u64) -> Outcome<Node> {
        let nodes = self.nodes.lock();
        nodes.get(&node).cloned().ok_or(CUresult::INVALID_VALUE)
    }

    /// Replaces what a node does by something of the same type.
    pub(crate) fn replace(&self, node: u64, action: Action) -> Outcome {
        let mut nodes = self.nodes.lock();
        let node = nodes.get_mut(&node).ok_or(CUresult::INVALID_VALUE)?;
        if node.action.node_type() != action.node_type() {
            return Err(CUresult::INVALID_VALUE);
        }
        node.action = action;
        Ok(())
    }

    /// All nodes, in the order they were added.
    pub(crate) fn nodes(&self) -> Vec<u64> {
        self.nodes.lock().keys().copied().collect()
    }

    /// Nodes that wait for nothing.
    pub(crate) fn roots(&self) -> Vec<u64> {
        let nodes = self.nodes.lock();
        let roots = nodes.iter().filter(|(_, node)| node.after.is_empty());
        roots.map(|(handle, _)| *handle).collect()
    }

    /// All edges as (from, to).
    pub(crate) fn edges(&self) -> Vec<(u64, u64)> {
        let nodes = self.nodes.lock();
        let edges = |(to, node): (&u64, &Node)| {
            let to = *to;
            let after = node.after.clone();
            after.into_iter().map(move |from| (from, to))
        };
        nodes.iter().flat_map(edges).collect()
    }

    /// The given nodes and all they wait for.
    pub(crate) fn ancestors(&self, of: &[u64]) -> BTreeSet<u64> {
        let nodes = self.nodes.lock();
        let mut reached = BTreeSet::new();
        let mut open = of.to_vec();
        while let Some(handle) = open.pop() {
            if reached.insert(handle) {
                open.extend(nodes.get(&handle).into_iter().flat_map(|node| &node.after));
            }
        }
        reached
    }

    /// The nodes in an order that keeps all dependencies; `None` if they go in a circle.
    pub(crate) fn in_order(&self) -> Option<Vec<(u64, Node)>> {
        let nodes = self.nodes.lock();
        let order = order(&nodes)?;
        let node = |handle: u64| nodes.get(&handle).map(|node| (handle, node.clone()));
        order.into_iter().map(node).collect()
    }

    /// The objects of the program that it and its child graphs keep.
    pub(crate) fn tokens(&self) -> Vec<Arc<Token>> {
        let mut tokens: Vec<_> = self
            .objects
            .lock()
            .values()
            .map(|(token, _)| Arc::clone(token))
            .collect();
        for node in self.nodes.lock().values() {
            if let Action::Child(child) = &node.action {
                tokens.extend(child.tokens());
            }
        }
        tokens
    }

    /// Another graph with the same nodes under new handles.
    pub(crate) fn duplicate(&self) -> Outcome<Arc<Self>> {
        let copy = Self::create();
        let mut names = BTreeMap::new();
        let nodes = self.in_order().ok_or(CUresult::INVALID_VALUE)?;
        for (handle, node) in nodes {
            let after: Vec<u64> = node
                .after
                .iter()
                .filter_map(|from| names.get(from).copied())
                .collect();
            let action = match node.action {
                Action::Child(child) => Action::Child(child.duplicate()?),
                other => other,
            };
            names.insert(handle, copy.add(action, &after)?);
        }
        copy.objects.lock().clone_from(&self.objects.lock());
        Ok(copy)
    }
}

/// Handles in an order that keeps all dependencies, oldest first where there is a choice.
fn order(nodes: &BTreeMap<u64, Node>) -> Option<Vec<u64>> {
    let mut waiting: BTreeMap<u64, usize> = BTreeMap::new();
    let mut followers: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (handle, node) in nodes {
        waiting.insert(*handle, node.after.len());
        for from in &node.after {
            followers.entry(*from).or_default().push(*handle);
        }
    }
    let mut ready: BTreeSet<u64> = waiting
        .iter()
        .filter(|(_, count)| **count == 0)
        .map(|(handle, _)| *handle)
        .collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(handle) = ready.pop_first() {
        order.push(handle);
        for follower in followers.get(&handle).into_iter().flatten() {
            if let Some(count) = waiting.get_mut(follower) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    ready.insert(*follower);
                }
            }
        }
    }
    (order.len() == nodes.len()).then_some(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_keeps_dependencies_and_circles_are_refused() {
        let graph = Graph::create();
        let first = graph.add(Action::Empty, &[]).expect("no dependencies");
        let second = graph.add(Action::Empty, &[]).expect("no dependencies");
        let third = graph.add(Action::Empty, &[first]).expect("known node");
        graph.connect(&[(third, second)]).expect("no circle");
        let order: Vec<u64> = graph
            .in_order()
            .expect("no circle")
            .into_iter()
            .map(|(handle, _)| handle)
            .collect();
        assert_eq!(order, [first, third, second]);
        assert!(graph.connect(&[(second, first)]).is_err());
        assert!(graph.connect(&[(third, second)]).is_err(), "there already");
        assert!(graph.add(Action::Empty, &[first, first]).is_err());
        assert_eq!(graph.roots(), [first]);
        assert_eq!(graph.ancestors(&[second]).len(), 3);
        graph.remove(third).expect("a node");
        assert_eq!(graph.roots(), [first, second]);
        destroy(graph.handle).expect("a graph");
        assert!(owner(first).is_err());
    }

    #[test]
    fn a_duplicate_has_nodes_of_its_own() {
        let graph = Graph::create();
        let first = graph.add(Action::Empty, &[]).expect("no dependencies");
        graph.add(Action::Empty, &[first]).expect("known node");
        let copy = graph.duplicate().expect("no circle");
        assert_eq!(copy.edges().len(), 1);
        assert!(
            copy.nodes()
                .iter()
                .all(|node| !graph.nodes().contains(node))
        );
    }
}
