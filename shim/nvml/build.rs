//! Linker arguments of the shared library: the name programs look for, and that it never unloads: some load and unload
//! it for every question.

fn main() {
    for argument in [
        "-Wl,-soname,libnvidia-ml.so.1",
        "-Wl,-z,nodelete",
        "-Wl,-z,now",
    ] {
        println!("cargo::rustc-cdylib-link-arg={argument}");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
