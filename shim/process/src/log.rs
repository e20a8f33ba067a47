//! The shim's voice: silent unless `VGPU_LOG` is set, then one line per event on stderr, or at the end of the file that
//! the variable names by a path with a slash in it; never on stdout. Lines are limited in length and number: the shim lives
//! in other people's processes.

use core::fmt;
use std::fs::File;
use std::io::Write;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Characters of a line.
const MAX_CHARS: usize = 500;

/// Lines after which the shim stays silent.
const MAX_LINES: u32 = 2000;

static SETTING: LazyLock<String> =
    LazyLock::new(|| crate::environment::var("VGPU_LOG").unwrap_or_default());

/// The file that the setting names; `None` for stderr, also where the file cannot be had.
static FILE: LazyLock<Option<File>> = LazyLock::new(|| {
    let path = Some(&*SETTING).filter(|setting| setting.contains('/'))?;
    File::options().create(true).append(true).open(path).ok()
});

static LINES: AtomicU32 = AtomicU32::new(0);

/// Whether anything is printed; to skip the making of costly texts.
#[must_use]
pub fn enabled() -> bool {
    !matches!(SETTING.as_str(), "" | "0")
}

/// Prints one line if `VGPU_LOG` is set.
pub fn line(text: fmt::Arguments<'_>) {
    if !enabled() {
        return;
    }
    let count = LINES.fetch_add(1, Ordering::Relaxed);
    if count < MAX_LINES {
        always(text);
    }
}

/// Prints one line that was asked for by another variable than `VGPU_LOG`.
pub fn always(text: fmt::Arguments<'_>) {
    let mut text = format!("vgpu[{}]: {text}", std::process::id());
    text.retain(|c| !c.is_control());
    text = text.chars().take(MAX_CHARS).collect();
    text.push('\n');
    // Nothing to be done about a closed stderr or a full disk.
    let _ = match &*FILE {
        Some(file) => (&mut &*file).write_all(text.as_bytes()),
        None => std::io::stderr().write_all(text.as_bytes()),
    };
}
