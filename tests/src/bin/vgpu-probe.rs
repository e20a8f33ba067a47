//! Stands for the driver in tests of the QEMU device: finds it in the guest, runs its control queue from user space,
//! and says what it sees. Each argument is a step; each step ends in a line `PROBE step: …`.
//!
//! It knows no more than virtio's specification (1.2, sections 2.7 and 4.1) and what a stand-in needs; the real driver
//! is `vgpu agent`.

use std::fs::{File, read_dir, read_to_string};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::mm::{MapFlags, ProtFlags};

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(60);

const PAGE: usize = 2 << 20;
const ENTRIES: u16 = 256;
const NEEDS_RESET: u8 = 0x40;

/// Offsets in the common configuration.
mod common {
    pub const DEVICE_FEATURE_SELECT: usize = 0;
    pub const DEVICE_FEATURE: usize = 4;
    pub const DRIVER_FEATURE_SELECT: usize = 8;
    pub const DRIVER_FEATURE: usize = 12;
    pub const QUEUES: usize = 18;
    pub const STATUS: usize = 20;
    pub const QUEUE_SELECT: usize = 22;
    pub const QUEUE_SIZE: usize = 24;
    pub const QUEUE_ENABLE: usize = 28;
    pub const QUEUE_NOTIFY: usize = 30;
    pub const QUEUE_ADDRESSES: usize = 32;
}

fn main() -> anyhow::Result<()> {
    let mut probe = Probe::find()?;
    for step in std::env::args().skip(1) {
        let said = match step.as_str() {
            "look" => probe.look(),
            "init" => probe.init(),
            "echo" => probe.echo(),
            "wait-reset" => probe.wait_until_reset_is_needed(),
            "hear" => hear(),
            _ => bail!("there is no step {step}"),
        }
        .with_context(|| step.clone())?;
        println!("PROBE {step}: {said}");
    }
    Ok(())
}

/// Memory that a device shares with this program, and nobody else here.
struct Mapping {
    start: *mut u8,
    len: usize,
}

impl Mapping {
    fn get<T: Copy>(&self, at: usize) -> T {
        assert!(at + size_of::<T>() <= self.len && at.is_multiple_of(align_of::<T>()));
        // SAFETY: in bounds and aligned, as just checked, of a mapping that lives as long as the program.
        unsafe { self.start.add(at).cast::<T>().read_volatile() }
    }

    fn set<T: Copy>(&self, at: usize, value: T) {
        assert!(at + size_of::<T>() <= self.len && at.is_multiple_of(align_of::<T>()));
        // SAFETY: as in `get`; no reference to this memory is ever made.
        unsafe { self.start.add(at).cast::<T>().write_volatile(value) }
    }
}

/// Where one of virtio's structures lies: register window and offset.
type Place = (usize, usize);

struct Probe {
    folder: PathBuf,
    windows: [Option<Mapping>; 6],
    common: Place,
    notify: Place,
    notify_multiplier: usize,
    config: Place,
    memory: Mapping,
    physical: u64,
    sent: u16,
}

impl Probe {
    fn find() -> anyhow::Result<Self> {
        let folder = read_dir("/sys/bus/pci/devices")?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|folder| {
                let is = |file: &str, value: &str| {
                    read_to_string(folder.join(file)).is_ok_and(|text| text.trim() == value)
                };
                is("vendor", "0x1af4") && is("device", "0x10f0")
            })
            .context("no device 1af4:10f0")?;
        std::fs::write(folder.join("enable"), "1")?;
        let space = File::options()
            .read(true)
            .write(true)
            .open(folder.join("config"))?;
        // Memory and bus master: QEMU does not look at the queues of a device that may not access memory.
        let command = u16::from_le_bytes(read_at(&space, 4)?) | 6;
        space.write_all_at(&command.to_le_bytes(), 4)?;

