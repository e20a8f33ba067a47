//! Discovery of the GPU by Ollama, acted out by `vgpu doctor` over the real `libggml-cuda.so`, libcudart and libcublas on
//! shim and software device; then every failure that was measured with them, made on purpose, must be named.
//!
//! `cargo xtask ggml` fetches the libraries; `VGPU_GGML` names another folder of the same shape.

mod support;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{PATIENCE, alone, backend, eventually, parts};
use tempfile::TempDir;
use vgpu_e2e::backend::{Backend, SOCKET};
use vgpu_e2e::diagnosis::{Diagnosis, Question, library, program};
use vgpu_e2e::process::family;

/// The releases of the npm package whose libraries are used: an old one and the newest.
const RELEASES: [&str; 2] = ["3.14.0", "3.22.1"];

/// One version of each era.
const ERAS: [(&str, &str); 3] = [
    ("0.12.3", "up to 0.12.3"),
    ("0.17.3", "0.12.4 to 0.24"),
    ("0.33.0", "from 0.30 on"),
];

/// The version of the code that the seed of this project ran.
const SEED: &str = "0.17.3";

fn fetched() -> PathBuf {
    let folder = std::env::var_os("VGPU_GGML").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/ggml"),
        PathBuf::from,
    );
    assert!(
        folder.exists(),
        "{} is missing; `cargo xtask ggml` fetches it",
        folder.display()
    );
    folder.canonicalize().expect("it exists")
}

/// An installation of Ollama: a program that tells its version, and the real libraries where it has them.
struct Installation {
    root: TempDir,
}

