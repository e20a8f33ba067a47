//! Debian's packages, through a configuration of apt's of our own.
//!
//! The system's own sources stay as they are: copies of them, with source packages and the backports suite added, and
//! what apt learns from them lie under `.cache/apt`. Looking up and downloading needs no root that way.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::places;
use crate::shell::{create_folder, display, exists, run_quietly, say};

/// Lists older than this are fetched again: the files they name may be gone from the mirror.
const LISTS_KEEP: Duration = Duration::from_secs(24 * 3600);

/// Apt with our sources.
#[derive(Debug)]
pub struct Apt {
    folder: PathBuf,
    /// `bookworm`, `trixie` …
    codename: String,
}

impl Apt {
    /// Writes the sources and fetches the lists where they are missing or old.
    ///
    /// # Errors
    /// When this is no system with apt, or the lists cannot be fetched.
    pub fn open() -> anyhow::Result<Self> {
        if !exists("apt-get", &["--version"]) {
            bail!("this system has no apt-get, and the packages of others are not known here");
        }
        let codename = os_release("VERSION_CODENAME")
            .context("/etc/os-release names no VERSION_CODENAME; which release is this?")?;
        let apt = Self {
            folder: places::cache().join("apt"),
            codename,
        };
        for part in ["sources", "lists/partial", "archives/partial"] {
            create_folder(&apt.folder.join(part))?;
        }
        let wanted = apt.sources()?;
        let file = apt.folder.join("sources/vgpu.sources");
        let stamp = apt.folder.join("lists/fetched");
        let known = std::fs::read_to_string(&file).is_ok_and(|have| have == wanted);
        if !known || !younger_than(&stamp, LISTS_KEEP) {
            std::fs::write(&file, wanted)?;
            say("fetching apt's package lists");
            run_quietly(apt.command("apt-get").args(["update", "--quiet=2"]))?;
            std::fs::write(&stamp, "")?;
        }
        Ok(apt)
    }

    /// The suite of newer packages for this release.
    #[must_use]
    pub fn backports(&self) -> String {
        format!("{}-backports", self.codename)
    }

    /// A command of apt's family that works on our sources.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let folder = self.folder.display();
        for option in [
            "Dir::Etc::sourcelist=/dev/null".to_owned(),
            format!("Dir::Etc::sourceparts={folder}/sources"),
            format!("Dir::State::lists={folder}/lists"),
            format!("Dir::Cache={folder}"),
            // The user `_apt` may not enter the folder.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C");
        command
    }

    /// The version that an installation would take, e.g. `1:7.2+dfsg-7`; `None` when there is no such package.
    pub fn candidate(&self, package: &str) -> anyhow::Result<Option<String>> {
        let text = read(self.command("apt-cache").args(["policy", package]))?;
        Ok(text
            .lines()
            .find_map(|line| line.trim().strip_prefix("Candidate: "))
            .filter(|version| *version != "(none)")
            .map(str::to_owned))
    }

    /// What a package depends on directly.
    pub fn dependencies(&self, package: &str) -> anyhow::Result<Vec<String>> {
        let text = read(self.command("apt-cache").args(["depends", package]))?;
        Ok(text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .map(str::to_owned)
            .collect())
    }

    /// Installs packages, from `suite` if one is given, without what they merely recommend.
    pub fn install(&self, packages: &[&str], suite: Option<&str>) -> anyhow::Result<()> {
        let list = packages.join(" ");
        let from = suite.map_or_else(String::new, |suite| format!(" from {suite}"));
        if !rustix::process::geteuid().is_root() {
            bail!("missing on this system: {list}{from}; run this once as root, which installs it");
        }
        say(&format!("installing {list}{from} with apt-get"));
        let mut command = self.command("apt-get");
        command.args(["install", "--yes", "--quiet=2", "--no-install-recommends"]);
        if let Some(suite) = suite {
            command.args(["--target-release", suite]);
        }
        run_quietly(command.args(packages))
    }

