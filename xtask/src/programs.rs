//! Compiling the CUDA test programs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::SystemTime;

use anyhow::{Context, bail};
use vgpu_e2e::program::{Api, Cudart, Program, Variant, discover};

use crate::shell::{copy, create_folder, run_quietly, say};
use crate::toolkit::{self, Toolkit};
use crate::{elf, places};

/// A folder of compiled programs.
#[derive(Debug)]
pub struct Built {
    /// Where the binaries lie.
    pub folder: PathBuf,
    /// Where the shared libcudarts lie that some of them load.
    pub runtimes: PathBuf,
    /// The programs that were built.
    pub programs: Vec<Program>,
}

/// Compiles the programs that `wanted` selects into `.cache/programs-...`, reusing what is newer than its sources.
///
/// With `machine_code` they also hold code for Hopper GPUs; without it only PTX, which is all the software device reads.
pub fn build(machine_code: bool, wanted: impl Fn(&Program) -> bool) -> anyhow::Result<Built> {
    let all = discover(&places::programs())?;
    let programs: Vec<Program> = all.into_iter().filter(|p| wanted(p)).collect();
    let folder = places::cache().join(if machine_code {
        "programs-gpu"
    } else {
        "programs"
    });
    let runtimes = folder.join("runtimes");
    create_folder(&runtimes)?;
    let toolkits = toolkits(&programs, &runtimes)?;
    let driver = DriverBuild::prepare(&folder, machine_code, &programs)?;

    let mut jobs = Vec::new();
    for program in &programs {
        for (file, variant) in program.binaries() {
            let target = folder.join(file);
            if !is_fresh(&target, &inputs(program)?)? {
                jobs.push((program, variant, target));
            }
        }
    }
    if !jobs.is_empty() {
        say(&format!("compiling {} CUDA test programs", jobs.len()));
    }
    let compile = |(program, variant, target): (&Program, Option<Variant>, PathBuf)| match variant {
        Some(variant) => compile_runtime(&toolkits, program, variant, machine_code, &target),
        None => driver.compile(program, &target),
    };
    in_parallel(jobs, compile)?;
    Ok(Built {
        folder,
        runtimes,
        programs,
    })
}

/// Fetches the toolkits that `programs` need and puts their shared runtimes into `runtimes`.
fn toolkits(programs: &[Program], runtimes: &Path) -> anyhow::Result<Vec<Toolkit>> {
    // The driver programs need CUDA 13's headers and compiler in any case.
    let mut majors = BTreeSet::from([13]);
    majors.extend(
        programs
            .iter()
            .flat_map(|p| p.variants.iter().map(|v| v.toolkit)),
    );
    let mut found = Vec::new();
    for major in majors {
        let toolkit = Toolkit::get(major)?;
        let (library, name) = toolkit.shared_runtime();
        let target = runtimes.join(name);
        if !target.exists() {
            copy(&library, &target)?;
        }
        found.push(toolkit);
    }
    Ok(found)
}

fn compile_runtime(
    toolkits: &[Toolkit],
    program: &Program,
    variant: Variant,
    machine_code: bool,
    target: &Path,
) -> anyhow::Result<()> {
    let toolkit = toolkits
        .iter()
        .find(|t| t.major == variant.toolkit)
        .with_context(|| format!("no toolkit for {variant}"))?;
    let mut nvcc = toolkit.nvcc(variant.cudart);
    nvcc.args([
        "-std=c++17",
        "-O2",
        "-arch=compute_75",
        toolkit::code(machine_code),
    ])
    .args(&program.compiler_arguments)
    .arg("-o")
    .args([target, &program.source]);
    run_quietly(&mut nvcc)?;
    strip(target)
}

/// What the driver programs have in common: generated headers and something to link `-lcuda` against.
struct DriverBuild {
    include: PathBuf,
    generated: PathBuf,
    stub_folder: PathBuf,
}

