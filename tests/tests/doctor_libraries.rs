//! `vgpu doctor` against planted faults of libraries and of the environment: drivers, stubs, NVML, variables, preloads.

#[path = "support/doctor.rs"]
mod asking;
mod support;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use asking::{folder, path_after, question, stub};
use support::backend;
use vgpu_e2e::diagnosis::library;

#[test]
fn a_real_driver_shadows_the_shim() {
    let backend = backend();
    let folder = folder();
    stub(folder.path(), "libcuda.so.580.95.05", 100);
    symlink("libcuda.so.580.95.05", folder.path().join("libcuda.so.1")).expect("linked");
    let diagnosis = question(&backend)
        .variable("LD_LIBRARY_PATH", path_after(folder.path()))
        .ask();
    diagnosis.assert_verdict(
        3,
        &[
            "a real NVIDIA driver",
            "580.95.05",
            "wins over the shim",
            "out of LD_LIBRARY_PATH",
        ],
    );
    diagnosis.assert_finding("note", &["further copies", "libcuda.so.1"]);
}

#[test]
fn the_toolkits_stubs_shadow_the_shim() {
    let backend = backend();
    let folder = folder();
    let stubs = folder.path().join("lib64/stubs");
    std::fs::create_dir_all(&stubs).expect("made");
    stub(&stubs, "libcuda.so", 34);
    symlink("libcuda.so", stubs.join("libcuda.so.1")).expect("linked");
    let diagnosis = question(&backend)
        .variable("LD_LIBRARY_PATH", path_after(&stubs))
        .ask();
    diagnosis.assert_verdict(
        3,
        &[
            "CUDA's stub for linking",
            "wins over the shim",
            "out of LD_LIBRARY_PATH",
        ],
    );
}

/// A library of this architecture, made by the assembler alone.
fn library_for_32_bits(to: &Path) {
    let object = to.with_extension("o");
    let source = to.with_extension("s");
    std::fs::write(&source, ".globl cuInit\ncuInit: ret\n").expect("written");
    for command in [
        Command::new("as")
            .args(["--32", "-o"])
            .args([&object, &source]),
        Command::new("ld")
            .args(["-m", "elf_i386", "-shared", "-soname", "libcuda.so.1", "-o"])
            .args([to, &object]),
    ] {
        assert!(command.status().expect("binutils").success());
    }
}

#[test]
fn only_a_32_bit_copy() {
    let backend = backend();
    let folder = folder();
    library_for_32_bits(&folder.path().join("libcuda.so.1"));
    let diagnosis = question(&backend)
        .variable("LD_LIBRARY_PATH", folder.path())
        .ask();
    diagnosis.assert_verdict(
        3,
        &["no libcuda.so.1 is found", "32-bit x86", "vgpu install"],
    );
}

#[test]
fn a_link_to_a_driver_that_is_gone() {
    let backend = backend();
    let folder = folder();
    symlink("libcuda.so.555.42", folder.path().join("libcuda.so.1")).expect("linked");
    let diagnosis = question(&backend)
        .variable("LD_LIBRARY_PATH", folder.path())
        .ask();
    diagnosis.assert_verdict(
        3,
        &[
            "no libcuda.so.1 is found",
            "dangling symbolic link",
            "vgpu install",
        ],
    );
    diagnosis.assert_finding("warning", &["libcuda.so.555.42 does not exist", "run `rm "]);
}

#[test]
fn devices_hidden_by_a_variable() {
    let backend = backend();
    for (value, why) in [
        ("-1", "-1 hides every device"),
        ("", "an empty value hides every device"),
        (
            "GPU-deadbeef-0000-0000-0000-000000000000",
            "no device has this UUID",
        ),
        ("7", "ordinal that does not exist"),
    ] {
        let diagnosis = question(&backend)
            .variable("CUDA_VISIBLE_DEVICES", value)
            .ask();
        diagnosis.assert_verdict(
            7,
            &["CUDA_VISIBLE_DEVICES", why, "unset CUDA_VISIBLE_DEVICES"],
        );
    }
    question(&backend)
        .variable("CUDA_VISIBLE_DEVICES", "0")
        .ask()
        .assert_found();
}

#[test]
fn variables_without_effect() {
    let backend = backend();
    let diagnosis = question(&backend)
        .variable("OLLAMA_NUM_GPU", "999")
        .variable("OLLAMA_LIBRARY_PATH", "/opt/lib")
        .variable("GGML_BACKEND_PATH", "/no/such/file.so")
        .ask();
    diagnosis.assert_found();
    diagnosis.assert_finding("warning", &["OLLAMA_NUM_GPU has no effect", "num_gpu"]);
    diagnosis.assert_finding(
        "warning",
        &["OLLAMA_LIBRARY_PATH has no effect", "take it out"],
    );
    diagnosis.assert_finding("warning", &["GGML_BACKEND_PATH", "names no file", "unset"]);
    assert!(
        diagnosis.verdict().contains("OLLAMA_NUM_GPU"),
        "{}",
        diagnosis.verdict()
    );
}