    /// Downloads packages with all that they depend on, as for a system on which nothing is installed, and unpacks them into
    /// `root`, whose `bin`, `sbin` and `lib*` may be links. None of their scripts is run.
    pub fn unpack_with_dependencies(&self, packages: &[&str], root: &Path) -> anyhow::Result<()> {
        let work = tempfile::tempdir()?;
        let status = work.path().join("status");
        std::fs::write(&status, "")?;
        create_folder(&work.path().join("archives/partial"))?;
        let mut command = self.command("apt-get");
        for (option, value) in [
            ("Dir::State::status", status.display()),
            (
                "Dir::Cache::archives",
                work.path().join("archives").display(),
            ),
        ] {
            command.args(["-o", &format!("{option}={value}")]);
        }
        run_quietly(
            command
                .args(["-o", "Debug::NoLocking=true"])
                .args(["install", "--yes", "--quiet=2", "--download-only"])
                .arg("--no-install-recommends")
                .args(packages),
        )?;
        for entry in std::fs::read_dir(work.path().join("archives"))? {
            let package = entry?.path();
            if package.extension().is_some_and(|kind| kind == "deb") {
                unpack_below_links(&package, root)?;
            }
        }
        Ok(())
    }

    /// Downloads a binary package and unpacks it into `folder`, without installing it.
    pub fn unpack(&self, package: &str, folder: &Path) -> anyhow::Result<()> {
        let debs = folder.join("debs");
        crate::shell::fresh_folder(&debs)?;
        run_quietly(
            self.command("apt-get")
                .args(["download", "--quiet=2", package])
                .current_dir(&debs),
        )?;
        for entry in std::fs::read_dir(&debs)? {
            run_quietly(
                Command::new("dpkg-deb")
                    .arg("--extract")
                    .arg(entry?.path())
                    .arg(folder),
            )?;
        }
        std::fs::remove_dir_all(&debs)?;
        Ok(())
    }

    /// Fetches the source of exactly this version into `folder` and returns where it was unpacked.
    pub fn source(&self, package: &str, version: &str, folder: &Path) -> anyhow::Result<PathBuf> {
        create_folder(folder)?;
        let exact = format!("{package}={version}");
        // With the distribution's patches if its description of the source is still there; mirrors drop it early.
        let whole = self
            .command("apt-get")
            .args(["source", "--quiet=2", &exact])
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        if !whole.success() {
            run_quietly(
                self.command("apt-get")
                    .args(["source", "--quiet=2", "--tar-only", &exact])
                    .current_dir(folder),
            )?;
            for entry in std::fs::read_dir(folder)? {
                let path = entry?.path();
                if path.to_string_lossy().contains(".orig.tar") {
                    run_quietly(Command::new("tar").arg("xf").arg(path).current_dir(folder))?;
                }
            }
        }
        std::fs::read_dir(folder)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.join("configure").exists())
            .with_context(|| format!("the source of {exact} holds no `configure`"))
    }

    /// The system's entries for this release, with source packages, and once more for the backports suite.
    fn sources(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        let mut backports = None;
        for entry in installed_entries()? {
            let suites: Vec<&str> = entry.suites.split_whitespace().collect();
            if !suites.iter().any(|suite| suite.starts_with(&self.codename)) {
                continue;
            }
            if suites.contains(&self.codename.as_str()) && backports.is_none() {
                backports = Some(entry.with_suites(&self.backports()));
            }
            writeln!(text, "{}", entry.with_suites(&entry.suites))?;
        }
        let Some(backports) = backports else {
            bail!(
                "no package source for {} in /etc/apt/sources.list*",
                self.codename
            );
        };
        // Other distributions have no suite of that name, or one that needs no adding.
        if os_release("ID").as_deref() == Some("debian") {
            writeln!(text, "{backports}")?;
        }
        Ok(text)
    }
}

/// Unpacks a package without replacing links to folders by folders, as `dpkg-deb --extract` would, and without texts for
/// people.
fn unpack_below_links(package: &Path, root: &Path) -> anyhow::Result<()> {
    let mut read = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run `dpkg-deb`")?;
    let archive = read.stdout.take().context("it is piped")?;
    let mut write = Command::new("tar");
    write
        .args(["--extract", "--keep-directory-symlink", "--directory"])
        .arg(root)
        .args(
            ["doc", "man", "locale", "info", "lintian"]
                .map(|kind| format!("--exclude=./usr/share/{kind}")),
        )
        .stdin(archive);
    let written = write.status().context("cannot run `tar`")?;
    if !read.wait()?.success() || !written.success() {
        bail!("{} cannot be unpacked", package.display());
    }
    Ok(())
}

/// One source of packages.
#[derive(Debug)]
struct Entry {
    uris: String,
    suites: String,
    /// Further lines of the deb822 form: components, keys.
    rest: String,
}

