//! The shim's voice: silent unless `VGPU_LOG` is set, then one line per event on stderr, never on
//! stdout. Lines are limited in length and number: the shim lives in other people's processes.

use core::fmt;
use std::io::Write;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Characters of a line.
const MAX_CHARS: usize = 500;

/// Lines after which the shim stays silent.
const MAX_LINES: u32 = 2000;

static ENABLED: LazyLock<bool> = LazyLock::new(|| {
    crate::environment::var("VGPU_LOG").is_some_and(|value| value != "0" && !value.is_empty())
});

static LINES: AtomicU32 = AtomicU32::new(0);

/// Whether anything is printed; to skip the making of costly texts.
#[must_use]
pub fn enabled() -> bool {
    *ENABLED
}

/// Prints one line if `VGPU_LOG` is set.
pub fn line(text: fmt::Arguments<'_>) {
    if !enabled() {
        return;
    }
    let count = LINES.fetch_add(1, Ordering::Relaxed);
    if count < MAX_LINES {
        let mut text = format!("vgpu[{}]: {text}", std::process::id());
        text.retain(|c| !c.is_control());
        text = text.chars().take(MAX_CHARS).collect();
        text.push('\n');
        // Nothing to be done about a closed stderr.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}
