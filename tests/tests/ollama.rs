//! Discovery of the GPU by Ollama, acted out by `vgpu doctor` over the real `libggml-cuda.so`, libcudart and libcublas on
//! shim and software device; then failures of its files and settings, made on purpose, which must be named. Those of the
//! driver are in `ollama_driver.rs`.
//!
//! `cargo xtask ggml` fetches the libraries; `VGPU_GGML` names another folder of the same shape.

#[path = "support/ollama.rs"]
mod installation;
mod support;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use installation::{ERAS, Installation, RELEASES, SEED, fetched, place};
use support::{PATIENCE, alone, backend, eventually, parts};
use vgpu_e2e::backend::SOCKET;
use vgpu_e2e::diagnosis::{Question, library, program};
use vgpu_e2e::process::family;

#[test]
fn every_era_finds_the_device_with_all_that_it_asks_for() {
    let _turn = alone();
    let backend = backend();
    for release in RELEASES {
        for (version, era) in ERAS {
            let diagnosis = Installation::new(release, version).ask(&backend);
            diagnosis.assert_found();
            let driver = &diagnosis.0["devices"][0];
            let found = diagnosis.devices_of(era);
            assert_eq!(found.len(), 1, "{release} {version}: {diagnosis:?}");
            let device = found[0];
            assert_eq!(device["name"], driver["name"]);
            assert_eq!(device["uuid"], driver["uuid"]);
            assert_eq!(device["compute"], driver["compute"]);
            assert_eq!(device["memory_total"], driver["memory_total"]);
            assert!(device["memory_free"].as_u64() > Some(0));
            let library = device["library"].as_str().map(str::to_uppercase);
            assert_eq!(library.as_deref(), Some("CUDA"));
            if version != "0.12.3" {
                // The first era asks for no PCI id.
                assert_eq!(device["pci_id"], driver["pci_id"]);
            }
            let seconds = diagnosis.0["discoveries"][0]["seconds"].as_f64();
            assert!(seconds < Some(30.0), "it took {seconds:?} s");
        }
    }
}

#[test]
fn versions_whose_way_of_looking_is_not_known_are_told_so() {
    let _turn = alone();
    let backend = backend();
    let diagnosis = Installation::new(RELEASES[1], "0.1.29").ask(&backend);
    diagnosis.assert_finding("warning", &["is not acted out", "layers 5 and 6"]);
    assert!(diagnosis.devices_of("Ollama").is_empty());
}

#[test]
fn children_killed_by_sigkill_leave_no_session_behind() {
    let _turn = alone();
    let backend = backend();
    Installation::new(RELEASES[1], SEED)
        .ask(&backend)
        .assert_found();
    eventually(PATIENCE, "a session of a killed child lives on", || {
        family(backend.pid()).len() <= 1
    });
}

#[test]
fn llama_cpp_finds_the_device_beside_its_program() {
    let backend = backend();
    let installation = Installation::new(RELEASES[1], SEED);
    let server = installation.cuda("llama-cli");
    program(&server, "int main() { return 0; }", &[]).expect("compiled");
    place(
        &installation.path("lib/ollama/libggml-base.so"),
        &installation.cuda("libggml-base.so"),
    );
    let diagnosis = Question::new(&parts())
        .variable(SOCKET, backend.socket())
        .variable("LD_LIBRARY_PATH", parts().library_folder)
        .program(&server)
        .ask();
    diagnosis.assert_found();
    assert_eq!(diagnosis.devices_of("llama.cpp").len(), 1);
}

#[test]
fn no_driver_is_silent_and_named() {
    let backend = backend();
    let installation = Installation::new(RELEASES[0], SEED);
    let diagnosis = Question::new(&parts())
        .variable(SOCKET, backend.socket())
        .program(&installation.binary())
        .ask();
    diagnosis.assert_verdict(3, &["no libcuda.so.1 is found", "vgpu install"]);
    diagnosis.assert_finding(
        "fault",
        &[
            "is refused, silently",
            "libcuda.so.1: cannot open shared object file",
        ],
    );
}

/// Names that a library imports of libcudart.
fn imported_of_cudart(file: &Path) -> Vec<String> {
    let output = Command::new("nm")
        .args(["-D", "--undefined-only"])
        .arg(file)
        .output()
        .expect("binutils");
    String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .filter_map(|word| {
            word.split_once("@libcudart")
                .map(|(name, _)| name.to_owned())
        })
        .collect()
}

