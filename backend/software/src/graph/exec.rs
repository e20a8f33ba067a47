//! Instantiated graphs: launching and updating them.

use super::{Action, Graph};
use crate::event::{Event, Record, State};
use crate::foreign::Outcome;
use crate::stream::{Mark, Stream};
use crate::table::{Kind, Table};
use crate::user_object::Token;
use crate::work::Work;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use vgpu_protocol::cuda::CUresult;

/// A node as it was when its graph was instantiated.
struct Step {
    /// The node's handle in that graph.
    node: u64,
    action: Action,
    /// The steps of a child graph.
    child: Vec<Step>,
    /// Places of the steps it waits for, ascending.
    after: Vec<usize>,
}

struct Instance {
    steps: Vec<Step>,
    /// The last launch: launches of one graph never overlap.
    last: Option<Mark>,
}

/// An instantiated graph.
pub(crate) struct Exec {
    pub(crate) handle: u64,
    instance: Mutex<Instance>,
    /// Objects of the program that are needed as long as it lives or runs.
    tokens: Arc<Vec<Arc<Token>>>,
}

static EXECS: Table<Exec> = Table::new(Kind::Exec);

/// The live instantiated graph of a handle.
pub(crate) fn get(handle: u64) -> Outcome<Arc<Exec>> {
    EXECS.get(handle).ok_or(CUresult::INVALID_VALUE)
}

/// Destroys an instantiated graph. Launches under way go on.
pub(crate) fn destroy(handle: u64) -> Outcome {
    let gone = EXECS.remove(handle);
    gone.map(drop).ok_or(CUresult::INVALID_VALUE)
}

/// The nodes of a graph in executable order.
fn steps(graph: &Graph) -> Outcome<Vec<Step>> {
    let nodes = graph.in_order().ok_or(CUresult::INVALID_VALUE)?;
    let mut places = BTreeMap::new();
    let mut steps = Vec::with_capacity(nodes.len());
    for (place, (handle, node)) in nodes.into_iter().enumerate() {
        places.insert(handle, place);
        let places_of = node.after.iter().filter_map(|from| places.get(from));
        let mut after: Vec<usize> = places_of.copied().collect();
        after.sort_unstable();
        let child = match &node.action {
            Action::Child(child) => self::steps(child)?,
            _ => Vec::new(),
        };
        steps.push(Step {
            node: handle,
            action: node.action,
            child,
            after,
        });
    }
    Ok(steps)
}

/// Why a graph does not fit an instantiated one (`CUgraphExecUpdateResult`), and the node at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// The code.
    pub(crate) result: u32,
    /// The node of the new graph, or 0.
    pub(crate) node: u64,
}

/// `CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED`
const TOPOLOGY_CHANGED: u32 = 2;
/// `CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED`
const NODE_TYPE_CHANGED: u32 = 3;

fn compare(old: &[Step], new: &[Step]) -> Result<(), Mismatch> {
    let mismatch = |result, node| Err(Mismatch { result, node });
    if old.len() != new.len() {
        return mismatch(TOPOLOGY_CHANGED, 0);
    }
    for (old, new) in old.iter().zip(new) {
        if old.action.node_type() != new.action.node_type() {
            return mismatch(NODE_TYPE_CHANGED, new.node);
        }
        if old.after != new.after {
            return mismatch(TOPOLOGY_CHANGED, new.node);
        }
        compare(&old.child, &new.child)?;
    }
    Ok(())
}

/// Takes over what the nodes of an equal graph do.
fn adopt(old: &mut [Step], new: Vec<Step>) {
    for (old, new) in old.iter_mut().zip(new) {
        old.action = new.action;
        adopt(&mut old.child, new.child);
    }
}

impl Exec {
    /// Instantiates a graph.
    ///
    /// # Errors
    /// `INVALID_VALUE` for nodes in a circle.
    pub(crate) fn create(graph: &Graph) -> Outcome<Arc<Self>> {
        let steps = steps(graph)?;
        let tokens = Arc::new(graph.tokens());
        Ok(EXECS.insert_with(|handle| Self {
            handle,
            instance: Mutex::new(Instance { steps, last: None }),
            tokens,
        }))
    }

    /// Enqueues one execution.
    ///
    /// # Errors
    /// As [`Stream::submit`].
    pub(crate) fn launch(&self, stream: &Arc<Stream>) -> Outcome {
        let mut instance = self.instance.lock();
        let mut plan = Plan::default();
        plan.add(&instance.steps);
        if !self.tokens.is_empty() {
            plan.work.push(Work::Keep(Arc::clone(&self.tokens)));
        }
        plan.after.extend(instance.last.take());
        let submitted = stream.submit(Work::Graph(Arc::new(plan.work)), plan.after);
        let mark = submitted.inspect_err(|_| {
            plan.recordings
                .iter()
                .for_each(|(_, record)| record.release());
        })?;
        for (event, record) in plan.recordings {
            *event.state.lock() = State::Recorded(mark.clone(), record);
        }
        instance.last = Some(mark);
        Ok(())
    }

    /// Gives every node the parameters it has in `graph`, which must have the same shape.
    pub(crate) fn update(&self, graph: &Graph) -> Outcome<Result<(), Mismatch>> {
        let new = steps(graph)?;
        let mut instance = self.instance.lock();
        if let Err(mismatch) = compare(&instance.steps, &new) {
            return Ok(Err(mismatch));
        }
        adopt(&mut instance.steps, new);
        Ok(Ok(()))
    }

    /// Replaces what one node does by something of the same type.
    ///
    /// # Errors
    /// `INVALID_VALUE` if the graph had no such node of this type.
    pub(crate) fn replace(&self, node: u64, action: Action) -> Outcome {
        let mut instance = self.instance.lock();
        let mut steps = instance.steps.iter_mut();
        let step = steps.find(|step| step.node == node);
        let step = step.ok_or(CUresult::INVALID_VALUE)?;
        if step.action.node_type() != action.node_type() {
            return Err(CUresult::INVALID_VALUE);
        }
        step.action = action;
        Ok(())
    }
}

/// What one launch of a graph executes.
#[derive(Default)]
struct Plan {
    work: Vec<Work>,
    /// Recordings of events that were made outside any graph: the whole launch waits for them,
    /// which is earlier than it had to but never wrong.
    after: Vec<Mark>,
    recordings: Vec<(Arc<Event>, Arc<Record>)>,
}

impl Plan {
    fn add(&mut self, steps: &[Step]) {
        for step in steps {
            let work = match &step.action {
                Action::Child(_) => {
                    self.add(&step.child);
                    continue;
                }
                Action::WaitEvent(event) => {
                    self.after.extend(event.mark().ok().flatten());
                    match event.point() {
                        Some(point) => Work::Await(point),
                        None => continue,
                    }
                }
                Action::Record(event) => {
                    let record = Arc::new(Record::of(event));
                    self.recordings
                        .push((Arc::clone(event), Arc::clone(&record)));
                    Work::Record(record)
                }
                action => action.work(),
            };
            self.work.push(work);
        }
    }
}

impl Action {
    /// The command that does it. Events and child graphs, which need more than a command, do
    /// nothing.
    pub(crate) fn work(&self) -> Work {
        match self {
            Self::Empty | Self::Child(_) | Self::Record(_) | Self::WaitEvent(_) => Work::Nothing,
            Self::Kernel(launch) => Work::Kernel(Arc::clone(launch)),
            Self::Copy(copy) => Work::Copy(copy.clone()),
            Self::Fill(fill) => Work::Fill(*fill),
            Self::Host(call) => Work::Host(*call),
            Self::Operations(operations) => operations.work(),
        }
    }
}
