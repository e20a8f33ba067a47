//! Layer 11: a kernel that really runs, in two processes at once.

use super::Case;
use crate::child::{self, Outcome};
use crate::probe::Request;
use crate::probe::kernel::Answer;
use crate::report::{Layer, Report};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(15);

/// Looks.
pub fn check(case: &mut Case, report: &mut Report) {
    if report.devices.is_empty() {
        report.note(
            Layer::Compute,
            "not checked: no device is there to compute on",
        );
        return;
    }
    let setting = case.setting.within(LIMIT).without("CUDA_VISIBLE_DEVICES");
    let request = Request::Kernel {
        library: "libcuda.so.1".to_owned(),
    };
    let outcomes: Vec<Option<Outcome<Answer>>> = std::thread::scope(|scope| {
        let children: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| child::run::<Answer>(&setting, &request)))
            .collect();
        children
            .into_iter()
            .map(|child| child.join().ok())
            .collect()
    });
    for outcome in outcomes.into_iter().flatten() {
        let failure = match &outcome.answer {
            Some(Answer {
                failed: Some(failed),
                ..
            }) => failed.clone(),
            Some(Answer { wrong: 0, .. }) => continue,
            Some(Answer { wrong, .. }) => format!("{wrong} results are wrong"),
            None => outcome.failure(),
        };
        report
            .fault(
                Layer::Compute,
                format!("a small kernel does not run: {failure}"),
            )
            .mend("see the daemon's log; VGPU_LOG=1 makes the shim say what it did")
            .evidence(outcome.last_words());
        return;
    }
    report.ok(
        Layer::Compute,
        "a kernel of 262,144 threads gave the right results, in two processes at once",
    );
}
