//! Layer 9: llama.cpp on its own. It looks for backends beside its program, in the working folder and in
//! `GGML_BACKEND_PATH`; `LD_LIBRARY_PATH` is not searched for them.

use super::{Case, ollama};
use crate::child;
use crate::discovery::ollama::Installation;
use crate::discovery::{Emulation, cuda_backends};
use crate::probe::{Request, ggml};
use crate::report::{Layer, Report};
use crate::target::Target;
use std::path::PathBuf;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(15);

/// The backend that a llama.cpp program would load.
#[must_use]
pub fn backend_of(target: &Target, installed: Option<&Installation>) -> Option<PathBuf> {
    let program = target.program.as_deref()?;
    if installed.is_some_and(|ollama| ollama.is_target) {
        return None;
    }
    let beside = cuda_backends(program.parent()?);
    let working = cuda_backends(&target.folder);
    let named = target
        .variable("GGML_BACKEND_PATH")
        .map(PathBuf::from)
        .filter(|path| path.exists());
    beside.into_iter().chain(working).chain(named).next()
}

/// Looks.
pub fn check(case: &mut Case, report: &mut Report) {
    let Some(file) = &case.llama else {
        if case.target.is_named("llama") {
            report
                .warning(
                    Layer::Llama,
                    "no libggml-cuda.so beside the program, in its working folder or in GGML_BACKEND_PATH",
                )
                .mend("install a build of llama.cpp with CUDA; LD_LIBRARY_PATH is not searched for backends");
        }
        return;
    };
    let request = Request::Ggml {
        folders: Vec::new(),
        file: Some(file.display().to_string()),
        list: true,
        hold: false,
    };
    let outcome = child::run::<ggml::Answer>(&case.setting.within(LIMIT), &request);
    let mut told = Emulation {
        program: "llama.cpp".to_owned(),
        lines: outcome.stdout.lines().map(str::to_owned).collect(),
        evidence: outcome.last_words(),
        seconds: outcome.wall.as_secs_f64(),
        ..Emulation::default()
    };
    match &outcome.answer {
        Some(answer) => {
            told.devices = answer.devices().cloned().collect();
            for backend in &answer.backends {
                if let Some(reason) = &backend.refused {
                    told.faults.push((
                        format!("{} is refused: {reason}", backend.file),
                        "see layer 4".to_owned(),
                    ));
                }
            }
        }
        None => told.faults.push((
            format!("it would die: {}", outcome.failure()),
            "see layer 4".to_owned(),
        )),
    }
    ollama::conclude(Layer::Llama, told, report);
}