#[test]
fn preloads_that_do_nothing_or_harm() {
    let backend = backend();
    let folder = folder();
    let hook = folder.path().join("libhook.so");
    library(
        &hook,
        "void *dlopen(const char *n, int f) { return 0; }",
        "",
        &[],
    )
    .expect("compiled");
    let other = folder.path().join("libvgpu-cuda.so");
    library(
        &other,
        "int cuInit(unsigned f) { return 0; }",
        "libvgpu-cuda.so",
        &[],
    )
    .expect("compiled");
    let list = format!("/no/such/libshim.so {}", other.display());
    let diagnosis = question(&backend).variable("LD_PRELOAD", list).ask();
    diagnosis.assert_finding(
        "warning",
        &["/no/such/libshim.so", "does not exist", "out of LD_PRELOAD"],
    );
    diagnosis.assert_finding(
        "warning",
        &["has the SONAME \"libvgpu-cuda.so\"", "vgpu install"],
    );
    let diagnosis = question(&backend).variable("LD_PRELOAD", &hook).ask();
    diagnosis.assert_finding("warning", &["takes over dlopen", "out of LD_PRELOAD"]);
}

#[test]
fn half_an_nvml() {
    let backend = backend();
    let folder = folder();
    let source = "int nvmlInit_v2() { return 0; } int nvmlShutdown() { return 0; }";
    library(
        &folder.path().join("libnvidia-ml.so.1"),
        source,
        "libnvidia-ml.so.1",
        &[],
    )
    .expect("compiled");
    let diagnosis = question(&backend)
        .variable("LD_LIBRARY_PATH", path_after(folder.path()))
        .ask();
    diagnosis.assert_verdict(
        6,
        &[
            "libnvidia-ml.so.1 lacks",
            "nvmlDeviceGetHandleByUUID",
            "nvmlErrorString",
            "none is better than half",
        ],
    );
}

#[test]
fn initialisation_fails() {
    let backend = backend();
    for (code, name, meaning, mend) in [
        (
            100,
            "CUDA_ERROR_NO_DEVICE (100)",
            "no CUDA-capable device",
            "see layer 1",
        ),
        (
            2,
            "CUDA_ERROR_OUT_OF_MEMORY (2)",
            "quota",
            "raise the daemon's --memory",
        ),
        (
            999,
            "CUDA_ERROR_UNKNOWN (999)",
            "failed without a reason",
            "journalctl -u vgpu-agent",
        ),
    ] {
        let folder = folder();
        stub(folder.path(), "libcuda.so.1", code);
        let diagnosis = question(&backend)
            .variable("LD_LIBRARY_PATH", folder.path())
            .ask();
        diagnosis.assert_verdict(5, &["cuInit returns", name, meaning, mend]);
        diagnosis.assert_finding("warning", &["neither vgpu's nor NVIDIA's", "vgpu install"]);
    }
}

#[test]
fn a_driver_that_crashes_and_one_that_hangs() {
    let backend = backend();
    for (body, how) in [
        ("__builtin_trap();", "killed by SIGILL"),
        ("for (;;) sleep(1);", "no answer in time"),
    ] {
        let folder = folder();
        let source = format!("int cuInit(unsigned f) {{ {body} return 0; }}");
        library(
            &folder.path().join("libcuda.so.1"),
            &source,
            "libcuda.so.1",
            &[],
        )
        .expect("compiled");
        let diagnosis = question(&backend)
            .variable("LD_LIBRARY_PATH", folder.path())
            .ask();
        diagnosis.assert_verdict(5, &["does not survive", how, "in cuInit", "VGPU_LOG=1"]);
    }
}

#[test]
fn what_only_bears_a_librarys_name_is_named_and_waited_for_by_nobody() {
    let backend = backend();
    let folder = folder();
    let file = folder.path().join("libcuda.so.1");
    let ask = || {
        question(&backend)
            .variable("LD_LIBRARY_PATH", path_after(folder.path()))
            .ask()
    };
    // The loader opens it as a file and waits for somebody to write to it, so programs find no GPU.
    let made = Command::new("mkfifo").arg(&file).status();
    assert!(made.expect("coreutils").success());
    ask().assert_verdict(3, &["is a named pipe", "without end"]);
    std::fs::remove_file(&file).expect("removed");
    // All others the loader passes over, or gives up at.
    std::fs::create_dir(&file).expect("made");
    ask().assert_finding("warning", &["libcuda.so.1 is a folder"]);
    std::fs::remove_dir(&file).expect("removed");
    symlink("libcuda.so.1", &file).expect("linked");
    ask().assert_finding("warning", &["a symbolic link that leads to itself"]);
    std::fs::remove_file(&file).expect("removed");
    let huge = std::fs::File::create(&file).expect("made");
    huge.set_len(1 << 40).expect("sparse");
    ask().assert_finding("warning", &["is no library, or cut short"]);
}

#[test]
fn odd_environments_are_borne() {
    use std::os::unix::ffi::OsStrExt;
    let backend = backend();
    let folder = folder();
    // A thousand folders, one of them with a name that is no text, and no place for temporary files.
    let odd = folder.path().join(std::ffi::OsStr::from_bytes(b"odd-\xff"));
    std::fs::create_dir(&odd).expect("made");
    let mut path = odd.into_os_string();
    for at in 0..1000 {
        path.push(format!(":{}/none-{at}", folder.path().display()));
    }
    path.push(":");
    path.push(
        vgpu_e2e::parts::Parts::locate()
            .expect("built")
            .library_folder,
    );
    question(&backend)
        .variable("LD_LIBRARY_PATH", path)
        .variable("TMPDIR", "/proc/none")
        .variable("ODD", std::ffi::OsStr::from_bytes(b"\xfe\xff"))
        .ask()
        .assert_found();
}
