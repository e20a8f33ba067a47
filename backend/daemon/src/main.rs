//! `vhost-user-vgpu`: the host daemon. It listens on a socket, or serves a virtual machine, and gives
//! each client a worker process of its own ([`vgpu_worker`]). The daemon itself never touches CUDA: what a client can
//! break is its own worker.
//!
//! | module | what lives there |
//! |---|---|
//! | [`options`] | the command line |
//! | [`log`] | the log, and what workers write to theirs |
//! | [`outlet`] | standard error that makes nobody wait |
//! | [`probe`] | which device to serve, and what is known of it |
//! | [`host`] | the host's own management library |
//! | [`facts`] | answers to those who ask without a channel |
//! | [`peers`] | numbers of processes in containers |
//! | [`process`] | starting and ending worker processes |
//! | [`client`] | one client from its hello to its end |
//! | [`machine`] | a virtual machine: its vhost-user device, and the channels of the processes in it |
//! | [`server`] | the event loop |
//! | [`status`] | figures for `vgpu top` and Prometheus |

#![deny(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod client;
mod exchange;
mod facts;
mod host;
mod log;
mod machine;
mod options;
mod outlet;
mod peers;
mod probe;
mod process;
mod server;
mod status;

use clap::Parser;
use options::{Command, Options};
use std::process::ExitCode;

fn main() -> ExitCode {
    let options = Options::parse();
    match options.command.clone() {
        Some(Command::Worker) => {
            log::start_worker(options.log_level);
            return vgpu_worker::start::run();
        }
        Some(Command::Probe { software }) => {
            return probe::run(software, options.nvml_library.as_deref());
        }
        Some(Command::Memory { devices }) => {
            return host::memory(&devices, options.nvml_library.as_deref());
        }
        Some(Command::Figures { devices }) => {
            return host::figures::run(&devices, options.nvml_library.as_deref());
        }
        None => {}
    }
    if options.print_capabilities {
        println!("{}", options::CAPABILITIES);
        return ExitCode::SUCCESS;
    }
    let log = match log::start(options.log_level) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("no thread for the log: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = match server::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    };
    log.finish();
    code
}
