//! What the fuzz targets do with their input. Each is an ordinary function, so that `cargo test` replays the corpus
//! without a fuzzer.

pub mod channel;
pub mod worker;

/// A fuzz target.
pub type Target = fn(&[u8]);

/// All targets, by the name of their corpus folder.
pub const TARGETS: &[(&str, Target)] = &[
    ("ring_consumer", channel::ring_consumer),
    ("hello", channel::hello),
    ("virtio_request", channel::virtio_request),
    ("control_header", channel::control_header),
    ("record_dispatch", worker::record_dispatch),
];
