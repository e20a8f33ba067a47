//! The loader's cache: made anew by `ldconfig`, and asked which library it would take.

use crate::tree::Tree;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where our folder is named. The name sorts before those of other packages, NVIDIA's `000_cuda.conf` included: of two
/// libraries of one name, the loader takes the one whose folder comes first.
pub const CONFIGURATION: &str = "/etc/ld.so.conf.d/000-vgpu.conf";

/// The file that must lead to it.
pub const MAIN_CONFIGURATION: &str = "/etc/ld.so.conf";

/// What `ldconfig` makes.
pub const GENERATED: [&str; 2] = ["/etc/ld.so.cache", "/var/cache/ldconfig/aux-cache"];

/// Where the program is: often in no PATH of an ordinary shell.
const PROGRAMS: [&str; 3] = ["/sbin/ldconfig", "/usr/sbin/ldconfig", "/usr/bin/ldconfig"];

fn command(tree: &Tree) -> Result<Command> {
    let program = PROGRAMS
        .iter()
        .find(|program| Path::new(program).exists())
        .context("there is no ldconfig on this machine: install the package of the C library's tools (libc-bin, glibc)")?;
    let mut command = Command::new(program);
    if !tree.is_this_system() {
        command.arg("-r").arg(tree.root());
    }
    // Files of the configuration are read in the locale's order.
    command.env("LC_ALL", "C").stdin(Stdio::null());
    Ok(command)
}

/// Makes the cache anew.
///
/// # Errors
/// What `ldconfig` says.
pub fn refresh(tree: &Tree) -> Result<()> {
    let output = command(tree)?.output().context("ldconfig cannot be run")?;
    ensure!(
        output.status.success(),
        "ldconfig failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// The paths under which the cache knows a library for this kind of processor, the one that is taken first. None where
/// there is no cache.
#[must_use]
pub fn known(tree: &Tree, name: &str) -> Vec<PathBuf> {
    let output = command(tree).and_then(|mut command| Ok(command.arg("-p").output()?));
    let Ok(output) = output else {
        return Vec::new();
    };
    paths(&String::from_utf8_lossy(&output.stdout), name)
}

fn paths(listing: &str, name: &str) -> Vec<PathBuf> {
    listing
        .lines()
        .filter_map(|line| {
            let (what, path) = line.trim().split_once(" => ")?;
            let (library, kind) = what.split_once(' ')?;
            (library == name && kind.contains("x86-64")).then(|| PathBuf::from(path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listing_is_read_in_its_order() {
        let listing = "2 libs found in cache `/etc/ld.so.cache'\n\
            \tlibcuda.so.1 (libc6,x86-64) => /usr/local/lib/vgpu/libcuda.so.1\n\
            \tlibcuda.so.1 (libc6) => /usr/lib/i386-linux-gnu/libcuda.so.1\n\
            \tlibcuda.so.1 (libc6,x86-64, OS ABI: Linux 3.2.0) => /usr/lib/x86_64-linux-gnu/libcuda.so.1\n\
            \tlibcuda.so (libc6,x86-64) => /usr/local/lib/vgpu/libcuda.so\n";
        let found = paths(listing, "libcuda.so.1");
        assert_eq!(
            found,
            [
                Path::new("/usr/local/lib/vgpu/libcuda.so.1"),
                Path::new("/usr/lib/x86_64-linux-gnu/libcuda.so.1")
            ]
        );
        assert!(paths("", "libcuda.so.1").is_empty());
    }
}
