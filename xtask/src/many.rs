//! Eight different CUDA programs at once on one backend, as eight users would have them.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use vgpu_e2e::backend::Backend;
use vgpu_e2e::command;
use vgpu_e2e::parts::Parts;
use vgpu_e2e::program::Run;
use vgpu_e2e::verdict::judge;

use crate::programs::{Built, needs_shared_runtime};
use crate::suite::configure;
use crate::summary::Summary;

/// How they appear in the summary.
const GROUP: &str = "eight programs at once";

/// Programs that compute, copy, allocate, call back and capture.
const PROGRAMS: [&str; 8] = [
    "graphs_capture",
    "histogram",
    "host_callbacks",
    "matmul_tiled",
    "memory_drv",
    "nbody",
    "streams_overlap",
    "vector_add",
];

/// Eight of them get less of a processor than one alone.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs the first variant of each of the eight, all at the same time.
pub fn at_once(
    summary: &mut Summary,
    dist: &Path,
    device: &str,
    built: &Built,
) -> anyhow::Result<()> {
    let backend = Backend::start(&Parts::in_dist(dist)?, device)?;
    let mut jobs = Vec::new();
    for name in PROGRAMS {
        let program = built.programs.iter().find(|program| program.name == name);
        let first =
            program.and_then(|program| Some((program, program.binaries().into_iter().next()?)));
        let Some((program, (file, variant))) = first else {
            anyhow::bail!("no CUDA program is called {name}");
        };
        let mut command = Command::new(built.folder.join(&file));
        configure(
            &mut command,
            program.runs.first().unwrap_or(&Run::default()),
        );
        let further: &[&Path] = if needs_shared_runtime(variant) {
            &[&built.runtimes]
        } else {
            &[]
        };
        backend.attach(&mut command, further);
        jobs.push((file, program, command));
    }
    let start = Instant::now();
    let ended: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = jobs
            .iter_mut()
            .map(|(_, _, command)| scope.spawn(move || command::run(command, LIMIT)))
            .collect();
        running.into_iter().map(|thread| thread.join()).collect()
    });
    let wall = start.elapsed();
    for ((file, program, _), output) in jobs.iter().zip(ended) {
        let output =
            output.map_err(|_| anyhow::anyhow!("the thread that ran {file} panicked"))??;
        let expected = program.expected_output()?;
        let verdict = judge(&program.name, &output, expected.as_deref());
        println!(
            "{GROUP}: {file}: {:.2} s  {verdict}",
            output.wall.as_secs_f64()
        );
        summary.verdict(GROUP, file, &verdict, wall / PROGRAMS.len() as u32);
    }
    Ok(())
}