/// A libcudart of somebody else's with all functions but `without`, under a version node if one is named.
fn fake_cudart(installation: &Installation, without: &str, node: Option<&str>) {
    let names = imported_of_cudart(&installation.cuda("libggml-cuda.so"));
    assert!(names.len() > 40, "{names:?}");
    let source: String = names
        .iter()
        .filter(|name| *name != without)
        .map(|name| format!("int {name}() {{ return 35; }}\n"))
        .collect();
    let script = installation.path("version.map");
    let argument = format!("-Wl,--version-script={}", script.display());
    let mut further = Vec::new();
    if let Some(node) = node {
        std::fs::write(&script, format!("{node} {{ global: *; }};\n")).expect("written");
        further.push(argument.as_str());
    }
    installation.replace("libcudart.so.13", |to| {
        library(to, &source, "libcudart.so.13", &further).expect("compiled");
    });
}

#[test]
fn a_libcudart_replaced_without_symbol_versions() {
    let backend = backend();
    let installation = Installation::new(RELEASES[0], SEED);
    fake_cudart(&installation, "", None);
    let diagnosis = installation.ask(&backend);
    diagnosis.assert_verdict(
        4,
        &[
            "libcudart.so.13 is not NVIDIA's",
            "without symbol versions",
            "exit status 127",
            "put NVIDIA's own libcudart.so.13 back",
        ],
    );
    diagnosis.assert_finding("fault", &["ends the process with exit status 127"]);
    diagnosis.assert_finding("fault", &["the runner for", "died", "OLLAMA_DEBUG=2 only"]);
}

#[test]
fn a_libcudart_replaced_by_one_that_lacks_a_function() {
    let backend = backend();
    let installation = Installation::new(RELEASES[0], SEED);
    fake_cudart(
        &installation,
        "__cudaRegisterFatBinary",
        Some("libcudart.so.13"),
    );
    let diagnosis = installation.ask(&backend);
    diagnosis.assert_verdict(
        4,
        &[
            "libcudart.so.13 lacks __cudaRegisterFatBinary of version libcudart.so.13",
            "put NVIDIA's own libcudart.so.13 back",
        ],
    );
}

#[test]
fn a_libcudart_replaced_with_another_version_node() {
    let backend = backend();
    let installation = Installation::new(RELEASES[0], SEED);
    fake_cudart(&installation, "", Some("LIBVGPU_1"));
    let diagnosis = installation.ask(&backend);
    diagnosis.assert_verdict(
        4,
        &[
            "with other symbol versions",
            "put NVIDIA's own libcudart.so.13 back",
        ],
    );
}

#[test]
fn a_libcublas_that_is_missing() {
    let backend = backend();
    let installation = Installation::new(RELEASES[0], SEED);
    std::fs::remove_file(installation.cuda("libcublas.so.13")).expect("it is there");
    let diagnosis = installation.ask(&backend);
    diagnosis.assert_verdict(
        4,
        &["libcublas.so.13 is not found", "install libcublas.so.13"],
    );
}

#[test]
fn a_backend_library_that_is_cut_short() {
    let backend = backend();
    let installation = Installation::new(RELEASES[0], SEED);
    installation.replace("libggml-cuda.so", |to| {
        let whole =
            std::fs::read(fetched().join(RELEASES[0]).join("libggml-cuda.so")).expect("readable");
        std::fs::write(to, &whole[..whole.len() / 3]).expect("written");
    });
    let diagnosis = installation.ask(&backend);
    diagnosis.assert_verdict(
        4,
        &["libggml-cuda.so is truncated", "install the program again"],
    );
}

#[test]
fn a_backend_library_that_is_a_link_to_nothing() {
    let backend = backend();
    let installation = Installation::new(RELEASES[0], SEED);
    installation.replace("libggml-cuda.so", |to| {
        symlink("../gone.so", to).expect("linked")
    });
    let diagnosis = installation.ask(&backend);
    diagnosis.assert_verdict(
        4,
        &[
            "is a dangling symbolic link: ../gone.so does not exist",
            "run `rm ",
        ],
    );
}

