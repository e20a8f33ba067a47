//! `vgpu doctor` over the real ggml and CUDA libraries and a driver with one fault: each that was measured with them must be
//! named by the code that libcudart turns it into.

#[path = "support/ollama.rs"]
mod installation;
mod support;

use std::path::PathBuf;

use installation::{Installation, RELEASES, SEED};
use support::{backend, parts};
use vgpu_e2e::diagnosis::{Diagnosis, library};

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

/// A driver that passes everything on to the shim but for one fault.
fn faulty_driver(installation: &Installation, fault: &str) -> PathBuf {
    let folder = installation.path("driver");
    std::fs::create_dir(&folder).expect("made");
    // A shim of its own that stands before it in every list of mappings.
    let shim = installation.path("a-shim/libcuda.so.1");
    std::fs::create_dir(installation.path("a-shim")).expect("made");
    std::fs::copy(parts().library_folder.join("libcuda.so.1"), &shim).expect("copied");
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
        shim.display()
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
