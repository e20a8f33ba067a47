//! Measuring one library: the rows of the table, in the order of the table.
//!
//! Each file below makes the rows of one subject. A row is a [`Case`]: what the number means and a
//! function that makes samples. Warm-up, allocation and the check of what was computed or copied
//! stay outside the timed regions; see `docs/benchmarks.md` for the method.

mod bandwidth;
mod concurrency;
mod launch;
mod local;
mod memory;
mod plan;
mod sample;
mod small_copy;
mod start;
mod stream;

pub use plan::Plan;
pub use start::{Session, Startup, monotonic};

use std::fmt::Debug;

use crate::cuda::Failure;
use crate::metric::{Metric, Target, Unit};
use crate::pin::Bound;
use crate::record::Outcome;
use crate::stats::Summary;

/// Samples of one metric in its unit.
type Samples = Result<Vec<f64>, Failure>;

/// What a case does.
type Run = Box<dyn Fn(&Session<'_>) -> Samples>;

/// One row: what it means and how it is measured.
pub struct Case {
    /// What it means.
    pub metric: Metric,
    /// Whether the measuring thread is bound to one CPU meanwhile, if there is one to bind to.
    bound: bool,
    run: Run,
}

impl Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Case")
            .field("metric", &self.metric)
            .field("bound", &self.bound)
            .finish()
    }
}

impl Case {
    fn new(
        id: impl Into<String>,
        label: impl Into<String>,
        unit: Unit,
        target: Target,
        run: impl Fn(&Session<'_>) -> Samples + 'static,
    ) -> Self {
        let metric = Metric {
            id: id.into(),
            label: label.into(),
            unit,
            target,
        };
        Self {
            metric,
            bound: true,
            run: Box::new(run),
        }
    }

    /// A latency in nanoseconds.
    fn time(
        id: impl Into<String>,
        label: impl Into<String>,
        target: Target,
        run: impl Fn(&Session<'_>) -> Samples + 'static,
    ) -> Self {
        Self::new(id, label, Unit::Nanoseconds, target, run)
    }

    /// The same measurement free to use all CPUs: for work that many threads share.
    fn unbound(mut self) -> Self {
        self.bound = false;
        self
    }

    /// All samples, measured wherever the scheduler puts the thread.
    ///
    /// # Errors
    /// The first failure.
    pub fn samples(&self, session: &Session<'_>) -> Result<Vec<f64>, Failure> {
        (self.run)(session)
    }

    /// Measures, bound to `cpu` if the case wants that.
    pub fn measure(&self, session: &Session<'_>, cpu: Option<usize>) -> Outcome {
        let _bound = match cpu.filter(|_| self.bound).map(Bound::to).transpose() {
            Ok(bound) => bound,
            Err(error) => return Outcome::Failed(format!("binding to a CPU: {error}")),
        };
        match (self.run)(session) {
            Ok(samples) => match Summary::of(&samples) {
                Some(summary) => Outcome::Measured(summary),
                None => Outcome::Failed("no usable samples".to_owned()),
            },
            Err(failure) => failure.into(),
        }
    }
}

/// All rows, in the order of the table.
pub fn catalogue(plan: Plan) -> Vec<Case> {
    let mut cases = start::cases();
    cases.extend(launch::cases(plan));
    cases.extend(small_copy::cases(plan));
    cases.extend(bandwidth::cases(plan));
    cases.extend(local::cases(plan));
    cases.extend(stream::cases(plan));
    cases.extend(memory::cases(plan));
    cases.extend(concurrency::cases(plan));
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_are_unique_and_plain() {
        for plan in [Plan::full(), Plan::quick()] {
            let mut seen = HashSet::new();
            for case in catalogue(plan) {
                let id = &case.metric.id;
                assert!(
                    id.bytes()
                        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                    "{id}"
                );
                assert!(seen.insert(id.clone()), "{id} twice");
            }
        }
    }

    #[test]
    fn labels_are_unique_too() {
        let mut seen = HashSet::new();
        for case in catalogue(Plan::full()) {
            assert!(
                seen.insert(case.metric.label.clone()),
                "{} twice",
                case.metric.label
            );
        }
    }
}