#[test]
fn a_backend_library_linked_to_the_top_level() {
    let backend = backend();
    let installation = Installation::new(RELEASES[0], SEED);
    symlink(
        "cuda_v13/libggml-cuda.so",
        installation.path("lib/ollama/libggml-cuda.so"),
    )
    .expect("linked");
    let diagnosis = installation.ask(&backend);
    diagnosis.assert_found();
    diagnosis.assert_finding(
        "warning",
        &[
            "lib/ollama/libggml-cuda.so is a symbolic link that does not belong there",
            "run `rm ",
        ],
    );
    assert!(
        diagnosis.verdict().contains("does not belong there"),
        "{}",
        diagnosis.verdict()
    );
}

#[test]
fn a_library_asked_for_that_is_not_there() {
    let backend = backend();
    let installation = Installation::new(RELEASES[0], SEED);
    let diagnosis = installation
        .question(&backend)
        .variable("OLLAMA_LLM_LIBRARY", "cuda_v12")
        .ask();
    diagnosis.assert_verdict(
        7,
        &[
            "OLLAMA_LLM_LIBRARY=cuda_v12 names no folder",
            "unset OLLAMA_LLM_LIBRARY",
        ],
    );
    installation
        .question(&backend)
        .variable("OLLAMA_LLM_LIBRARY", "cuda_v13")
        .ask()
        .assert_found();
}

#[test]
fn a_binary_without_its_libraries() {
    let backend = backend();
    let installation = Installation::new(RELEASES[0], SEED);
    std::fs::rename(installation.path("lib"), installation.path("elsewhere")).expect("moved");
    let diagnosis = installation.ask(&backend);
    diagnosis.assert_verdict(
        8,
        &["no library folder below", "lib/ollama lies beside bin"],
    );
}

#[test]
fn a_temporary_folder_that_runners_cannot_write_to() {
    let backend = backend();
    let installation = Installation::new(RELEASES[0], SEED);
    let diagnosis = installation
        .question(&backend)
        .variable("TMPDIR", "/no/such/folder")
        .ask();
    diagnosis.assert_verdict(
        8,
        &[
            "cannot write to the temporary folder /no/such/folder",
            "mkdir -p /no/such/folder",
        ],
    );
}

#[test]
fn a_runner_that_aborts() {
    let backend = backend();
    let installation = Installation::new(RELEASES[0], SEED);
    installation.replace("libggml-cuda.so", |to| {
        let source = "void abort(void); void ggml_backend_init() { abort(); } \
            int ggml_backend_reg_name() { return 0; } int ggml_backend_reg_dev_count() { return 0; } \
            int ggml_backend_reg_dev_get() { return 0; } int ggml_backend_dev_description() { return 0; } \
            int ggml_backend_dev_memory() { return 0; }";
        library(to, source, "libggml-cuda.so", &[]).expect("compiled");
    });
    let diagnosis = installation.ask(&backend);
    diagnosis.assert_verdict(
        8,
        &[
            "the runner for",
            "killed by SIGABRT (6) in ggml_backend_init",
        ],
    );
}

#[test]
fn a_library_that_prints_to_standard_output() {
    let backend = backend();
    let installation = Installation::new(RELEASES[0], "0.33.0");
    let hook = installation.path("libtalk.so");
    let source = "int puts(const char *); __attribute__((constructor)) void talk() { puts(\"hello from a hook\"); }";
    library(&hook, source, "", &[]).expect("compiled");
    let diagnosis = installation
        .question(&backend)
        .variable("LD_PRELOAD", &hook)
        .ask();
    diagnosis.assert_finding(
        "warning",
        &[
            "writes to standard output",
            "spoils the JSON of gpu-discover",
            "LD_PRELOAD",
        ],
    );
}

#[test]
fn a_driver_in_the_folder_of_the_runner() {
    let backend = backend();
    let installation = Installation::new(RELEASES[0], SEED);
    let copy = installation.cuda("libcuda.so.1");
    std::fs::copy(parts().library_folder.join("libcuda.so.1"), &copy).expect("copied");
    let diagnosis = installation.ask(&backend);
    diagnosis.assert_verdict(
        3,
        &[
            "in the environment of its runner",
            "gets another libcuda.so.1",
            "run `rm ",
        ],
    );
}
