//! What the host's operator can see: the clients, and the figures that their workers keep.
//!
//! | module | what lives there |
//! |---|---|
//! | [`registry`] | who is served now |
//! | [`document`] | all of it as one document, for `vgpu top` |
//! | [`exposition`] | the same as Prometheus reads it |
//! | [`conversation`] | questions that are being heard or answered |
//! | [`server`] | the thread that answers |
//!
//! One thread answers, several questions at once, each within two seconds; it takes nothing from the event loop but a
//! copy of the list of clients, so no question delays a client. `vgpu top` asks at an abstract socket, which is in no
//! directory that a container mounts, and only root and the daemon's own user are answered.

pub mod conversation;
pub mod document;
pub mod exposition;
pub mod registry;
pub mod server;
