//! Questions to the backend: a connection for each, none is kept. So there is nothing to leak, nothing that a forked child
//! could inherit, and a monitor costs the backend no worker.

use core::fmt;
use std::time::Duration;
use vgpu_channel::link::query::ask;
use vgpu_channel::link::{LinkError, LinkStatus, Query};
use vgpu_process::log;
use zerocopy::FromBytes;

/// How long the backend may take. The agent of a guest that has just started waits for its device as long.
const TIMEOUT: Duration = Duration::from_secs(12);

/// Why there is no answer. The log says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAnswer;

/// Asks for facts of the type `T`.
///
/// # Errors
///
/// [`NoAnswer`].
pub fn facts<T: FromBytes>(kind: u32, index: u32, page: u32) -> Result<T, NoAnswer> {
    let path = vgpu_process::socket();
    let fail = |reason: &dyn fmt::Display| {
        log::line(format_args!(
            "NVML: no answer from {}: {reason}",
            path.display()
        ));
        NoAnswer
    };
    let answer =
        ask(&path, &Query::new(kind, index, page), TIMEOUT).map_err(|error| match error {
            LinkError::NoServer { .. } => fail(&format_args!(
                "no backend answers there; start vhost-user-vgpu --listen, or use `vgpu run`"
            )),
            LinkError::Refused(LinkStatus::Malformed) => fail(&format_args!(
                "the backend is of another version: install the same release on both sides"
            )),
            error => fail(&error),
        })?;
    let (facts, _) = T::read_from_prefix(&answer.body).map_err(|_| NoAnswer)?;
    Ok(facts)
}
