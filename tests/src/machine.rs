//! Both sides of the device: a daemon that serves one virtual machine ([`Host`]), and a guest whose agent runs and whose
//! shell does what it is told ([`Machine`]).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::guest::{Guest, GuestParts, Image, Options, UP};
use crate::parts::Parts;
use crate::process::family;
use crate::qemu::Qemu;

/// The guest's part: a shell function that starts the agent and returns when it serves, and fails when it does not.
pub const AGENT: &str = r#"
agent() {
    rm -f /run/vgpu/vgpu.sock
    vgpu agent 2>>/tmp/agent.log &
    for i in $(seq 300); do [ -S /run/vgpu/vgpu.sock ] && return; sleep 0.1; done
    echo "the agent does not serve:"; cat /tmp/agent.log; return 1
}
"#;

/// A daemon that serves one virtual machine; killed when dropped.
#[derive(Debug)]
pub struct Host {
    daemon: PathBuf,
    device: String,
    child: Child,
    folder: tempfile::TempDir,
}

impl Host {
    /// Starts `daemon` with `device`, and waits until it listens.
    ///
    /// # Errors
    /// When it does not; the message holds its last words.
    pub fn start(daemon: &Path, device: &str) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("vgpu-host-").tempdir()?;
        let child = Self::spawn(daemon, device, folder.path())?;
        let mut host = Self {
            daemon: daemon.to_owned(),
            device: device.to_owned(),
            child,
            folder,
        };
        host.wait_until_listening()?;
        Ok(host)
    }

    fn spawn(daemon: &Path, device: &str, folder: &Path) -> anyhow::Result<Child> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(folder.join("daemon.log"))?;
        Command::new(daemon)
            .arg("--vhost-user")
            .arg(folder.join("vgpu.sock"))
            .args(["--device", device])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start the daemon")
    }

    fn wait_until_listening(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.socket().exists() {
            if self.child.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("the daemon does not listen: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Kills it with SIGKILL, which leaves its socket's name behind.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again at the same socket, after [`Host::kill`].
    ///
    /// # Errors
    /// As [`Host::start`].
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        self.child = Self::spawn(&self.daemon, &self.device, self.folder.path())?;
        self.wait_until_listening()
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// When the system refuses to say.
    pub fn is_running(&mut self) -> std::io::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// The processes below it.
    #[must_use]
    pub fn workers(&self) -> Vec<u32> {
        let own = self.child.id();
        family(own).into_iter().filter(|pid| *pid != own).collect()
    }

    /// Where QEMU connects to.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("vgpu.sock")
    }

    /// What it has said.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("daemon.log")).unwrap_or_default()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// The environment variable that names the daemon's device, `software` where it is not set.
pub const DEVICE: &str = "VGPU_E2E_DEVICE";

fn start_host(parts: &Parts) -> anyhow::Result<Host> {
    let device = std::env::var(DEVICE).unwrap_or_else(|_| "software".to_owned());
    Host::start(&parts.daemon, &device)
}

/// The script of a shell that does what [`Machine::tell`] says, with `functions` at hand. Without echo, or each order would
/// be read as its own answer.
fn listen(functions: &str) -> String {
    format!(
        "stty -echo\n{functions}\necho {LISTENS}\n\
         while read -r order; do eval \"$order\"; echo \"{END}$?\"; done\n"
    )
}

/// Precedes the exit status of what the guest was told to do.
const END: &str = "ASKED-END ";
/// Printed when the guest's shell listens.
const LISTENS: &str = "ASKED-LISTENS";

/// A guest that does what it is told, and the daemon behind it.
#[derive(Debug)]
pub struct Machine {
    /// The guest.
    pub guest: Guest,
    /// The daemon.
    pub host: Host,
}

impl Machine {
    /// Boots a guest with the shell functions of `functions`, the built parts and `files`, behind a daemon of its own
    /// with the device that [`DEVICE`] names; returns when its agent serves.
    ///
    /// # Errors
    /// When either does not start.
    pub fn boot(
        functions: &str,
        files: &[(PathBuf, String)],
        options: Options,
    ) -> anyhow::Result<Self> {
        let parts = Parts::locate()?;
        let host = start_host(&parts)?;
        let mut all = vec![
            (parts.vgpu, "/bin/vgpu".to_owned()),
            (
                parts.library_folder.join("libcuda.so.1"),
                "/opt/vgpu/libcuda.so.1".to_owned(),
            ),
        ];
        all.extend_from_slice(files);
        let script = listen(&format!("{AGENT}\n{functions}"));
        let parts = GuestParts::from_environment()?;
        let mut image = Image::build(&parts, &script, &all)?;
        if options.kexec {
            all.extend(image.boot_files());
            image = Image::build(&parts, &script, &all)?;
        }
        let options = Options {
            socket: Some(host.socket()),
            ..options
        };
        let guest = Guest::boot(&Qemu::from_environment()?, &image, options)?;
        let mut machine = Self { guest, host };
        machine.begin()?;
        Ok(machine)
    }

    /// Boots a guest whose init is systemd, with `files`, behind a daemon as [`Machine::boot`] has one; returns when its shell
    /// listens. Nothing of ours is started.
    ///
    /// # Errors
    /// As [`Machine::boot`].
    pub fn boot_systemd(
        functions: &str,
        files: &[(PathBuf, String)],
        options: Options,
    ) -> anyhow::Result<Self> {
        let host = start_host(&Parts::locate()?)?;
        let plain = "export TERM=dumb SYSTEMD_PAGER=cat SYSTEMD_COLORS=0 SYSTEMD_URLIFY=0";
        let script = format!("echo {UP}\n{}", listen(&format!("{plain}\n{functions}")));
        let image = Image::build_systemd(&GuestParts::from_environment()?, &script, files)?;
        let options = Options {
            socket: Some(host.socket()),
            ..options
        };
        let guest = Guest::boot(&Qemu::from_environment()?, &image, options)?;
        let mut machine = Self { guest, host };
        machine.wait_until_up()?;
        Ok(machine)
    }

    /// Waits for a boot to end, and starts the agent.
    ///
    /// # Errors
    /// When it does not.
    pub fn begin(&mut self) -> anyhow::Result<()> {
        self.wait_until_up()?;
        self.ask("agent").map(drop)
    }

    /// Waits for a boot to end. The agent is not started.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_until_up(&mut self) -> anyhow::Result<()> {
        self.guest.wait_for(UP)?;
        self.guest.wait_for(LISTENS).map(drop)
    }

    /// Has the guest's shell run a command as root, and returns what it printed.
    ///
    /// # Errors
    /// When it fails, or the guest does.
    pub fn ask(&mut self, order: &str) -> anyhow::Result<String> {
        self.tell(order)?;
        self.answer(order)
    }

    /// Has the guest's shell run a command, whose end [`Machine::answer`] waits for.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn tell(&mut self, order: &str) -> anyhow::Result<()> {
        self.guest
            .say(order)
            .with_context(|| format!("QEMU is gone: {}", self.guest.log()))
    }

    /// What the command of the last [`Machine::tell`] printed.
    ///
    /// # Errors
    /// When it fails, or the guest does.
    pub fn answer(&mut self, order: &str) -> anyhow::Result<String> {
        let mut said = String::new();
        while let Some(line) = self.guest.line()? {
            // What a program in the background printed without a line's end may precede it.
            if let Some((before, status)) = line.split_once(END) {
                said.push_str(before);
                if status.trim() == "0" {
                    return Ok(said);
                }
                bail!(
                    "`{order}` ended with {status}: {said}\ndaemon:\n{}",
                    self.host.log()
                );
            }
            said.push_str(&line);
            said.push('\n');
        }
        bail!(
            "the guest ended during `{order}`: {said}\nQEMU: {}",
            self.guest.log()
        )
    }
}
