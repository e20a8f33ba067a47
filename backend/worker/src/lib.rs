//! Executes the calls of one guest process: everything that runs inside a worker.
//!
//! A worker is one process with one client. Its threads:
//!
//! * the *issuer* ([`issuer`]) reads the command ring and executes, in order, what cannot block;
//! * a *lane* per guest thread ([`lanes`]) executes what may block;
//! * the *control* thread ([`control`]) maps more heap and closes the [`gate`] when the daemon says so;
//! * the *output* thread ([`output`]) relays what device code prints;
//! * a *printing* thread ([`printing`]) looks through images that have to be unpacked, while there are any.
//!
//! A record's way: [`issuer`] copies it out of the ring, [`call`] checks scope and flags,
//! [`dispatch`] finds the body by number — generated from the table of calls, or hand-written
//! ([`hand`]) — which checks every handle ([`live`]), address and length on the private copy and
//! calls the driver; [`call`] answers, or latches the failure of a post.
//!
//! # What a client can do
//!
//! Nothing it writes makes this crate panic: a bad record is answered with an error and counted, a
//! corrupt ring ends this worker. The checks are robustness; the boundary is the process
//! (`isolation.md`).

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod arrays;
pub mod call;
pub mod callbacks;
pub mod capture;
pub mod contexts;
pub mod control;
pub mod copies;
pub mod describe;
pub mod device;
pub mod dispatch;
pub mod exchange;
pub mod figures;
pub mod fuzz;
pub mod gate;
pub mod graph_charges;
mod graph_edges;
mod graph_ends;
mod graph_memory;
pub mod graph_nodes;
pub mod graph_params;
mod graph_text;
pub mod graphs;
pub mod hand;
pub mod image;
pub mod ipc;
pub mod issuer;
pub mod issuers;
pub mod lanes;
pub mod launch;
pub mod link;
pub mod live;
pub mod memory;
mod memory_operations;
pub mod modules;
pub mod output;
pub mod printing;
pub mod quota;
pub mod registered;
pub mod registration;
pub mod rules;
pub mod setup;
pub mod snapshot;
pub mod start;
pub mod state;
pub mod streams;
pub mod tensor_maps;
pub mod timeline;
mod user_objects;
