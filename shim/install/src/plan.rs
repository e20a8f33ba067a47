//! What is to be there, as a list of changes in the order in which they are made.

use crate::change::{Content, Found, compare, read_number};
use crate::manifest::{self, Entry, Manifest, hash};
use crate::options::Options;
use crate::service::{self, HUGE_PAGES, SYSCTL, Service};
use crate::system::{self, LIBRARY_FOLDERS};
use crate::tree::Tree;
use crate::{Source, cdi, loader};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// Folders of other packages in which programs look for a driver by fixed paths: links go there if they exist. CUDA's own
/// come beside them.
const FURTHER_FOLDERS: [&str; 1] = ["/usr/local/nvidia/lib64"];

/// How an entry is made.
#[derive(Clone, Debug)]
pub enum Make {
    /// As a folder.
    Folder,
    /// With this content and these permissions.
    File(Vec<u8>, u32),
    /// As a link.
    Link,
    /// By the kernel, when the value is written.
    Setting,
    /// By `ldconfig`.
    Elsewhere,
}

/// One change.
#[derive(Clone, Debug)]
pub struct Step {
    /// What the manifest says of it.
    pub entry: Entry,
    /// How it is made.
    pub make: Make,
}

/// All changes.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// What is not done, or must be done by hand: a sentence each.
    pub notes: Vec<String>,
    /// The services that are to run.
    pub services: Vec<Service>,
}

/// Where an installation's parts are.
#[derive(Clone, Debug)]
pub struct Places {
    /// The programs.
    pub bin: PathBuf,
    /// The shims.
    pub libraries: PathBuf,
}

impl Places {
    /// Below a prefix, which must be absolute.
    ///
    /// # Errors
    /// When it is not.
    pub fn new(prefix: &Path) -> Result<Self> {
        let plain = prefix
            .components()
            .all(|part| !matches!(part, std::path::Component::ParentDir));
        let text = prefix.to_str().unwrap_or_default();
        // The loader's configuration and units have no quotes for the rest.
        let simple = !text.is_empty()
            && !text.contains(|c: char| c.is_whitespace() || "#:%=\\\"'".contains(c));
        ensure!(
            prefix.is_absolute() && plain && simple,
            "--prefix must be an absolute path without `..`, spaces or punctuation, such as /usr/local"
        );
        Ok(Self {
            bin: prefix.join("bin"),
            libraries: prefix.join("lib/vgpu"),
        })
    }
}

struct Builder<'a> {
    tree: &'a Tree,
    old: Option<&'a Manifest>,
    plan: Plan,
}

/// Plans an installation over `old`, the manifest of an earlier one.
///
/// # Errors
/// One sentence, when something of another owner is in the way.
pub fn plan(
    tree: &Tree,
    options: &Options,
    source: &Source,
    old: Option<&Manifest>,
) -> Result<Plan> {
    let places = Places::new(&options.prefix)?;
    let names = shims(&source.libraries)?;
    if !options.beside {
        refuse_driver(tree, &places, &names)?;
    }
    let mut builder = Builder {
        tree,
        old,
        plan: Plan::default(),
    };
    // First the manifest's own folder, which is ours even if it is there: an installation that was ended before its
    // manifest was written may have left it.
    let own = Path::new(manifest::PATH);
    builder.parents(own);
    if let Some(folder) = own.parent() {
        let path = folder.to_owned();
        builder.push(Entry::Folder { path }, Make::Folder);
    }
    builder.files(options, source, &places, &names)?;
    if !options.beside {
        builder.loader(&places)?;
        builder.links(&places, &names);
    }
    builder.services(options, source, &places)?;
    if options.cdi {
        let text = cdi::specification(&places.libraries, &names, Path::new("/run/vgpu"))?;
        builder.file(Path::new(cdi::PATH), &Content::Text(text), 0o644)?;
    }
    if !options.beside {
        for path in loader::GENERATED {
            builder.generated(Path::new(path));
        }
    }
    Ok(builder.plan)
}

/// The shims in a folder.
///
/// # Errors
/// When there is none.
pub fn shims(folder: &Path) -> Result<Vec<String>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("lib") && name.ends_with(".so.1"))
        .collect();
    names.sort();
    ensure!(
        names.iter().any(|name| name == "libcuda.so.1"),
        "libcuda.so.1 is not in {}: install from a folder that `cargo xtask dist` made",
        folder.display()
    );
    Ok(names)
}

