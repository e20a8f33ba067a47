//! The commands, from the command line to what is printed.

use crate::change::{self, Found, Undone, compare, undo};
use crate::manifest::{self, Entry, Manifest, State};
use crate::plan::{self, Make, Places, Plan, Step};
use crate::tree::Tree;
use crate::{CdiOptions, Options, Source, UninstallOptions, loader, service, system};
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::path::Path;

/// `vgpu install`: prints each change.
///
/// # Errors
/// One sentence; what was made by then is undone, unless an earlier installation is there.
pub fn install(options: &Options, source: &Source) -> Result<()> {
    let tree = open(&options.root)?;
    system::check_c_library(&tree)?;
    if options.dry_run {
        let old = Manifest::load(&tree)?;
        let plan = plan::plan(&tree, options, source, old.as_ref())?;
        for step in &plan.steps {
            let what = match compare(&tree, &step.entry) {
                Found::Same => "keep",
                Found::Nothing => "make",
                Found::Other => "replace",
            };
            println!("would {what} {}", describe(&step.entry));
        }
        for entry in stale(old.as_ref(), &plan) {
            println!("would remove {}", describe(&entry));
        }
        notes(&plan);
        return Ok(());
    }
    require_root(&tree)?;
    let _lock = lock(&tree)?;
    let old = Manifest::load(&tree)?;
    let plan = plan::plan(&tree, options, source, old.as_ref())?;
    let stale = stale(old.as_ref(), &plan);
    let made = begin(&tree, old.as_ref(), &plan, &stale).and_then(|()| {
        let mut entries = Vec::new();
        for step in &plan.steps {
            entries.push(make(&tree, step)?);
        }
        remove(&tree, &stale)?;
        if !options.beside || !stale.is_empty() {
            loader::refresh(&tree)?;
        }
        if !options.beside {
            check_loader(&tree, &Places::new(&options.prefix)?)?;
        }
        let mut manifest = Manifest::new(entries);
        manifest.state = State::Installed;
        manifest.save(&tree)
    });
    if let Err(error) = made {
        if old.is_some() {
            return Err(error.context(
                "the installation is unfinished: run `vgpu install` again, or `vgpu uninstall`",
            ));
        }
        take_back(&tree)?;
        return Err(error);
    }
    notes(&plan);
    if service::runs(&tree) && !plan.services.is_empty() {
        start(&plan, !options.no_start);
    }
    Ok(())
}

/// `vgpu uninstall`: undoes what the manifest says, and prints it.
///
/// # Errors
/// One sentence; what was not undone stays in the manifest.
pub fn uninstall(options: &UninstallOptions) -> Result<()> {
    let tree = open(&options.root)?;
    let Some(manifest) = Manifest::load(&tree)? else {
        if !options.dry_run {
            Manifest::sweep(&tree);
        }
        println!("nothing is installed: there is no {}", manifest::PATH);
        return Ok(());
    };
    if options.dry_run {
        for entry in manifest.entries.iter().rev() {
            println!("would remove {}", describe(entry));
        }
        return Ok(());
    }
    require_root(&tree)?;
    let _lock = lock(&tree)?;
    let services: Vec<service::Service> = service::Service::ALL
        .into_iter()
        .filter(|service| service::runs(&tree) && manifest.entry(&service.file()).is_some())
        .collect();
    for service in &services {
        service::control(&["stop", service.running()]);
        if *service == service::Service::Machine {
            // Whoever started some with the host has links of his own.
            service::control(&["disable", service.unit()]);
        }
        // Compiled kernels, in a folder that the service manager made for it.
        if *service == service::Service::Daemon && std::fs::remove_dir_all(service::CACHE).is_ok() {
            println!("removed {}/", service::CACHE);
        }
    }
    take_back(&tree)?;
    if !services.is_empty() {
        service::control(&["daemon-reload"]);
    }
    Ok(())
}

