//! Layer 3: which `libcuda.so.1` the loader takes, and why.

use super::Case;
use crate::child::{self, Outcome, Setting};
use crate::loader::{self, Kind};
use crate::probe::Request;
use crate::probe::library::Loaded;
use crate::report::{Layer, Report};
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

/// Looks.
pub fn check(case: &mut Case, report: &mut Report) {
    let copies = loader::copies("libcuda.so.1", &case.setting);
    for folder in loader::path_folders(&case.setting) {
        if folder.ends_with("stubs") {
            report
                .warning(
                    Layer::Loader,
                    format!("LD_LIBRARY_PATH has CUDA's stubs folder {}: its libcuda.so is for linking only", folder.display()),
                )
                .mend(format!("take {} out of LD_LIBRARY_PATH", folder.display()));
        }
    }
    for path in &copies {
        describe(path, report);
    }
    let plain = load(
        &case
            .setting
            .without("LD_LIBRARY_PATH")
            .without("LD_PRELOAD"),
    );
    let chosen = load(&case.setting);
    case.winner = winner(&chosen);
    match case.winner.clone() {
        Some(path) => judge(&path, &copies, case, report),
        None => nothing(&chosen, &copies, case, report),
    }
    if case.winner.is_some() && winner(&plain).is_none() {
        report.note(
            Layer::Loader,
            "without LD_LIBRARY_PATH no libcuda.so.1 is found: services and privileged programs will not find it; `vgpu install` makes it known to the loader",
        );
    }
}

fn load(setting: &Setting) -> Outcome<Loaded> {
    let request = Request::Load {
        library: "libcuda.so.1".to_owned(),
    };
    child::run(&setting.within(LIMIT), &request)
}

fn winner(outcome: &Outcome<Loaded>) -> Option<PathBuf> {
    let loaded = outcome
        .answer
        .as_ref()
        .filter(|loaded| loaded.error.is_none())?;
    loaded.driver.as_deref().map(PathBuf::from)
}

fn describe(path: &Path, report: &mut Report) {
    let shown = path.display();
    match loader::kind(path) {
        Kind::Dangling(target) => {
            report
                .warning(
                    Layer::Loader,
                    format!(
                        "{shown} is a dangling symbolic link: {} does not exist",
                        target.display()
                    ),
                )
                .mend(format!("run `rm {shown}`, then `ldconfig`"));
        }
        Kind::Foreign(architecture) => {
            report.note(
                Layer::Loader,
                format!("{shown} is for {architecture}; the loader passes it over"),
            );
        }
        Kind::NoFile(what) => {
            report
                .warning(Layer::Loader, format!("{shown} is {what}"))
                .mend(format!("remove {shown}, then run `vgpu install`"));
        }
        Kind::Unreadable(error) => {
            report
                .warning(Layer::Loader, format!("{shown} cannot be read: {error}"))
                .mend(format!("run `chmod a+r {shown}`"));
        }
        Kind::Broken => {
            report
                .warning(
                    Layer::Loader,
                    format!("{shown} is no library, or cut short"),
                )
                .mend(format!("run `rm {shown}`, then `vgpu install`"));
        }
        kind => {
            report.ok(Layer::Loader, format!("{shown}: {}", words(&kind)));
        }
    }
}

/// What a copy is, in words.
pub fn words(kind: &Kind) -> String {
    match kind {
        Kind::Shim => "vgpu's".to_owned(),
        Kind::Nvidia(version) => format!("NVIDIA's driver {version}"),
        Kind::Stub => "CUDA's stub for linking".to_owned(),
        _ => "neither vgpu's nor NVIDIA's".to_owned(),
    }
}

