//! The shared-memory channel between one guest process (the *client*, many threads) and one worker process (the
//! *server*).
//!
//! Both sides map the same memory *segments* at the same virtual addresses, inside a [`window`] reserved beforehand.
//! Commands travel through a lock-free [`ring`], answers through [`reply`] slots, completion through [`timeline`] words,
//! host callbacks through [`callback`] and device text through [`output`]. Bulk bytes lie in the [`heap`]. The
//! [`link`] is the socket that sets all this up, carries requests for more memory, and shows by its end that the peer
//! is gone.
//!
//! Start at [`client::Channel`] (the guest side), [`server::Channel`] (the worker side) or [`loopback`] (both in one
//! process, for tests and benches).
//!
//! # Trust
//!
//! The server trusts nothing that a client can write: each record is copied once into private memory and only the copy
//! is parsed, positions are kept privately, addresses are checked against the mapped segments. The client treats the
//! server's words the same way, so a broken server gives errors and not memory faults.
//!
//! # Unsafe code
//!
//! All of it is in [`shm`] (raw maps, the copy, control words), in the four accessors of [`segment`] that turn a
//! checked address into an access, and in [`alias`], [`adopt`] and their helper that holds writers off, which exchange
//! pages. All atomics come from [`sync`].

pub mod sync;

pub mod callback;
pub mod heap;
pub mod output;
pub mod reply;
pub mod ring;
pub mod staging;
pub mod timeline;

#[cfg(not(loom))]
pub mod adopt;
#[cfg(not(loom))]
pub mod alias;
#[cfg(not(loom))]
pub mod client;
#[cfg(not(loom))]
pub mod control;
#[cfg(not(loom))]
mod hold;
#[cfg(not(loom))]
pub mod link;
#[cfg(not(loom))]
pub mod loopback;
#[cfg(not(loom))]
pub mod maps;
#[cfg(not(loom))]
pub mod permits;
#[cfg(not(loom))]
pub mod segment;
#[cfg(not(loom))]
pub mod server;
#[cfg(not(loom))]
pub mod shm;
pub mod wait;
#[cfg(not(loom))]
pub mod window;
