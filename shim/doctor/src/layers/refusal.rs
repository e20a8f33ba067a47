//! The loader refused a library: in whose words, for which reason, and what mends it.

use crate::child::{Ending, Outcome, Setting};
use crate::elf::{Elf, is_driver_name};
use crate::loader;
use crate::probe::library::Loaded;
use crate::report::{Layer, Report};
use std::path::Path;

/// Adds the fault.
pub fn report(
    path: &Path,
    elf: &Elf,
    setting: &Setting,
    outcome: &Outcome<Loaded>,
    report: &mut Report,
) {
    let shown = path.display();
    let Some(error) = outcome
        .answer
        .as_ref()
        .and_then(|loaded| loaded.error.as_deref())
    else {
        let (what, mend) = died(path, outcome);
        report
            .fault(Layer::Exports, what)
            .mend(mend)
            .evidence(outcome.last_words());
        return;
    };
    let (reason, mend) = explain(error, path, elf, setting);
    report
        .fault(Layer::Exports, format!("{shown} does not load: {reason}"))
        .mend(mend)
        .evidence(error);
}

/// The child did not survive the load.
fn died(path: &Path, outcome: &Outcome<Loaded>) -> (String, String) {
    let shown = path.display();
    if outcome.ending == Ending::Exit(127) {
        return (
            format!(
                "loading {shown} ends the process with exit status 127: ld.so aborted, as it does when a library was replaced by one without symbol versions"
            ),
            "put NVIDIA's own libcudart and libcublas back (install the program again)".to_owned(),
        );
    }
    (
        format!("loading {shown} kills the process: {}", outcome.failure()),
        "a library does work when it is loaded, and dies: look at LD_PRELOAD and at replaced libraries".to_owned(),
    )
}

/// Reason and mending by the loader's message.
fn explain(error: &str, path: &Path, elf: &Elf, setting: &Setting) -> (String, String) {
    if let Some(rest) = after(error, "undefined symbol: ") {
        let name = rest.split([',', ' ']).next().unwrap_or(rest);
        let version = after(rest, "version ").map(|text| text.trim_end_matches([')', ' ']));
        if is_driver_name(name) {
            return (
                format!("libcuda.so.1 lacks {name}"),
                "run `vgpu install` with a current vgpu".to_owned(),
            );
        }
        let library = elf
            .imports
            .iter()
            .find(|import| import.name == name)
            .and_then(|import| import.version.as_ref())
            .map_or(version.unwrap_or("a library"), |(_, file)| file.as_str());
        let found = loader::resolve(library, path, elf, setting);
        return (
            format!(
                "{} lacks {name}{}",
                found.map_or_else(|| library.to_owned(), |found| found.display().to_string()),
                version
                    .map(|version| format!(" of version {version}"))
                    .unwrap_or_default()
            ),
            format!(
                "put NVIDIA's own {library} back (install the program again); vgpu needs no replaced runtime library"
            ),
        );
    }
    if let Some((name, _)) = error.split_once(": cannot open shared object file") {
        let name = name.rsplit(' ').next().unwrap_or(name);
        return match name {
            "libcuda.so.1" => (
                "libcuda.so.1 is not found (see layer 3)".to_owned(),
                "run `vgpu install`".to_owned(),
            ),
            _ => (
                format!("{name} is not found beside it or on the loader's way"),
                format!(
                    "install {name}: it belongs to the program, or to the CUDA toolkit of its version"
                ),
            ),
        };
    }
    if after(error, "version `").is_some() {
        return (
            "a library on the loader's way has another version than it was built with".to_owned(),
            "install the program again, and remove copies of its libraries from LD_LIBRARY_PATH"
                .to_owned(),
        );
    }
    if error.contains("file too short")
        || error.contains("invalid ELF header")
        || error.contains("cannot read file data")
    {
        return (
            "a file is cut short or no library".to_owned(),
            "install the program again; its download or the disk was cut short".to_owned(),
        );
    }
    (
        "the loader refuses it".to_owned(),
        "the loader's message says which file; install its package again".to_owned(),
    )
}

fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.split_once(mark).map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn explained(error: &str) -> (String, String) {
        let setting = Setting {
            identity: crate::child::Identity::own(),
            environment: Vec::new(),
            deadline: Instant::now(),
        };
        explain(
            error,
            Path::new("/x/libggml-cuda.so"),
            &Elf::default(),
            &setting,
        )
    }

    #[test]
    fn messages_of_the_loader_are_explained() {
        let (reason, mend) = explained("/x/libggml-cuda.so: undefined symbol: cuMemCreate");
        assert!(reason.contains("libcuda.so.1 lacks cuMemCreate") && mend.contains("vgpu install"));
        let (reason, _) = explained(
            "/x/libggml-cuda.so: undefined symbol: __cudaRegisterFatBinary, version libcudart.so.13",
        );
        assert!(reason.contains("__cudaRegisterFatBinary") && reason.contains("libcudart.so.13"));
        let (reason, _) =
            explained("libcublas.so.13: cannot open shared object file: No such file or directory");
        assert!(reason.starts_with("libcublas.so.13 is not found"));
        let (reason, _) = explained("/x/y.so: file too short");
        assert!(reason.contains("cut short"));
    }
}