        let mut probe = Self {
            windows: [const { None }; 6],
            common: (0, 0),
            notify: (0, 0),
            notify_multiplier: 0,
            config: (0, 0),
            memory: huge_page()?,
            physical: 0,
            sent: 0,
            folder,
        };
        probe.physical = physical_address(probe.memory.start.addr())?;
        let [mut capability] = read_at::<1>(&space, 0x34)?;
        while capability != 0 {
            let at = u64::from(capability);
            let [kind, next, _, structure, bar] = read_at(&space, at)?;
            // 9: the vendor's, which for virtio says where a structure lies.
            if kind == 9 {
                let offset = u32::from_le_bytes(read_at(&space, at + 8)?) as usize;
                let place = (usize::from(bar), offset);
                match structure {
                    1 => probe.common = place,
                    2 => {
                        probe.notify = place;
                        probe.notify_multiplier =
                            u32::from_le_bytes(read_at(&space, at + 16)?) as usize;
                    }
                    4 => probe.config = place,
                    _ => {}
                }
                if matches!(structure, 1 | 2 | 4) && probe.windows[place.0].is_none() {
                    probe.windows[place.0] = Some(window(&probe.folder, place.0)?);
                }
            }
            capability = next;
        }
        Ok(probe)
    }

    fn get<T: Copy>(&self, place: Place, at: usize) -> T {
        self.windows[place.0]
            .as_ref()
            .expect("the structure was found")
            .get(place.1 + at)
    }

    fn set<T: Copy>(&self, place: Place, at: usize, value: T) {
        self.windows[place.0]
            .as_ref()
            .expect("the structure was found")
            .set(place.1 + at, value);
    }

    fn status(&self) -> u8 {
        self.get(self.common, common::STATUS)
    }

    /// What there is to see without touching anything.
    fn look(&mut self) -> anyhow::Result<String> {
        let magic: [u8; 8] = std::array::from_fn(|at| self.get(self.config, at));
        let class = read_to_string(self.folder.join("class"))?;
        let queues: u16 = self.get(self.common, common::QUEUES);
        Ok(format!(
            "magic {} class {} queues {queues} status {:#x}",
            magic.escape_ascii(),
            class.trim(),
            self.status()
        ))
    }

    /// Resets the device and sets both queues up.
    fn init(&mut self) -> anyhow::Result<String> {
        self.set(self.common, common::STATUS, 0_u8);
        until("status 0", || self.status() == 0)?;
        self.set(self.common, common::STATUS, 1_u8 | 2);
        self.set(self.common, common::DEVICE_FEATURE_SELECT, 1_u32);
        let features: u32 = self.get(self.common, common::DEVICE_FEATURE);
        ensure!(features & 1 != 0, "it is no virtio 1 device");
        self.set(self.common, common::DRIVER_FEATURE_SELECT, 0_u32);
        self.set(self.common, common::DRIVER_FEATURE, 0_u32);
        self.set(self.common, common::DRIVER_FEATURE_SELECT, 1_u32);
        self.set(self.common, common::DRIVER_FEATURE, 1_u32);
        self.set(self.common, common::STATUS, 1_u8 | 2 | 8);
        ensure!(self.status() & 8 != 0, "it refuses the features");
        for byte in 0..PAGE / 8 {
            self.memory.set(byte * 8, 0_u64);
        }
        self.sent = 0;
        for queue in 0..2_u16 {
            self.set(self.common, common::QUEUE_SELECT, queue);
            let size: u16 = self.get(self.common, common::QUEUE_SIZE);
            ensure!(size == ENTRIES, "queue {queue} has {size} entries");
            let start = self.physical + u64::from(queue) * 0x10000;
            // Descriptors, what is available, what is used; each in two halves: 64-bit accesses are optional.
            for (which, address) in [start, start + 0x1000, start + 0x2000].iter().enumerate() {
                let at = common::QUEUE_ADDRESSES + which * 8;
                self.set(self.common, at, *address as u32);
                self.set(self.common, at + 4, (*address >> 32) as u32);
            }
            self.set(self.common, common::QUEUE_ENABLE, 1_u16);
        }
        self.set(self.common, common::STATUS, 1_u8 | 2 | 8 | 4);
        Ok(format!("status {:#x}", self.status()))
    }

    /// Sends bytes over the control queue and expects them back.
    fn echo(&mut self) -> anyhow::Result<String> {
        const REQUEST: usize = 0x10_0000;
        const REPLY: usize = 0x11_0000;
        let text = format!("echo number {}", self.sent);
        for (at, byte) in text.bytes().enumerate() {
            self.memory.set(REQUEST + at, byte);
            self.memory.set(REPLY + at, 0_u8);
        }
        // Two descriptors: what the device reads, chained to what it writes.
        let len = text.len() as u32;
        self.descriptor(0, REQUEST, len, 1, 1);
        self.descriptor(1, REPLY, len, 2, 0);
        self.memory
            .set(0x1000 + 4 + usize::from(self.sent % ENTRIES) * 2, 0_u16);
        self.sent = self.sent.wrapping_add(1);
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.memory.set(0x1000 + 2, self.sent);
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.set(self.common, common::QUEUE_SELECT, 0_u16);
        let offset: u16 = self.get(self.common, common::QUEUE_NOTIFY);
        self.set(
            self.notify,
            usize::from(offset) * self.notify_multiplier,
            0_u16,
        );
        until("an answer", || {
            self.memory.get::<u16>(0x2000 + 2) == self.sent
        })?;
        let answer: Vec<u8> = (0..text.len())
            .map(|at| self.memory.get(REPLY + at))
            .collect();
        ensure!(
            answer == text.as_bytes(),
            "another answer: {}",
            answer.escape_ascii()
        );
        Ok(text)
    }

    fn descriptor(&self, index: usize, at: usize, len: u32, flags: u16, next: u16) {
        self.memory.set(index * 16, self.physical + at as u64);
        self.memory.set(index * 16 + 8, len);
        self.memory.set(index * 16 + 12, flags);
        self.memory.set(index * 16 + 14, next);
    }

    fn wait_until_reset_is_needed(&mut self) -> anyhow::Result<String> {
        println!("PROBE waiting");
        until("NEEDS_RESET", || self.status() & NEEDS_RESET != 0)?;
        Ok(format!("status {:#x}", self.status()))
    }
}