impl Entry {
    fn with_suites(&self, suites: &str) -> String {
        format!(
            "Types: deb deb-src\nURIs: {}\nSuites: {suites}\n{}",
            self.uris, self.rest
        )
    }
}

/// The system's sources, in both of apt's formats.
fn installed_entries() -> anyhow::Result<Vec<Entry>> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = std::fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => found.extend(text.split("\n\n").filter_map(deb822)),
            Some("list") => found.extend(text.lines().filter_map(one_line)),
            _ => {}
        }
    }
    if found.is_empty() {
        bail!("no package source in /etc/apt/sources.list or /etc/apt/sources.list.d");
    }
    Ok(found)
}

/// A paragraph `Types: deb / URIs: … / Suites: …`.
fn deb822(paragraph: &str) -> Option<Entry> {
    let (mut types, mut uris, mut suites) = (None, None, None);
    let mut rest = String::new();
    for line in paragraph.lines().filter(|line| !line.starts_with('#')) {
        match line.split_once(':') {
            Some(("Types", value)) => types = Some(value.trim()),
            Some(("URIs", value)) => uris = Some(value.trim().to_owned()),
            Some(("Suites", value)) => suites = Some(value.trim().to_owned()),
            Some(("Enabled", value)) if value.trim() == "no" => return None,
            // Other fields, and the further lines of a key that is written out.
            _ if line.trim().is_empty() => {}
            _ => rest.extend([line, "\n"]),
        }
    }
    types?.split_whitespace().find(|kind| *kind == "deb")?;
    Some(Entry {
        uris: uris?,
        suites: suites?,
        rest,
    })
}

/// A line `deb [signed-by=KEY] URI SUITE COMPONENT…`.
fn one_line(line: &str) -> Option<Entry> {
    let mut line = line.trim().strip_prefix("deb ")?.trim();
    let mut rest = String::new();
    if let Some(options) = line.strip_prefix('[') {
        let (options, after) = options.split_once(']')?;
        for option in options.split_whitespace() {
            let (name, value) = option.split_once('=')?;
            match name {
                "signed-by" => rest.extend(["Signed-By: ", value, "\n"]),
                "arch" => rest.extend(["Architectures: ", value, "\n"]),
                _ => return None,
            }
        }
        line = after.trim();
    }
    let mut words = line.split_whitespace();
    let (uris, suites) = (words.next()?.to_owned(), words.next()?.to_owned());
    let components: Vec<&str> = words.collect();
    rest.extend(["Components: ", &components.join(" "), "\n"]);
    Some(Entry { uris, suites, rest })
}

/// The installed version of a Debian package.
#[must_use]
pub fn installed(package: &str) -> Option<String> {
    let output = Command::new("dpkg-query")
        .args([
            "--show",
            "--showformat=${db:Status-Status} ${Version}",
            package,
        ])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.strip_prefix("installed ").map(str::to_owned)
}

fn os_release(name: &str) -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    text.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix('=')?;
        Some(value.trim_matches('"').to_owned())
    })
}

fn younger_than(file: &Path, age: Duration) -> bool {
    let modified = file.metadata().and_then(|metadata| metadata.modified());
    modified.is_ok_and(|time| time.elapsed().is_ok_and(|elapsed| elapsed < age))
}

/// What a command prints.
fn read(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{}`", display(command)))?;
    if !output.status.success() {
        bail!(
            "`{}` failed: {}",
            display(command),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_of_sources_are_understood() {
        let one =
            one_line("deb [signed-by=/k.gpg arch=amd64] http://mirror/debian trixie main contrib")
                .expect("an entry");
        assert_eq!(one.uris, "http://mirror/debian");
        assert_eq!(one.suites, "trixie");
        assert_eq!(
            one.rest,
            "Signed-By: /k.gpg\nArchitectures: amd64\nComponents: main contrib\n"
        );
        assert!(one_line("# deb http://mirror/debian trixie main").is_none());
        assert!(one_line("deb-src http://mirror/debian trixie main").is_none());

        let many = deb822("# mine\nTypes: deb\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k.gpg")
            .expect("an entry");
        assert_eq!(
            many.with_suites("bookworm-backports"),
            "Types: deb deb-src\nURIs: http://mirror/debian\nSuites: bookworm-backports\nComponents: main\nSigned-By: /k.gpg\n"
        );
        assert!(deb822("Types: deb-src\nURIs: x\nSuites: y").is_none());
        assert!(deb822("Enabled: no\nTypes: deb\nURIs: x\nSuites: y").is_none());
    }
}
