//! The project's chores, as `cargo xtask VERB`.
//!
//! | verb | does |
//! |---|---|
//! | `demo` | builds everything, compiles a few CUDA programs and runs them inside a virtual machine |
//! | `test` | every test there is, on the software device, with a summary |
//! | `dist` | a relocatable `dist/` folder |
//! | `coverage` | what of the driver API is implemented |
//! | `ggml` | real ggml and CUDA libraries for the tests of Ollama's discovery |
//! | `qemu` | the distribution's QEMU with the device loaded into it |
//! | `guest` | the tests that boot a virtual machine |
//! | `wheels` | what real CUDA libraries ask of the driver, compared with what the shim has |
//! | `gpu` | `dist/gpu`, which checks everything on a machine with a GPU and without a network |
//!
//! A Rust toolchain is all that is presupposed: the CUDA compiler and zig (for guests with an older C library) come from PyPI, python3-venv, g++ and QEMU from the
//! system's packages where they are missing. Each download says what it is.

mod apt;
mod coverage;
mod cupy;
mod demo;
mod dist;
mod elf;
mod fetch;
mod ggml;
mod gpu;
mod gpu_guest;
mod gpu_life;
mod gpu_llama;
mod guest;
mod machine;
mod many;
mod monitors;
mod places;
mod portable;
mod programs;
mod qemu;
mod shell;
mod smoke;
mod suite;
mod summary;
mod system;
mod systemd;
mod toolkit;
mod wheels;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's chores")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build everything, compile a few CUDA programs with NVIDIA's compiler, and run them inside a virtual machine.
    Demo(demo::Options),
    /// Run every test on the software device; the last line is 'N passed, N failed, N skipped'.
    Test(suite::Options),
    /// Make a relocatable dist/ folder of stripped release binaries.
    Dist {
        /// Also compile the CUDA test programs into dist/programs.
        #[arg(long)]
        programs: bool,
    },
    /// Print what of the driver API is declared, implemented and refused.
    Coverage(coverage::Options),
    /// Make dist/gpu: all that a machine with a GPU and no network needs to check the project.
    Gpu {
        /// Make dist/gpu-guest instead: the same programs inside a virtual machine, QEMU included.
        #[arg(long)]
        guest: bool,
        /// Make dist/llama-1 and dist/llama-2 instead: a prebuilt llama.cpp, for use beside dist/gpu.
        #[arg(long, conflicts_with = "guest")]
        llama: bool,
    },
    /// Fetch the real ggml and CUDA libraries that the tests of Ollama's discovery load, into .cache/ggml.
    Ggml,
    /// Start the distribution's QEMU with the device vhost-user-vgpu-pci, built and installed if need be.
    Qemu(qemu::Options),
    /// Run the tests that boot a virtual machine (TCG, no KVM needed).
    Guest,
    /// Compare what the libraries of NVIDIA and others ask of the driver with what the shim has, and start them on the software device.
    Wheels(wheels::Options),
}

fn main() -> std::process::ExitCode {
    let outcome = match Arguments::parse().verb {
        Verb::Demo(options) => demo::demo(&options),
        Verb::Test(options) => suite::test(&options),
        Verb::Dist { programs } => dist::dist_verb(programs),
        Verb::Coverage(options) => coverage::coverage(&options),
        Verb::Gpu { guest: true, .. } => gpu_guest::bundle(),
        Verb::Gpu { llama: true, .. } => gpu_llama::bundle(),
        Verb::Gpu { .. } => gpu::gpu(),
        Verb::Ggml => ggml::fetched().map(|folder| println!("{}", folder.display())),
        Verb::Qemu(options) => qemu::qemu(&options),
        Verb::Guest => guest::guest(),
        Verb::Wheels(options) => wheels::wheels(&options),
    };
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