/// Waits for a line on standard input: the test's turn.
fn hear() -> anyhow::Result<String> {
    println!("PROBE listening");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

fn until(what: &str, mut done: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        ensure!(Instant::now() < deadline, "{what} does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn read_at<const N: usize>(file: &File, at: u64) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

/// The device's registers, as sysfs lends them.
fn window(folder: &Path, bar: usize) -> anyhow::Result<Mapping> {
    let path = folder.join(format!("resource{bar}"));
    let file = File::options().read(true).write(true).open(&path)?;
    let len = usize::try_from(file.metadata()?.len())?;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            &file,
            0,
        )
    };
    Ok(Mapping {
        start: start
            .with_context(|| format!("cannot map {}", path.display()))?
            .cast(),
        len,
    })
}

fn huge_page() -> anyhow::Result<Mapping> {
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe {
        rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            PAGE,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::HUGETLB | MapFlags::POPULATE,
        )
    };
    Ok(Mapping {
        start: start.context("no huge page; boot with hugepages=1")?.cast(),
        len: PAGE,
    })
}

/// Only root is told (`Documentation/admin-guide/mm/pagemap.rst`).
fn physical_address(address: usize) -> anyhow::Result<u64> {
    let entry = u64::from_le_bytes(read_at(
        &File::open("/proc/self/pagemap")?,
        address as u64 / 4096 * 8,
    )?);
    let frame = entry & ((1 << 55) - 1);
    ensure!(entry >> 63 == 1 && frame != 0, "pagemap does not tell");
    Ok(frame * 4096)
}
