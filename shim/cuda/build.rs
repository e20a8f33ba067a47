//! Linker arguments of the shared library: the name programs look for, and that it never unloads
//! (threads and atexit handlers may still be inside it).

fn main() {
    for argument in ["-Wl,-soname,libcuda.so.1", "-Wl,-z,nodelete", "-Wl,-z,now"] {
        println!("cargo::rustc-cdylib-link-arg={argument}");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