impl DriverBuild {
    fn prepare(folder: &Path, machine_code: bool, programs: &[Program]) -> anyhow::Result<Self> {
        let build = Self {
            include: Toolkit::get(13)?.root.join("include"),
            generated: folder.join("generated"),
            stub_folder: folder.join("stub"),
        };
        if programs.iter().all(|p| p.api != Api::Driver) {
            return Ok(build);
        }
        create_folder(&build.generated)?;
        create_folder(&build.stub_folder)?;
        let kernels = places::programs().join("driver/kernels.cu");
        let header = build.generated.join("kernels.h");
        if !is_fresh(&header, std::slice::from_ref(&kernels))? {
            let ptx = toolkit::ptx(&kernels, &build.generated)?;
            let fatbin = toolkit::fatbin(&kernels, &build.generated, machine_code)?;
            std::fs::write(&header, kernels_header(&ptx, &fatbin))?;
        }
        let names = build.generated.join("proc_names.h");
        if !names.exists() {
            let typedefs = std::fs::read_to_string(build.include.join("cudaTypedefs.h"))?;
            std::fs::write(&names, proc_names_header(&typedefs)?)?;
        }
        Ok(build)
    }

    /// Compiles one program and links it with a stand-in that has just the driver functions it calls: nothing here
    /// depends on the shim, and the program finds whichever `libcuda.so.1` the loader finds at run time.
    fn compile(&self, program: &Program, target: &Path) -> anyhow::Result<()> {
        let object = self.generated.join(format!("{}.o", program.name));
        run_quietly(
            Command::new("g++")
                .args([
                    "-std=c++17",
                    "-O1",
                    "-Wall",
                    "-Wextra",
                    "-Wno-missing-field-initializers",
                    "-pthread",
                    "-c",
                    "-o",
                ])
                .args([&object, &program.source])
                .arg("-I")
                .arg(&self.generated)
                .arg("-isystem")
                .arg(&self.include),
        )?;
        let mut stub = String::new();
        for name in elf::undefined_symbols(&object)?
            .iter()
            .filter(|name| name.starts_with("cu"))
        {
            writeln!(stub, "int {name}(void) {{ return 3; }}")?;
        }
        let folder = self.stub_folder.join(&program.name);
        create_folder(&folder)?;
        let source = folder.join("stub.c");
        std::fs::write(&source, stub)?;
        run_quietly(
            Command::new("g++")
                .args([
                    "-x",
                    "c",
                    "-shared",
                    "-fPIC",
                    "-Wl,-soname,libcuda.so.1",
                    "-o",
                ])
                .args([&folder.join("libcuda.so"), &source]),
        )?;
        run_quietly(
            Command::new("g++")
                .args(["-pthread", "-o"])
                .args([target, &object])
                .arg("-L")
                .arg(&folder)
                .args(["-Wl,--no-as-needed", "-lcuda", "-ldl"]),
        )?;
        strip(target)
    }
}

fn kernels_header(ptx: &str, fatbin: &[u8]) -> String {
    let mut text = String::from("// Generated from driver/kernels.cu.\n#pragma once\n");
    // A raw string literal may hold at most 65,535 bytes by the standard; adjacent ones are joined.
    text.push_str("static const char kernels_ptx[] =\n");
    for line in ptx.lines() {
        let _ = writeln!(text, "R\"PTX({line}\n)PTX\"");
    }
    text.push_str(";\nalignas(8) static const unsigned char kernels_fatbin[] = {");
    for (i, byte) in fatbin.iter().enumerate() {
        let _ = write!(text, "{}{byte},", if i % 32 == 0 { "\n" } else { "" });
    }
    text.push_str("\n};\n");
    text
}

/// Reads the `PFN_name_vVERSION` typedefs, with `_ptds` and `_ptsz` for the per-thread forms, in version order.
fn proc_names_header(typedefs: &str) -> anyhow::Result<String> {
    let mut names = BTreeSet::new();
    for line in typedefs.lines().filter(|line| line.starts_with("typedef ")) {
        let Some(rest) = line.split("PFN_").nth(1) else {
            continue;
        };
        let word: String = rest
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect();
        let plain = word.trim_end_matches("_ptsz").trim_end_matches("_ptds");
        let Some((name, version)) = plain.rsplit_once("_v") else {
            continue;
        };
        if let Ok(version) = version.parse::<u32>() {
            names.insert((name.to_owned(), plain.len() != word.len(), version));
        }
    }
    if names.len() < 400 {
        bail!(
            "only {} names in cudaTypedefs.h; has its format changed?",
            names.len()
        );
    }
    let mut text = String::from(
        "// Generated from cudaTypedefs.h.\n#pragma once\nstruct ProcName {\n    const char *name;\n    int version;\n    bool per_thread;\n};\nstatic const ProcName proc_names[] = {\n",
    );
    for (name, per_thread, version) in names {
        writeln!(text, "    {{\"{name}\", {version}, {per_thread}}},")?;
    }
    text.push_str("};\n");
    Ok(text)
}

