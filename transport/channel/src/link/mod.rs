//! The link: how a client reaches its server, gets the channel's memory, asks for more of it, and learns that the peer
//! is gone.
//!
//! This one is a unix socket of type `SOCK_SEQPACKET`. A client connects and sends one [`Hello`]; the server answers
//! with one [`Welcome`] and, if it accepts, four descriptors: control segment, heap segment, doorbell (client wakes
//! server), wake (server wakes client). After that the client may send [`GrowRequest`]s. The connection stays open as
//! long as the channel lives: its end is the peer's end.
//!
//! Instead of a hello a client may send one [`Query`], which the server answers with one [`Answer`]: no channel, no memory.
//!
//! All messages have a fixed size. The client never sends a descriptor; one that does is disconnected.

pub mod event;
pub mod listener;
pub mod message;
pub mod query;
pub mod socket;
pub mod virtio;

pub use event::Event;
pub use listener::{Accepted, Listener};
pub use message::{Fingerprint, GrowRequest, GrowResponse, Hello, LinkStatus, Welcome};
pub use query::{Answer, First, Query};
pub use socket::{LinkError, Socket};
