//! What runs in a probe's process: it loads strangers' libraries and calls them.
//!
//! All code that calls foreign functions is below this module. A probe announces each step before it takes it, so that a
//! child that dies tells where.

pub mod call;
pub mod driver;
pub mod ggml;
pub mod hello;
pub mod kernel;
pub mod legacy;
pub mod library;
pub mod native;
pub mod nvml;
pub mod runtime;

use serde::{Deserialize, Serialize};
use std::io::Write;
use std::process::ExitCode;

/// The hidden subcommand that runs a probe.
pub const COMMAND: &str = "probe";

/// Options of the hidden subcommand.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The request, as JSON
    request: String,
}

/// What a probe shall do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Load a library and say which files came with it.
    Load {
        /// Name or path, as a program would give it.
        library: String,
    },
    /// Ask the driver for everything that libcudart asks at initialisation.
    Driver {
        /// Name or path of `libcuda.so.1`.
        library: String,
    },
    /// Ask a libcudart for its devices.
    Runtime {
        /// Its path.
        library: String,
    },
    /// Ask NVML, three times from load to unload.
    Nvml {
        /// Name or path of `libnvidia-ml.so.1`.
        library: String,
        /// The device to look up by UUID.
        uuid: Option<String>,
    },
    /// Load ggml backends as a runner does.
    Ggml {
        /// Folders to scan, in order.
        folders: Vec<String>,
        /// One file to load besides (`GGML_BACKEND_PATH`).
        file: Option<String>,
        /// Print what `llama-server --list-devices` prints.
        list: bool,
        /// Stay until killed.
        hold: bool,
    },
    /// What the Ollama server itself did from 0.1.34 to 0.12.3.
    Legacy {
        /// Files to try, in order.
        candidates: Vec<String>,
    },
    /// What `ollama gpu-discover` does from 0.30 on.
    Native,
    /// Greet the backend and hold the session.
    Hello {
        /// The socket.
        socket: String,
        /// Stay until killed.
        hold: bool,
    },
    /// Run a small kernel and compare its results.
    Kernel {
        /// Name or path of `libcuda.so.1`.
        library: String,
    },
}

/// A line through the answer pipe.
#[derive(Debug, Serialize, Deserialize)]
pub enum Line {
    /// What comes next.
    Step(String),
    /// The answer; nothing follows.
    Answer(serde_json::Value),
}

/// Announces a step.
pub fn step(text: impl Into<String>) {
    send(&Line::Step(text.into()));
}

fn send(line: &Line) {
    if let Ok(mut text) = serde_json::to_vec(line) {
        text.push(b'\n');
        let pipe = std::io::stdin();
        let mut rest = text.as_slice();
        while !rest.is_empty() {
            match rustix::io::write(&pipe, rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or(&[]),
                Err(rustix::io::Errno::INTR) => {}
                // Nobody listens any more.
                Err(_) => return,
            }
        }
    }
}

/// Runs the probe asked for and sends its answer.
///
/// # Errors
/// When the request is none.
pub fn main(options: &Options) -> anyhow::Result<ExitCode> {
    let request = serde_json::from_str(&options.request)?;
    let mut held = false;
    let mut keep: Box<dyn std::any::Any> = Box::new(());
    let answer = match request {
        Request::Load { library } => serde_json::to_value(library::load(&library))?,
        Request::Driver { library } => serde_json::to_value(driver::ask(&library))?,
        Request::Runtime { library } => serde_json::to_value(runtime::ask(&library))?,
        Request::Nvml { library, uuid } => {
            serde_json::to_value(nvml::ask(&library, uuid.as_deref()))?
        }
        Request::Ggml {
            folders,
            file,
            list,
            hold,
        } => {
            held = hold;
            serde_json::to_value(ggml::ask(&folders, file.as_deref(), list))?
        }
        Request::Legacy { candidates } => serde_json::to_value(legacy::ask(&candidates))?,
        Request::Native => serde_json::to_value(native::ask())?,
        Request::Hello { socket, hold } => {
            held = hold;
            let (answer, session) = hello::ask(&socket);
            keep = Box::new(session);
            serde_json::to_value(answer)?
        }
        Request::Kernel { library } => serde_json::to_value(kernel::ask(&library))?,
    };
    std::io::stdout().flush()?;
    send(&Line::Answer(answer));
    if held {
        // The parent kills this process; it cannot outlive it, see `child`.
        std::thread::sleep(std::time::Duration::from_secs(60));
    }
    drop(keep);
    Ok(ExitCode::SUCCESS)
}