/// The files a program is built from: its source and everything its folder and the common one hold.
fn inputs(program: &Program) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = vec![program.source.clone()];
    let common = places::programs().join("common");
    for entry in std::fs::read_dir(common)? {
        files.push(entry?.path());
    }
    if program.api == Api::Driver {
        files.push(places::programs().join("driver/kernels.cu"));
    }
    Ok(files)
}

fn is_fresh(target: &Path, inputs: &[PathBuf]) -> anyhow::Result<bool> {
    let Ok(made) = target.metadata().and_then(|m| m.modified()) else {
        return Ok(false);
    };
    let mut newest = SystemTime::UNIX_EPOCH;
    // A change of the build itself (flags, generators, versions) counts as a change of the sources.
    let build =
        ["xtask/src/programs.rs", "xtask/src/toolkit.rs"].map(|file| places::root().join(file));
    for input in inputs.iter().chain(&build) {
        let changed = input
            .metadata()
            .and_then(|m| m.modified())
            .with_context(|| format!("cannot read {}", input.display()))?;
        newest = newest.max(changed);
    }
    Ok(newest <= made)
}

fn strip(binary: &Path) -> anyhow::Result<()> {
    run_quietly(Command::new("strip").arg(binary))
}

/// Does the jobs on as many threads as there are CPUs; stops at the first failure.
fn in_parallel<T: Send>(
    jobs: Vec<T>,
    work: impl Fn(T) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<()> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let queue = Mutex::new(jobs);
    let failure = Mutex::new(None);
    let next = || queue.lock().ok().and_then(|mut jobs| jobs.pop());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(job) = next() {
                    if let Err(error) = work(job) {
                        if let Ok(mut first) = failure.lock() {
                            first.get_or_insert(error);
                        }
                        if let Ok(mut jobs) = queue.lock() {
                            jobs.clear();
                        }
                    }
                }
            });
        }
    });
    match failure.into_inner() {
        Ok(Some(error)) => Err(error),
        _ => Ok(()),
    }
}

/// Whether a variant loads its libcudart from a file.
pub fn needs_shared_runtime(variant: Option<Variant>) -> bool {
    variant.is_some_and(|v| v.cudart == Cudart::Shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typedef_names_are_read_with_their_versions() {
        let mut text = String::from(
            "typedef CUresult (CUDAAPI *PFN_cuMemAlloc_v3020)(CUdeviceptr *dptr, size_t bytesize);\n\
             typedef CUresult (CUDAAPI *PFN_cuMemcpy_v7000_ptds)(CUdeviceptr dst);\n\
             #define PFN_cuMemAlloc PFN_cuMemAlloc_v3020\n",
        );
        for i in 0..400 {
            text.push_str(&format!(
                "typedef CUresult (CUDAAPI *PFN_cuFiller{i}_v2000)(void);\n"
            ));
        }
        let header = proc_names_header(&text).expect("enough names");
        assert!(header.contains("{\"cuMemAlloc\", 3020, false},"));
        assert!(header.contains("{\"cuMemcpy\", 7000, true},"));
        assert_eq!(header.matches("cuMemAlloc").count(), 1);
        assert!(proc_names_header("typedef int x;").is_err());
    }

    #[test]
    fn a_failing_job_stops_the_rest_and_is_reported() {
        let result = in_parallel(
            vec![1, 2, 3],
            |n| if n == 2 { bail!("two") } else { Ok(()) },
        );
        assert_eq!(result.expect_err("job two fails").to_string(), "two");
        assert!(in_parallel(vec![1, 2, 3], |_| Ok(())).is_ok());
    }
}
