//! Output of kernels.

use std::io::Write;

unsafe extern "C" {
    /// The C library's standard output.
    static stdout: *mut libc::FILE;
}

/// Writes to the C library's standard output, whose buffer the embedder flushes when it wants the
/// text: the text stays in order with what else goes there.
pub(crate) fn to_stdout(text: &[u8]) {
    // SAFETY: the C library's `stdout` is set up before any code of ours runs, `fwrite` locks it,
    // and it reads exactly the bytes of the slice. A short write has nobody to tell.
    unsafe { libc::fwrite(text.as_ptr().cast(), 1, text.len(), stdout) };
}

/// Writes a line to standard error, where natively the driver puts failed assertions.
pub(crate) fn to_stderr(text: &[u8]) {
    let mut line = text.to_vec();
    line.push(b'\n');
    // Nobody is left to tell if standard error does not take it.
    let _ = std::io::stderr().write_all(&line);
}