/// `vgpu cdi`: prints the specification. `libraries` is this command's own folder of shims.
///
/// # Errors
/// When there are no shims.
pub fn cdi(options: &CdiOptions, libraries: &Path) -> Result<()> {
    let names = plan::shims(libraries)?;
    let folder = options.libraries.as_deref().unwrap_or(libraries);
    for path in [folder, &options.socket_dir] {
        ensure!(
            path.is_absolute(),
            "{} is not an absolute path",
            path.display()
        );
    }
    print!(
        "{}",
        crate::cdi::specification(folder, &names, &options.socket_dir)?
    );
    Ok(())
}

fn open(root: &Path) -> Result<Tree> {
    Tree::new(root).with_context(|| format!("--root: {} is no directory", root.display()))
}

fn require_root(tree: &Tree) -> Result<()> {
    if tree.is_this_system() && !rustix::process::geteuid().is_root() {
        let words: Vec<String> = std::env::args().collect();
        bail!("this changes the system: run `sudo {}`", words.join(" "));
    }
    Ok(())
}

/// One at a time. The lock is on the root directory, so it leaves nothing behind.
fn lock(tree: &Tree) -> Result<File> {
    let root = File::open(tree.root())?;
    flock(&root, FlockOperation::NonBlockingLockExclusive).context(
        "another vgpu install or uninstall is at work on this system: try again when it is done",
    )?;
    Ok(root)
}

/// What an earlier installation made and this one does not.
fn stale(old: Option<&Manifest>, plan: &Plan) -> Vec<Entry> {
    let is_planned = |entry: &&Entry| {
        let mut steps = plan.steps.iter();
        steps.any(|step| step.entry.path() == entry.path())
    };
    old.iter()
        .flat_map(|old| &old.entries)
        .filter(|entry| !is_planned(entry))
        .cloned()
        .collect()
}

/// Writes down what is going to be there.
fn begin(tree: &Tree, old: Option<&Manifest>, plan: &Plan, stale: &[Entry]) -> Result<()> {
    let planned = plan.steps.iter().map(|step| {
        let mut entry = step.entry.clone();
        let before = old.and_then(|old| old.entry(entry.path()));
        if let (Entry::File { hashes, .. }, Some(Entry::File { hashes: more, .. })) =
            (&mut entry, before)
        {
            hashes.extend(
                more.iter()
                    .filter(|hash| !hashes.contains(hash))
                    .copied()
                    .collect::<Vec<_>>(),
            );
        }
        entry
    });
    // A folder must come before what is in it, and so be undone after it.
    Manifest::new(stale.iter().cloned().chain(planned).collect()).save(tree)
}

/// Makes one thing; what the manifest is to say of it.
fn make(tree: &Tree, step: &Step) -> Result<Entry> {
    let path = step.entry.path();
    let found = compare(tree, &step.entry);
    match (&step.make, &step.entry) {
        (Make::Elsewhere, _) => return Ok(step.entry.clone()),
        // Its permissions are made right all the same.
        (Make::Folder, _) => change::make_folder(tree, path)?,
        _ if found == Found::Same => {}
        (Make::File(content, mode), _) => change::make_file(tree, path, content, *mode)?,
        (Make::Link, Entry::Link { target, .. }) => change::make_link(tree, path, target)?,
        (Make::Setting, Entry::Setting { before, value, .. }) => {
            std::fs::write(path, format!("{value}\n"))
                .with_context(|| format!("cannot set {}", path.display()))?;
            let got = change::read_number(path).unwrap_or(*value);
            if got < *value {
                println!(
                    "note: only {got} of {value} huge pages could be had before the next boot"
                );
            }
            println!("set {} to {got}", path.display());
            return Ok(Entry::Setting {
                path: path.to_owned(),
                before: *before,
                value: got,
            });
        }
        _ => {}
    }
    match found {
        Found::Same => println!("kept {}", describe(&step.entry)),
        Found::Nothing => println!("made {}", describe(&step.entry)),
        Found::Other => println!("replaced {}", describe(&step.entry)),
    }
    Ok(step.entry.clone())
}

