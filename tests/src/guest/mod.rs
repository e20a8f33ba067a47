//! A virtual machine to run tests in: boots in seconds without KVM, runs a script as root, and is gone within a limit.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use vgpu_e2e::guest::{Guest, GuestParts, Image, Options};
//! use vgpu_e2e::qemu::Qemu;
//!
//! let files = [("/host/program".into(), "/bin/program".to_owned())];
//! let image = Image::build(&GuestParts::from_environment()?, "su user -c /bin/program", &files)?;
//! let mut guest = Guest::boot(&Qemu::from_environment()?, &image, Options::default())?;
//! assert_eq!(guest.wait()?, Some(0), "{}", guest.console());
//! # Ok(())
//! # }
//! ```

mod cpio;
mod image;
mod qmp;

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

pub use image::{DISK, GUEST, GuestParts, Image};
pub use qmp::Qmp;

use crate::command::kill_group;
use crate::qemu::Qemu;

/// What `init` prints before the script is run.
pub const UP: &str = "GUEST-UP";
/// What `init` prints behind it, followed by the script's exit status.
pub const EXIT: &str = "GUEST-EXIT ";

/// What a guest consists of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its memory, in MiB.
    pub memory: u32,
    /// Its processors. More than one boots slower where they are emulated.
    pub processors: u32,
    /// Huge pages of 2 MiB that its kernel sets aside.
    pub huge_pages: u32,
    /// The backend's socket; without one the guest has no vgpu device.
    pub socket: Option<PathBuf>,
    /// More properties of the vgpu device, `,timeout=2` say.
    pub device: String,
    /// Whether QEMU's generic device stands for ours: [`Qemu::has_generic_device`].
    pub generic: bool,
    /// More arguments of QEMU; the vgpu device comes behind them.
    pub arguments: Vec<OsString>,
    /// More of the kernel's command line.
    pub append: String,
    /// Whether a reset of the guest boots it again rather than ending QEMU.
    pub reboot: bool,
    /// Whether a [`Machine`](crate::machine::Machine) finds a kernel and an initramfs like its own in `/boot`, for kexec.
    pub kexec: bool,
    /// When QEMU is killed, whatever it does.
    pub limit: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            memory: 512,
            processors: 1,
            huge_pages: 0,
            socket: None,
            device: String::new(),
            generic: false,
            arguments: Vec::new(),
            append: String::new(),
            reboot: false,
            kexec: false,
            limit: Duration::from_secs(120),
        }
    }
}

/// What makes a kernel boot faster where the processor is emulated, and quietly.
const APPEND: &str = "console=ttyS0 quiet loglevel=3 panic=-1 tsc=reliable no_timer_check nokaslr mitigations=off \
                      cryptomgr.notests random.trust_cpu=on";

/// QEMU's generic device as ours would be. Its virtio id is one that QEMU has a name for and Linux no driver.
const GENERIC: &str = "vhost-user-test-device-pci,virtio-id=6,num_vqs=2,vq_size=256,config_size=64";

/// A running guest; killed when dropped.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    console: String,
    qmp: Qmp,
    folder: tempfile::TempDir,
    deadline: Instant,
    /// Dropped with the guest, which ends the thread that guards the limit.
    _guard: Sender<()>,
}

