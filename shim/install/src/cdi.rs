//! The Container Device Interface specification: how container engines hand the GPU on without NVIDIA's toolkit.
//!
//! The shims are mounted as single files into the folders that a loader searches without being told: Debian's and its
//! descendants' `/usr/lib/x86_64-linux-gnu`, and `/usr/lib64` of the others. So no hook has to run `ldconfig` in the
//! container, and no variable of the image is replaced: an `LD_LIBRARY_PATH` in `env` would take the place of the image's
//! own, by which many find their libcudart. The socket comes with its directory: the file is made anew with each daemon.

use crate::system::LIBRARY_FOLDERS;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Where `vgpu install --cdi` writes it.
pub const PATH: &str = "/etc/cdi/vgpu.json";
/// The device's name on command lines.
pub const DEVICE: &str = "vgpu/gpu=all";
/// Version of the specification: the one in which nothing newer is needed.
const VERSION: &str = "0.5.0";

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Specification {
    cdi_version: &'static str,
    kind: &'static str,
    devices: Vec<Device>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: &'static str,
    container_edits: Edits,
}

#[derive(Debug, Serialize)]
struct Edits {
    mounts: Vec<Mount>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Mount {
    host_path: PathBuf,
    container_path: PathBuf,
    options: [&'static str; 4],
}

/// The specification for shims `names` in `libraries` and the socket in `socket_dir`.
///
/// # Errors
/// When a path cannot be written as JSON.
pub fn specification(
    libraries: &Path,
    names: &[String],
    socket_dir: &Path,
) -> serde_json::Result<String> {
    let mount = |host: PathBuf, container: PathBuf| Mount {
        host_path: host,
        container_path: container,
        options: ["ro", "nosuid", "nodev", "bind"],
    };
    let mut mounts: Vec<Mount> = LIBRARY_FOLDERS
        .iter()
        .flat_map(|folder| {
            names
                .iter()
                .map(move |name| mount(libraries.join(name), Path::new(folder).join(name)))
        })
        .collect();
    // Connecting to a socket is no writing to its file system.
    mounts.push(mount(socket_dir.to_owned(), "/run/vgpu".into()));
    let text = serde_json::to_string_pretty(&Specification {
        cdi_version: VERSION,
        kind: "vgpu/gpu",
        devices: vec![Device {
            name: "all",
            container_edits: Edits { mounts },
        }],
    })?;
    Ok(text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the schema of version 0.5.0 and the engines' own checks demand.
    #[test]
    fn the_specification_has_what_the_schema_requires() {
        let names = ["libcuda.so.1".to_owned(), "libnvidia-ml.so.1".to_owned()];
        let text = specification(Path::new("/opt/vgpu"), &names, Path::new("/run/vgpu")).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let fields = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        assert_eq!(fields(&value), ["cdiVersion", "devices", "kind"]);
        assert_eq!(value["cdiVersion"], "0.5.0");
        let (vendor, class) = value["kind"].as_str().unwrap().split_once('/').unwrap();
        for word in [vendor, class] {
            assert!(word.starts_with(|first: char| first.is_ascii_alphabetic()));
            assert!(word.ends_with(|last: char| last.is_ascii_alphanumeric()));
        }
        let devices = value["devices"].as_array().unwrap();
        assert_eq!(devices.len(), 1);
        assert_eq!(fields(&devices[0]), ["containerEdits", "name"]);
        assert_eq!(
            format!("{}={}", value["kind"].as_str().unwrap(), "all"),
            DEVICE
        );
        let mounts = devices[0]["containerEdits"]["mounts"].as_array().unwrap();
        assert_eq!(mounts.len(), 2 * names.len() + 1);
        for mount in mounts {
            assert_eq!(fields(mount), ["containerPath", "hostPath", "options"]);
            for path in ["containerPath", "hostPath"] {
                assert!(mount[path].as_str().unwrap().starts_with('/'));
            }
        }
    }
}
