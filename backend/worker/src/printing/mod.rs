//! Which kernels print. Text of device code reaches the program when the driver synchronises, so once such a kernel may
//! run, waits take the driver's own calls (`semantics.md` 6). That costs every wait, and images hold printing code that
//! nobody launches (branches for other devices), so a kernel counts as printing only when somebody takes it by its name.
//!
//! * [`printers`]: what an image says.
//! * [`watch`]: what was loaded and taken, and what follows for waits. An image that has to be unpacked is looked through
//!   on a thread of its own, beside the driver's work.

pub mod printers;
pub mod watch;

pub use printers::Printers;
pub use watch::{Printing, look};