impl Installation {
    fn new(release: &str, version: &str) -> Self {
        let root = tempfile::Builder::new()
            .prefix("vgpu-ollama-")
            .tempdir()
            .expect("a folder");
        let installation = Self { root };
        for folder in ["bin", "lib/ollama/cuda_v13"] {
            std::fs::create_dir_all(installation.path(folder)).expect("made");
        }
        let source = format!(
            "int puts(const char *); int main() {{ puts(\"ollama version is {version}\"); return 0; }}"
        );
        program(&installation.binary(), &source, &[]).expect("compiled");
        let from = fetched();
        place(
            &from.join(release).join("libggml-base.so"),
            &installation.path("lib/ollama/libggml-base.so"),
        );
        place(
            &from.join(release).join("libggml-cuda.so"),
            &installation.cuda("libggml-cuda.so"),
        );
        for name in ["libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13"] {
            place(&from.join("runtime").join(name), &installation.cuda(name));
        }
        installation
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn binary(&self) -> PathBuf {
        self.path("bin/ollama")
    }

    fn cuda(&self, name: &str) -> PathBuf {
        self.path("lib/ollama/cuda_v13").join(name)
    }

    /// Puts something else in the place of a library.
    fn replace(&self, name: &str, make: impl FnOnce(&Path)) {
        let path = self.cuda(name);
        std::fs::remove_file(&path).expect("it is there");
        make(&path);
    }

    fn question(&self, backend: &Backend) -> Question {
        Question::new(&parts())
            .variable(SOCKET, backend.socket())
            .variable("LD_LIBRARY_PATH", parts().library_folder)
            .program(&self.binary())
    }

    fn ask(&self, backend: &Backend) -> Diagnosis {
        self.question(backend).ask()
    }
}

/// A link to the one copy, for half a gigabyte is not to be copied for each test.
fn place(from: &Path, to: &Path) {
    if std::fs::hard_link(from, to).is_err() {
        symlink(from, to).expect("linked");
    }
}

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

#[test]
fn a_driver_without_one_symbol() {
    let backend = backend();
    let installation = Installation::new(RELEASES[0], SEED);
    let source = [
        "cuInit",
        "cuDeviceGet",
        "cuDeviceGetAttribute",
        "cuGetErrorString",
        "cuMemAddressFree",
        "cuMemAddressReserve",
        "cuMemGetAllocationGranularity",
        "cuMemMap",
        "cuMemRelease",
        "cuMemSetAccess",
        "cuMemUnmap",
    ]
    .map(|name| format!("int {name}() {{ return 3; }}\n"))
    .concat();
    let folder = installation.path("driver");
    std::fs::create_dir(&folder).expect("made");
    library(&folder.join("libcuda.so.1"), &source, "libcuda.so.1", &[]).expect("compiled");
    let diagnosis = installation
        .question(&backend)
        .variable("LD_LIBRARY_PATH", &folder)
        .ask();
    diagnosis.assert_verdict(
        4,
        &[
            "lacks cuMemCreate",
            "libggml-cuda.so imports",
            "`vgpu install` with a current vgpu",
        ],
    );
    diagnosis.assert_finding("fault", &["does not load: libcuda.so.1 lacks cuMemCreate"]);
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

/// A driver that passes everything on to the shim but for one fault.
fn faulty_driver(installation: &Installation, fault: &str) -> PathBuf {
    let folder = installation.path("driver");
    std::fs::create_dir(&folder).expect("made");
    let names = [
        "cuDeviceGet",
        "cuDeviceGetAttribute",
        "cuGetErrorString",
        "cuMemAddressFree",
        "cuMemAddressReserve",
        "cuMemCreate",
        "cuMemGetAllocationGranularity",
        "cuMemMap",
        "cuMemRelease",
        "cuMemSetAccess",
        "cuMemUnmap",
        "cuDeviceGetCount",
        "cuDeviceGetName",
        "cuDeviceGetUuid",
        "cuDeviceGetPCIBusId",
        "cuDeviceTotalMem_v2",
        "cuDevicePrimaryCtxRetain",
        "cuCtxSetCurrent",
        "cuMemGetInfo_v2",
    ];
    let mut source = format!(
        "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <string.h>\n{fault}\n\
        static void *shim(const char *name) {{ static void *h; if (!h) h = dlopen(\"{}\", RTLD_NOW | RTLD_LOCAL); return dlsym(h, name); }}\n\
        int cuInit(unsigned f) {{ if (INIT) return INIT; return ((int (*)(unsigned))shim(\"cuInit\"))(f); }}\n\
        int cuDriverGetVersion(int *v) {{ int r = ((int (*)(int *))shim(\"cuDriverGetVersion\"))(v); if (VERSION) *v = VERSION; return r; }}\n\
        static int (*no_check)(void) = 0;\n\
        static int wrong(unsigned v, unsigned long t, void *out) {{ memset(out, 0, 16); return 0; }}\n\
        static void *integrity[3] = {{ (void *)24, wrong, 0 }};\n\
        int cuGetExportTable(const void **t, const unsigned char *id) {{\n\
            if (TABLES == 1) {{ *t = 0; return 500; }}\n\
            if (TABLES == 2 && id[0] == 0xd4 && id[1] == 0x08) {{ *t = integrity; return 0; }}\n\
            return ((int (*)(const void **, const unsigned char *))shim(\"cuGetExportTable\"))(t, id); }}\n\
        int cuGetProcAddress_v2(const char *n, void **p, int v, unsigned long f, int *s) {{\n\
            if (HIDE && !strcmp(n, HIDE)) {{ *p = 0; if (s) *s = 1; return 500; }}\n\
            int r = ((int (*)(const char *, void **, int, unsigned long, int *))shim(\"cuGetProcAddress_v2\"))(n, p, v, f, s);\n\
            if (!strcmp(n, \"cuInit\")) *p = cuInit;\n\
            if (!strcmp(n, \"cuDriverGetVersion\")) *p = cuDriverGetVersion;\n\
            if (!strcmp(n, \"cuGetExportTable\")) *p = cuGetExportTable;\n\
            if (!strcmp(n, \"cuGetProcAddress\")) *p = cuGetProcAddress_v2;\n\
            return r; }}\n",
        parts().library_folder.join("libcuda.so.1").display()
    );
    for name in names {
        source.push_str(&format!(
            "__attribute__((used)) static void *to_{name}; __attribute__((naked)) void {name}(void) {{ __asm__(\"jmp *to_{name}(%rip)\"); }}\n"
        ));
    }
    source.push_str("__attribute__((constructor)) static void bind(void) {\n");
    for name in names {
        source.push_str(&format!("to_{name} = shim(\"{name}\");\n"));
    }
    source.push_str("}\n");
    library(&folder.join("libcuda.so.1"), &source, "libcuda.so.1", &[])
        .unwrap_or_else(|error| panic!("{error:#}"));
    folder
}

const NO_FAULT: [(&str, &str); 4] = [
    ("INIT", "0"),
    ("VERSION", "0"),
    ("TABLES", "0"),
    ("HIDE", "(char *)0"),
];

/// The driver with one of the faults of [`NO_FAULT`] set to `value`.
fn ask_over(fault: &str, value: &str) -> Diagnosis {
    let backend = backend();
    let installation = Installation::new(RELEASES[0], SEED);
    let definitions: String = NO_FAULT
        .iter()
        .map(|(name, none)| {
            format!(
                "#define {name} {}\n",
                if *name == fault { value } else { none }
            )
        })
        .collect();
    let folder = faulty_driver(&installation, &definitions);
    installation
        .question(&backend)
        .variable("LD_LIBRARY_PATH", folder)
        .ask()
}

#[test]
fn a_driver_that_only_passes_everything_on_is_found() {
    let diagnosis = ask_over("", "");
    let found = diagnosis.devices_of("0.12.4 to 0.24");
    assert_eq!(found.len(), 1, "{diagnosis:?}");
    diagnosis.assert_finding("warning", &["neither vgpu's nor NVIDIA's"]);
}

#[test]
fn a_driver_older_than_libcudart() {
    let diagnosis = ask_over("VERSION", "12080");
    diagnosis.assert_verdict(
        5,
        &[
            "libcudart.so.13 returns 35",
            "CUDA driver version is insufficient for CUDA runtime version",
            "driver 12080, runtime 13000",
            "use a libcudart of the driver's major version",
        ],
    );
}

#[test]
fn a_driver_that_does_not_find_a_function_for_libcudart() {
    let diagnosis = ask_over("HIDE", "\"cuInit\"");
    diagnosis.assert_verdict(
        5,
        &[
            "returns 36",
            "not supported in the installed CUDA driver",
            "cuGetProcAddress",
            "vgpu install",
        ],
    );
}

#[test]
fn a_driver_without_private_tables() {
    let diagnosis = ask_over("TABLES", "1");
    diagnosis.assert_verdict(5, &["cuGetExportTable has no table", "vgpu install"]);
    diagnosis.assert_finding("fault", &["returns 500", "named symbol not found"]);
}

#[test]
fn a_driver_that_fails_the_integrity_check() {
    let diagnosis = ask_over("TABLES", "2");
    diagnosis.assert_verdict(5, &["returns 103", "integrity check", "vgpu install"]);
}

#[test]
fn a_driver_that_does_not_initialise() {
    for (code, text) in [
        ("100", "no CUDA-capable device"),
        ("3", "initialization error"),
        ("999", "unknown error"),
    ] {
        let diagnosis = ask_over("INIT", code);
        diagnosis.assert_verdict(5, &["cuInit returns", code]);
        let said = diagnosis
            .findings()
            .filter_map(|finding| finding["evidence"].as_str());
        assert!(
            said.into_iter()
                .any(|said| said.contains("failed to initialize CUDA") && said.contains(text)),
            "ggml's own words are shown: {diagnosis:?}"
        );
    }
}