/// Whether a program without any variable would get the shim.
fn check_loader(tree: &Tree, places: &Places) -> Result<()> {
    let name = "libcuda.so.1";
    let known = loader::known(tree, name);
    let Some(first) = known.first() else {
        bail!(
            "the loader does not look into {}: {} has no line `include /etc/ld.so.conf.d/*.conf`",
            places.libraries.display(),
            loader::MAIN_CONFIGURATION
        );
    };
    ensure!(
        tree.target(first) == tree.target(&places.libraries.join(name)),
        "the loader takes {} first: another file of /etc/ld.so.conf.d comes before {}",
        first.display(),
        loader::CONFIGURATION
    );
    println!("ldconfig: programs find {}", first.display());
    Ok(())
}

/// Undoes all of an installation, whole or not.
fn take_back(tree: &Tree) -> Result<()> {
    let Some(mut manifest) = Manifest::load(tree)? else {
        return Ok(());
    };
    manifest.state = State::Unfinished;
    manifest.save(tree)?;
    let parts = |test: fn(&Entry) -> bool| -> Vec<Entry> {
        manifest
            .entries
            .iter()
            .filter(|entry| test(entry))
            .cloned()
            .collect()
    };
    // Inner ones last, to be undone first.
    let mut folders = parts(|entry| matches!(entry, Entry::Folder { .. }));
    folders.sort_by(|one, other| one.path().cmp(other.path()));
    let generated = parts(|entry| matches!(entry, Entry::Generated { .. }));
    let own = |entry: &&Entry| Path::new(manifest::PATH).starts_with(entry.path());
    remove(
        tree,
        &parts(|entry| !matches!(entry, Entry::Folder { .. } | Entry::Generated { .. })),
    )?;
    let cache = Path::new(loader::GENERATED[0]);
    let configured = manifest.entry(Path::new(loader::CONFIGURATION)).is_some();
    if configured && !generated.iter().any(|entry| entry.path() == cache) {
        loader::refresh(tree)?;
    }
    remove(tree, &generated)?;
    let inner: Vec<Entry> = folders
        .iter()
        .filter(|entry| !own(entry))
        .cloned()
        .collect();
    remove(tree, &inner)?;
    Manifest::remove(tree)?;
    let outer: Vec<Entry> = folders.iter().filter(own).cloned().collect();
    remove(tree, &outer)
}

/// Undoes entries, last one first.
fn remove(tree: &Tree, entries: &[Entry]) -> Result<()> {
    for entry in entries.iter().rev() {
        match undo(tree, entry)? {
            Undone::Removed => match entry {
                Entry::Setting { path, before, .. } => {
                    println!("set {} to {before}", path.display());
                }
                _ => println!("removed {}", describe(entry)),
            },
            Undone::Nothing => {}
            Undone::Left(why) => println!("left {}: it {why}", entry.path().display()),
        }
    }
    Ok(())
}

fn describe(entry: &Entry) -> String {
    let path = entry.path().display();
    match entry {
        Entry::Folder { .. } => format!("{path}/"),
        Entry::Link { target, .. } => format!("{path} -> {}", target.display()),
        Entry::Setting { value, .. } => format!("{path} = {value}"),
        _ => path.to_string(),
    }
}

fn notes(plan: &Plan) {
    for note in &plan.notes {
        println!("note: {note}");
    }
}

/// Tells the service manager.
fn start(plan: &Plan, now: bool) {
    service::control(&["daemon-reload"]);
    for service in plan.services.iter().filter(|_| now) {
        let unit = service.unit();
        if service::control(&["restart", unit]) {
            println!("started {unit}");
        } else {
            println!("note: {unit} did not start: `journalctl -u {unit}` says why");
        }
    }
}