impl Guest {
    /// Starts QEMU and returns once its monitor answers; the guest is booting then.
    ///
    /// # Errors
    /// When QEMU does not start; the message holds what it said.
    pub fn boot(qemu: &Qemu, image: &Image, options: Options) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("vgpu-guest-").tempdir()?;
        let monitor = folder.path().join("qmp.sock");
        let log = std::fs::File::create(folder.path().join("qemu.log"))?;
        let mut command = qemu.command();
        configure(&mut command, image, &options);
        command
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", monitor.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", qemu.binary.display()))?;
        let guard = guard(&child, options.limit);
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both are piped");
        };
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while output
                .read_until(b'\n', &mut line)
                .is_ok_and(|read| read > 0)
            {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(text).is_err() {
                    break;
                }
                line.clear();
            }
        });
        let qmp = match Qmp::connect(&monitor) {
            Ok(qmp) => qmp,
            Err(error) => {
                kill_group(&child);
                child.wait()?;
                let said = std::fs::read_to_string(folder.path().join("qemu.log"))?;
                return Err(error.context(format!("QEMU did not start: {}", said.trim())));
            }
        };
        Ok(Self {
            child,
            input,
            lines,
            console: String::new(),
            qmp,
            folder,
            deadline: Instant::now() + options.limit,
            _guard: guard,
        })
    }

    /// The next line of the guest's serial console; `None` when QEMU has ended.
    ///
    /// # Errors
    /// When there is none within the guest's limit.
    pub fn line(&mut self) -> anyhow::Result<Option<String>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => {
                self.console.push_str(&line);
                self.console.push('\n');
                Ok(Some(line))
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                bail!("the guest ran past its limit; it said:\n{}", self.console)
            }
        }
    }

    /// The lines from here to QEMU's end.
    pub fn lines(&mut self) -> impl Iterator<Item = anyhow::Result<String>> {
        std::iter::from_fn(|| self.line().transpose())
    }

    /// Waits for a line that contains `text`, and returns it.
    ///
    /// # Errors
    /// When the guest ends, or its limit does, before it comes.
    pub fn wait_for(&mut self, text: &str) -> anyhow::Result<String> {
        while let Some(line) = self.line()? {
            if line.contains(text) {
                return Ok(line);
            }
        }
        bail!(
            "the guest ended without saying \"{text}\"; it said:\n{}\nQEMU said:\n{}",
            self.console,
            self.log()
        )
    }

    /// Waits for QEMU's end and returns the exit status of the script; `None` when it did not get that far.
    ///
    /// # Errors
    /// When the guest runs past its limit.
    pub fn wait(&mut self) -> anyhow::Result<Option<i32>> {
        while self.line()?.is_some() {}
        self.child.wait()?;
        Ok(self
            .console
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix(EXIT)?.parse().ok()))
    }

    /// Types a line at the guest's console.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn say(&mut self, line: &str) -> std::io::Result<()> {
        self.input.write_all(line.as_bytes())?;
        self.input.write_all(b"\n")?;
        self.input.flush()
    }

    /// QEMU's monitor: `stop`, `cont`, `system_reset`, `quit`.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// Whether QEMU still runs.
    ///
    /// # Errors
    /// When the system refuses to say.
    pub fn is_running(&mut self) -> std::io::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// QEMU's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that was read of the console so far.
    #[must_use]
    pub fn console(&self) -> &str {
        &self.console
    }

    /// What QEMU itself has said.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("qemu.log")).unwrap_or_default()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            kill_group(&self.child);
            let _ = self.child.wait();
        }
    }
}

fn configure(command: &mut Command, image: &Image, options: &Options) {
    let memory = options.memory;
    command
        // TCG always: a /dev/kvm may be there and not work, and a test shall not depend on it.
        .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
        .args(["-M", "q35,memory-backend=mem"])
        .args(["-smp", &options.processors.to_string()])
        .args(["-m", &format!("{memory}M")])
        .arg("-object")
        .arg(format!(
            "memory-backend-memfd,id=mem,size={memory}M,share=on"
        ))
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-serial", "stdio"])
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(image.initramfs.path())
        .arg("-append")
        .arg(format!(
            "{APPEND} systemd.show_status=0 hugepages={} {}",
            options.huge_pages, options.append
        ));
    if let Some(disk) = &image.disk {
        // Commas in a path are doubled there.
        let file = disk.display().to_string().replace(',', ",,");
        command
            .arg("-drive")
            .arg(format!(
                "if=none,id=root,format=raw,snapshot=on,file={file}"
            ))
            .args(["-device", "virtio-blk-pci,drive=root"]);
    }
    if !options.reboot {
        command.arg("-no-reboot");
    }
    command.args(&options.arguments);
    if let Some(socket) = &options.socket {
        // The generic device wants its backend at once.
        let (reconnect, device) = if options.generic {
            ("", GENERIC)
        } else {
            (",reconnect-ms=100", "vhost-user-vgpu-pci")
        };
        command
            .arg("-chardev")
            .arg(format!(
                "socket,id=vgpu,path={}{reconnect}",
                socket.display()
            ))
            .arg("-device")
            .arg(format!("{device},chardev=vgpu{}", options.device));
    }
}

/// Kills QEMU after `limit`, unless what is returned is dropped before: also when the test itself hangs elsewhere.
fn guard(child: &Child, limit: Duration) -> Sender<()> {
    let (sender, receiver) = mpsc::channel::<()>();
    let group = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    std::thread::spawn(move || {
        let ended = receiver.recv_timeout(limit) != Err(RecvTimeoutError::Timeout);
        if let (false, Some(group)) = (ended, group) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    });
    sender
}
