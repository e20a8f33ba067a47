//! The files of `dist/`: what they need of a system, and what the loader is told of the shims.

use std::collections::BTreeSet;
use std::path::PathBuf;

use vgpu_e2e::elf::{HOST_GLIBC, dynamic, exports, guest_limit, newest_glibc};
use vgpu_e2e::parts::Parts;

fn parts() -> Parts {
    Parts::locate().expect("dist/ is built")
}

/// The shims, without the links to them.
fn shims() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parts().library_folder).expect("a folder");
    let files = entries.map(|entry| entry.expect("readable"));
    files
        .filter(|entry| entry.file_type().expect("known").is_file())
        .map(|entry| entry.path())
        .collect()
}

#[test]
fn what_runs_in_a_guest_needs_an_old_c_library_only() {
    let parts = parts();
    let mut files = shims();
    assert!(files.iter().any(|file| file.ends_with("libcuda.so.1")));
    files.push(parts.vgpu);
    for file in files {
        let newest = newest_glibc(&file).expect("an ELF file");
        assert!(
            newest <= Some(guest_limit()),
            "{}: {newest:?}",
            file.display()
        );
    }
    assert!(newest_glibc(&parts.daemon).expect("an ELF file") <= Some(HOST_GLIBC));
}

#[test]
fn shims_are_what_the_loader_and_programs_expect() {
    // Parts of the C library, and libgcc_s for a build without zig.
    let allowed: BTreeSet<&str> = [
        "libc.so.6",
        "libm.so.6",
        "libdl.so.2",
        "libpthread.so.0",
        "ld-linux-x86-64.so.2",
        "libgcc_s.so.1",
    ]
    .into();
    for shim in shims() {
        let found = dynamic(&shim).expect("an ELF file");
        let name = shim.file_name().and_then(|name| name.to_str());
        assert_eq!(found.soname.as_deref(), name);
        assert!(found.no_delete, "{found:?}");
        assert_eq!(
            found.versioned, 0,
            "consumers ask for names without versions"
        );
        let strange: Vec<_> = found
            .needed
            .iter()
            .filter(|name| !allowed.contains(name.as_str()))
            .collect();
        assert!(strange.is_empty(), "{}: {strange:?}", shim.display());
    }
}

#[test]
fn the_driver_shim_exports_cudas_names_and_nothing_of_the_c_library() {
    let names = exports(&parts().library_folder.join("libcuda.so.1")).expect("an ELF file");
    let strange: Vec<_> = names
        .iter()
        .filter(|name| !name.starts_with("cu") && *name != "vgpu_shim_marker")
        .collect();
    assert!(strange.is_empty(), "{strange:?}");
    assert!(names.len() > 600, "{} names", names.len());
}
