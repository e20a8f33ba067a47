//! Runs the committed fixtures (`tests/ptx`, made with clang) and compares with plain Rust.

mod basics;
mod calls;
mod device;
mod hostile;
mod numbers;
mod text;
mod warps;