/// The loader took this one.
fn judge(path: &Path, copies: &[PathBuf], case: &Case, report: &mut Report) {
    let shown = path.display();
    match loader::kind(path) {
        Kind::Shim => {
            report.ok(Layer::Loader, format!("the loader takes {shown}, vgpu's"));
        }
        Kind::Nvidia(version) if Path::new("/dev/nvidiactl").exists() => {
            report.note(
                Layer::Loader,
                format!("the loader takes NVIDIA's own driver {version} ({shown}), and this machine has a GPU of its own"),
            );
        }
        Kind::Nvidia(version) => {
            report
                .fault(
                    Layer::Loader,
                    format!("a real NVIDIA driver ({shown}, version {version}) wins over the shim, and this machine has no GPU for it"),
                )
                .mend(removal(path, case));
        }
        Kind::Stub => {
            report
                .fault(
                    Layer::Loader,
                    format!("CUDA's stub for linking, {shown}, wins over the shim"),
                )
                .mend(
                    "take the stubs folder out of LD_LIBRARY_PATH and the loader's configuration",
                );
        }
        kind => {
            report
                .warning(
                    Layer::Loader,
                    format!("the loader takes {shown}, which is {}", words(&kind)),
                )
                .mend("run `vgpu install`, and remove this copy if nobody needs it");
        }
    }
    let further: Vec<String> = copies
        .iter()
        .filter(|copy| copy.canonicalize().ok() != path.canonicalize().ok())
        .filter(|copy| {
            matches!(
                loader::kind(copy),
                Kind::Nvidia(_) | Kind::Unknown | Kind::Shim
            )
        })
        .map(|copy| copy.display().to_string())
        .collect();
    if !further.is_empty() {
        report.note(
            Layer::Loader,
            format!(
                "further copies that another search order would take: {}",
                further.join(", ")
            ),
        );
    }
}

/// How a real driver that is in the way is got rid of.
fn removal(path: &Path, case: &Case) -> String {
    let on_path = loader::path_folders(&case.setting)
        .into_iter()
        .find(|folder| path.starts_with(folder));
    match on_path {
        Some(folder) => format!("take {} out of LD_LIBRARY_PATH, or put the shim's folder before it", folder.display()),
        None => "run `apt-get purge 'libcuda1' 'libnvidia-compute-*'` (or your distribution's way of removing it), then `vgpu install`".to_owned(),
    }
}

/// The loader took none.
fn nothing(chosen: &Outcome<Loaded>, copies: &[PathBuf], case: &Case, report: &mut Report) {
    let said = chosen
        .answer
        .as_ref()
        .and_then(|loaded| loaded.error.clone())
        .unwrap_or_else(|| format!("{} {}", chosen.failure(), chosen.last_words()));
    let mut what = "no libcuda.so.1 is found by the loader".to_owned();
    let shut_out = case.target.privilege.is_some()
        && case
            .target
            .environment
            .iter()
            .any(|(name, _)| name == "LD_LIBRARY_PATH" || name == "LD_PRELOAD");
    if shut_out {
        what.push_str(
            ", which ignores LD_LIBRARY_PATH and LD_PRELOAD for this program (AT_SECURE)",
        );
    }
    for path in copies {
        match loader::kind(path) {
            Kind::Foreign(architecture) => {
                what.push_str(&format!("; {} is a {architecture} library", path.display()));
            }
            Kind::Dangling(_) => {
                what.push_str(&format!("; {} is a dangling symbolic link", path.display()));
            }
            Kind::NoFile(kind) => what.push_str(&format!("; {} is {kind}", path.display())),
            Kind::Unreadable(error) => {
                what.push_str(&format!("; {} cannot be read: {error}", path.display()));
            }
            Kind::Broken => what.push_str(&format!("; {} is broken", path.display())),
            _ => {}
        }
    }
    let mend = if case.target.unit.is_some() || shut_out || case.target.pid.is_some() {
        "run `vgpu install`"
    } else {
        "run `vgpu install`, or start the program with `vgpu run --`"
    };
    report.fault(Layer::Loader, what).mend(mend).evidence(said);
}