fn refuse_driver(tree: &Tree, places: &Places, names: &[String]) -> Result<()> {
    let ours = tree.target(&places.libraries);
    let known: Vec<PathBuf> = names
        .iter()
        .flat_map(|name| loader::known(tree, name))
        .collect();
    let Some(found) = system::foreign_driver(tree, names, &known, &ours) else {
        return Ok(());
    };
    let package = system::package(tree, &found)
        .map(|package| format!(" (package {package})"))
        .unwrap_or_default();
    bail!(
        "a driver that is not vgpu's is installed: {}{package}; the shims would hide it from every program, so they are not \
         put into the loader's path: remove it if this machine has no GPU of its own, or use `vgpu install --beside` and \
         `vgpu run -- PROGRAM`",
        found.display()
    );
}

impl Builder<'_> {
    fn push(&mut self, entry: Entry, make: Make) {
        if self
            .plan
            .steps
            .iter()
            .all(|step| step.entry.path() != entry.path())
        {
            self.plan.steps.push(Step { entry, make });
        }
    }

    /// What the old manifest says of a path, if that is still so.
    fn owned(&self, path: &Path) -> Option<&Entry> {
        let entry = self.old?.entry(path)?;
        (compare(self.tree, entry) != Found::Other).then_some(entry)
    }

    /// The folders above `path` that are to be made, or were.
    fn parents(&mut self, path: &Path) {
        let mut folders: Vec<&Path> = path.ancestors().skip(1).collect();
        folders.reverse();
        for folder in folders {
            let entry = Entry::Folder {
                path: folder.to_owned(),
            };
            if self.owned(folder).is_some() || !self.tree.has_folder(folder) {
                self.push(entry, Make::Folder);
            }
        }
    }

    /// A file that must be there.
    fn file(&mut self, path: &Path, content: &Content, mode: u32) -> Result<()> {
        let content = content.bytes()?;
        let entry = Entry::File {
            path: path.to_owned(),
            hashes: vec![hash(&content)],
        };
        if self.owned(path).is_none() {
            match compare(self.tree, &entry) {
                Found::Nothing => {}
                // Somebody, a package manager say, put the same there; it is theirs to remove.
                Found::Same => return Ok(()),
                Found::Other => bail!(
                    "{} is there and not from vgpu install: move it away, or choose another --prefix",
                    path.display()
                ),
            }
        }
        self.parents(path);
        self.push(entry, Make::File(content, mode));
        Ok(())
    }

    /// A link, unless something else is there.
    fn link(&mut self, path: &Path, target: &Path) {
        let entry = Entry::Link {
            path: path.to_owned(),
            target: target.to_owned(),
        };
        if self.owned(path).is_none() {
            match compare(self.tree, &entry) {
                Found::Nothing => {}
                Found::Same => return,
                Found::Other => {
                    let note = format!("{} is left alone: it is not vgpu's", path.display());
                    self.plan.notes.push(note);
                    return;
                }
            }
        }
        self.parents(path);
        self.push(entry, Make::Link);
    }

    fn generated(&mut self, path: &Path) {
        let entry = Entry::Generated {
            path: path.to_owned(),
        };
        if self.owned(path).is_some() || !self.tree.place(path).exists() {
            self.push(entry, Make::Elsewhere);
        }
    }

    fn files(
        &mut self,
        options: &Options,
        source: &Source,
        places: &Places,
        names: &[String],
    ) -> Result<()> {
        let command = Content::Copy(source.command.clone());
        self.file(&places.bin.join("vgpu"), &command, 0o755)?;
        if options.daemon {
            ensure!(
                source.daemon.exists(),
                "{} is missing: --daemon installs it from beside this command",
                source.daemon.display()
            );
            let daemon = Content::Copy(source.daemon.clone());
            self.file(&places.bin.join("vhost-user-vgpu"), &daemon, 0o755)?;
        }
        for name in names {
            let library = Content::Copy(source.libraries.join(name));
            self.file(&places.libraries.join(name), &library, 0o755)?;
            // Some programs ask for the name without a version.
            let plain = name.trim_end_matches(".1");
            self.link(&places.libraries.join(plain), Path::new(name));
        }
        Ok(())
    }

    fn loader(&mut self, places: &Places) -> Result<()> {
        let main = Path::new(loader::MAIN_CONFIGURATION);
        if self.owned(main).is_some() || !self.tree.target(main).exists() {
            let include = "include /etc/ld.so.conf.d/*.conf\n".to_owned();
            self.file(main, &Content::Text(include), 0o644)?;
        }
        let text = format!(
            "# Made by vgpu install: libcuda.so.1 for every program, also without LD_LIBRARY_PATH.\n{}\n",
            places.libraries.display()
        );
        self.file(
            Path::new(loader::CONFIGURATION),
            &Content::Text(text),
            0o644,
        )
    }

    /// Links for programs that look at fixed paths and ask no loader: Ollama up to 0.12.3 does.
    fn links(&mut self, places: &Places, names: &[String]) {
        let system = LIBRARY_FOLDERS
            .iter()
            .find(|folder| self.tree.has_folder(Path::new(folder)));
        let toolkits = self.tree.names(Path::new("/usr/local"));
        let toolkits = toolkits
            .iter()
            .filter(|name| name.starts_with("cuda"))
            .map(|name| {
                Path::new("/usr/local")
                    .join(name)
                    .join("targets/x86_64-linux/lib")
            });
        let folders: Vec<PathBuf> = system
            .into_iter()
            .chain(&FURTHER_FOLDERS)
            .map(PathBuf::from)
            .chain(toolkits)
            .filter(|folder| self.tree.has_folder(folder))
            .collect();
        let mut seen: Vec<PathBuf> = Vec::new();
        for folder in folders {
            // /usr/local/cuda is a link to one of its versions.
            let place = self.tree.target(&folder);
            if seen.contains(&place) {
                continue;
            }
            seen.push(place);
            for name in names {
                self.link(&folder.join(name), &places.libraries.join(name));
            }
        }
    }

    fn services(&mut self, options: &Options, source: &Source, places: &Places) -> Result<()> {
        let device = source.device && self.tree.is_this_system();
        let agent = (options.agent || device) && !options.no_agent;
        let wanted = [
            (Service::Agent, agent),
            (Service::Daemon, options.daemon),
            (Service::Machine, options.daemon),
        ];
        for (service, _) in wanted.into_iter().filter(|(_, wanted)| *wanted) {
            if !service::is_there(self.tree) {
                let command = match service {
                    Service::Agent => "vgpu agent",
                    Service::Daemon => "vhost-user-vgpu",
                    Service::Machine => continue,
                };
                let command = places.bin.join(command);
                self.plan.notes.push(format!(
                    "there is no systemd: have your init start `{}` as root",
                    command.display()
                ));
                continue;
            }
            let text = Content::Text(service.text(&places.bin));
            self.file(&service.file(), &text, 0o644)?;
            if let Some(link) = service.wanted() {
                self.link(&link, &service.file());
                self.plan.services.push(service);
            }
        }
        if agent && options.huge_pages > 0 {
            self.huge_pages(options.huge_pages)?;
        }
        Ok(())
    }

    /// The agent's memory: at the next boot, and now. A pool that is large enough is left alone.
    fn huge_pages(&mut self, wanted: u32) -> Result<()> {
        let here = self.tree.is_this_system();
        let setting = Path::new(HUGE_PAGES);
        let now = read_number(setting).filter(|_| here);
        let old = self.old.and_then(|old| old.entry(setting)).cloned();
        if now.is_some_and(|now| now >= u64::from(wanted)) && old.is_none() {
            return Ok(());
        }
        let text = format!(
            "# Made by vgpu install: shared memory of the programs that vgpu agent serves.\nvm.nr_hugepages = {wanted}\n"
        );
        self.file(Path::new(SYSCTL), &Content::Text(text), 0o644)?;
        if let Some(now) = now {
            let before = match old {
                Some(Entry::Setting { before, .. }) => before,
                _ => now,
            };
            let entry = Entry::Setting {
                path: setting.to_owned(),
                before,
                value: wanted.into(),
            };
            self.push(entry, Make::Setting);
        }
        Ok(())
    }
}
