//! What is answered to those who ask without a channel: facts that were found at the start, and memory as it is now; where
//! the operator says so, also what the host's management library says of the device.

use crate::{host, probe};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use vgpu_channel::link::{Answer, LinkStatus, Query};
use vgpu_protocol::facts::{
    DeviceFacts, HostFigures, PROCESSES_PER_PAGE, ProcessFacts, ProcessMemory, QUERY_DEVICE,
    QUERY_FIGURES, QUERY_PROCESSES, QUERY_SYSTEM, SystemFacts, put_text,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// How long a look by the host's management library is good for.
const FRESH: Duration = Duration::from_millis(500);
/// How long a look may take: natively a monitor waits as long.
const LOOK: Duration = Duration::from_secs(5);
/// How long none at figures is taken after one that failed: a library that hangs or dies makes monitors, which ask for many
/// figures one by one, wait once.
const FAILED: Duration = Duration::from_secs(30);
/// What the software device says its driver is: the branch that brought the CUDA version it offers, with a number that no
/// release of NVIDIA's has.
const SOFTWARE_DRIVER: &[u8] = b"580.00";
/// Of its management library: the CUDA version goes first, as natively.
const SOFTWARE_NVML: &[u8] = b"13.580.00";
/// Memory of a process that is not known, as NVML says it.
const NOT_AVAILABLE: u64 = u64::MAX;

/// What is known since the start.
#[derive(Debug)]
pub struct Facts {
    system: SystemFacts,
    devices: Vec<DeviceFacts>,
    /// Bytes that each client may hold; 0 for no limit.
    quota: u64,
    /// Whether the host's management library can say what is free.
    host: bool,
    nvml: NvmlTerms,
}

/// A client that the asking one may know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its process; 0 if that is not to be told.
    pub process: u32,
    /// Whether the asking process itself.
    pub own: bool,
    /// Bytes of device memory that it holds.
    pub bytes: u64,
}

/// What the operator says about the host's management library.
#[derive(Clone, Debug, Default)]
pub struct NvmlTerms {
    /// Whether clients are told what it says of the device.
    pub figures: bool,
    /// Where it is, if not in the usual places.
    pub library: Option<PathBuf>,
}

impl NvmlTerms {
    /// For a process of this program that loads it.
    pub fn arguments(&self) -> Vec<OsString> {
        match &self.library {
            // Such a process lives in `/`.
            Some(path) => vec![
                "--nvml-library".into(),
                std::path::absolute(path).unwrap_or_default().into(),
            ],
            None => Vec::new(),
        }
    }
}

/// A kind of look at the host, each in a process of its own: what one hangs in does not keep the other's answers back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// At free memory.
    Memory,
    /// At [`HostFigures`].
    Figures,
}

/// What a look found, for each device; nothing if it failed.
#[derive(Debug)]
pub enum Seen {
    /// Bytes that are free.
    Memory(Option<Vec<u64>>),
    /// Figures.
    Figures(Option<Vec<HostFigures>>),
}

impl Seen {
    /// What was looked at.
    pub fn look(&self) -> Look {
        match self {
            Seen::Memory(_) => Look::Memory,
            Seen::Figures(_) => Look::Figures,
        }
    }
}

/// The last look of a kind.
#[derive(Clone, Debug)]
struct Column<T> {
    list: Vec<T>,
    good_until: Option<Instant>,
}

impl<T> Default for Column<T> {
    fn default() -> Self {
        Column {
            list: Vec::new(),
            good_until: None,
        }
    }
}

impl<T> Column<T> {
    /// What was found, or that nothing was, which is good for `failed` then.
    fn new(found: Option<Vec<T>>, failed: Duration) -> Self {
        let good = if found.is_some() { FRESH } else { failed };
        Column {
            list: found.unwrap_or_default(),
            good_until: Some(Instant::now() + good),
        }
    }

    fn is_fresh(&self) -> bool {
        self.good_until.is_some_and(|until| Instant::now() < until)
    }
}

/// The last looks at the host.
#[derive(Clone, Debug, Default)]
pub struct Board {
    free: Column<u64>,
    figures: Column<HostFigures>,
}

impl Board {
    /// Takes what was found just now.
    pub fn take(&mut self, seen: Seen) {
        match seen {
            Seen::Memory(found) => self.free = Column::new(found, FRESH),
            Seen::Figures(found) => self.figures = Column::new(found, FAILED),
        }
    }
}

impl Facts {
    /// What a probe said: [`SystemFacts`], then [`DeviceFacts`] for each device.
    ///
    /// # Errors
    /// When the bytes are nothing of the kind.
    pub fn read(
        bytes: &[u8],
        software: bool,
        quota: u64,
        nvml: &NvmlTerms,
    ) -> anyhow::Result<Facts> {
        let malformed = || anyhow::anyhow!("the probe's answer cannot be understood");
        let (mut system, rest) = SystemFacts::read_from_prefix(bytes).map_err(|_| malformed())?;
        let devices: Vec<DeviceFacts> = rest
            .chunks(size_of::<DeviceFacts>())
            .map(|chunk| DeviceFacts::read_from_bytes(chunk).map_err(|_| malformed()))
            .collect::<Result<_, _>>()?;
        if devices.len() != system.devices as usize {
            return Err(malformed());
        }
        let host = !software && host::was_there(&system);
        if software {
            put_text(&mut system.driver_version, SOFTWARE_DRIVER);
            put_text(&mut system.nvml_version, SOFTWARE_NVML);
        }
        system.host_figures = nvml.figures.into();
        Ok(Facts {
            system,
            devices,
            quota,
            host,
            nvml: nvml.clone(),
        })
    }

    /// Number of devices.
    pub fn devices(&self) -> usize {
        self.devices.len()
    }

    /// The look at the host that the answer must wait for.
    pub fn needs_look(&self, query: &Query, board: &Board) -> Option<Look> {
        match query.kind {
            QUERY_DEVICE if self.host && !board.free.is_fresh() => Some(Look::Memory),
            QUERY_FIGURES if self.nvml.figures && !board.figures.is_fresh() => Some(Look::Figures),
            _ => None,
        }
    }

    /// Looks at the host, in another process. This takes a while.
    pub fn look(&self, look: Look) -> Seen {
        match look {
            Look::Memory => Seen::Memory(self.seen("memory", |bytes| {
                let text = std::str::from_utf8(bytes).ok()?;
                text.lines().map(|line| line.parse().ok()).collect()
            })),
            Look::Figures => Seen::Figures(self.seen("figures", |bytes| {
                bytes
                    .chunks(size_of::<HostFigures>())
                    .map(|chunk| HostFigures::read_from_bytes(chunk).ok())
                    .collect()
            })),
        }
    }

    /// What the process `command` (`memory`, `figures`) says of the devices, one by one; `None`, with a line in the log, if it does not.
    fn seen<T>(&self, command: &str, parse: impl Fn(&[u8]) -> Option<Vec<T>>) -> Option<Vec<T>> {
        let mut arguments = vec![OsString::from(command)];
        arguments.extend(self.nvml.arguments());
        arguments.extend(
            self.devices
                .iter()
                .map(|device| host::uuid_text(&device.uuid).into()),
        );
        let found = probe::ask(&arguments, LOOK).and_then(|bytes| {
            parse(&bytes)
                .filter(|list| list.len() == self.devices.len())
                .ok_or_else(|| anyhow::anyhow!("its answer cannot be understood"))
        });
        found
            .inspect_err(|error| {
                tracing::warn!("the host's management library does not tell {command}: {error:#}");
            })
            .ok()
    }

    /// The answer to a question of somebody who may know of the clients in `held`.
    pub fn answer(&self, query: &Query, board: &Board, held: &[Held]) -> Answer {
        let index = query.index as usize;
        let (status, body) = match (query.kind, self.devices.get(index)) {
            (QUERY_SYSTEM, _) => (LinkStatus::Ok, self.system.as_bytes().to_vec()),
            (QUERY_DEVICE, Some(device)) => {
                let device = self.device(device, board.free.list.get(index).copied(), held);
                (LinkStatus::Ok, device.as_bytes().to_vec())
            }
            (QUERY_PROCESSES, Some(_)) => {
                let processes = self.processes(query.page as usize, held);
                (LinkStatus::Ok, processes.as_bytes().to_vec())
            }
            (QUERY_FIGURES, Some(_)) => {
                let figures = board.figures.list.get(index).copied();
                let figures = figures
                    .filter(|_| self.nvml.figures)
                    .unwrap_or_else(HostFigures::unknown);
                (LinkStatus::Ok, figures.as_bytes().to_vec())
            }
            (QUERY_DEVICE | QUERY_PROCESSES | QUERY_FIGURES, None) => {
                (LinkStatus::NoDevice, Vec::new())
            }
            _ => (LinkStatus::Malformed, Vec::new()),
        };
        Answer::new(query.kind, status, &body)
    }

    /// A process that computes sees its own memory, as `cuMemGetInfo` does; a monitor sees what all that it may know of
    /// hold.
    fn device(&self, device: &DeviceFacts, free: Option<u64>, held: &[Held]) -> DeviceFacts {
        let own = held.iter().find(|held| held.own).map(|own| own.bytes);
        let used = own.unwrap_or_else(|| {
            held.iter()
                .fold(0, |sum: u64, held| sum.saturating_add(held.bytes))
        });
        let (total, reserved) = match self.quota {
            0 => (device.memory_total, device.memory_reserved),
            quota => (device.memory_total.min(quota), 0),
        };
        let left = total.saturating_sub(reserved).saturating_sub(used);
        DeviceFacts {
            memory_total: total,
            memory_reserved: reserved,
            memory_free: left.min(free.unwrap_or(u64::MAX)),
            ..*device
        }
    }

    fn processes(&self, page: usize, held: &[Held]) -> ProcessFacts {
        let list: Vec<&Held> = held
            .iter()
            .filter(|held| held.process != 0 && held.bytes > 0)
            .collect();
        let mut facts = ProcessFacts::new_zeroed();
        facts.total = list.len() as u32;
        let part = list
            .iter()
            .skip(page.saturating_mul(PROCESSES_PER_PAGE))
            .take(PROCESSES_PER_PAGE);
        for (to, held) in facts.list.iter_mut().zip(part) {
            *to = ProcessMemory {
                process: held.process,
                reserved: 0,
                // What is held is not counted by device.
                bytes: match self.devices.len() {
                    1 => held.bytes,
                    _ => NOT_AVAILABLE,
                },
            };
            facts.count += 1;
        }
        facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(quota: u64) -> Facts {
        let mut system = SystemFacts::new_zeroed();
        system.devices = 1;
        let mut device = DeviceFacts::new_zeroed();
        device.memory_total = 1000;
        device.memory_reserved = 100;
        let bytes = [system.as_bytes(), device.as_bytes()].concat();
        Facts::read(&bytes, true, quota, &NvmlTerms::default()).unwrap()
    }

    fn memory(facts: &Facts, free: Option<u64>, held: &[Held]) -> (u64, u64, u64) {
        let mut board = Board::default();
        board.take(Seen::Memory(Some(free.into_iter().collect())));
        let answer = facts.answer(&Query::new(QUERY_DEVICE, 0, 0), &board, held);
        assert_eq!(answer.status, LinkStatus::Ok as u32);
        let (device, _) = DeviceFacts::read_from_prefix(&answer.body).unwrap();
        (
            device.memory_total,
            device.memory_reserved,
            device.memory_free,
        )
    }

    fn held(process: u32, own: bool, bytes: u64) -> Held {
        Held {
            process,
            own,
            bytes,
        }
    }

    #[test]
    fn memory_is_what_the_asking_one_may_see() {
        let others = [held(1, false, 50), held(2, false, 200)];
        assert_eq!(memory(&facts(0), None, &[]), (1000, 100, 900));
        assert_eq!(memory(&facts(0), None, &others), (1000, 100, 650));
        // What the device has left bounds it.
        assert_eq!(memory(&facts(0), Some(30), &others), (1000, 100, 30));
        assert_eq!(memory(&facts(300), Some(800), &others), (300, 0, 50));
        // A process that computes has its own quota.
        let own = [held(1, true, 50), held(2, false, 200)];
        assert_eq!(memory(&facts(300), Some(800), &own), (300, 0, 250));
        assert_eq!(memory(&facts(40), None, &others), (40, 0, 0));
    }

    #[test]
    fn figures_of_the_host_are_told_only_where_the_operator_says_so() {
        let mut figures = HostFigures::unknown();
        figures.temperature = 41;
        let mut board = Board::default();
        board.take(Seen::Figures(Some(vec![figures])));
        let query = Query::new(QUERY_FIGURES, 0, 0);
        let mut facts = facts(0);
        for (told, expected) in [(false, HostFigures::unknown()), (true, figures)] {
            facts.nvml.figures = told;
            let answer = facts.answer(&query, &board, &[]);
            let (body, _) = HostFigures::read_from_prefix(&answer.body).unwrap();
            assert_eq!(body, expected);
        }
    }

    #[test]
    fn a_look_that_failed_is_not_taken_again_at_once() {
        let query = Query::new(QUERY_FIGURES, 0, 0);
        let mut facts = facts(0);
        assert_eq!(facts.needs_look(&query, &Board::default()), None);
        facts.nvml.figures = true;
        let mut board = Board::default();
        assert_eq!(facts.needs_look(&query, &board), Some(Look::Figures));
        board.take(Seen::Figures(None));
        assert_eq!(facts.needs_look(&query, &board), None);
        let left = board.figures.good_until.unwrap() - Instant::now();
        assert!(left > FAILED / 2, "{left:?}");
    }

    #[test]
    fn processes_come_in_parts() {
        let list: Vec<Held> = (1..=70).map(|pid| held(pid, false, 5)).collect();
        let mut seen = Vec::new();
        for page in 0..4 {
            let query = Query::new(QUERY_PROCESSES, 0, page);
            let answer = facts(0).answer(&query, &Board::default(), &list);
            let (part, _) = ProcessFacts::read_from_prefix(&answer.body).unwrap();
            assert_eq!(part.total, 70);
            let part = part.list.iter().take(part.count as usize);
            seen.extend(part.map(|entry| entry.process));
        }
        assert_eq!(seen, (1..=70).collect::<Vec<_>>());
        let hidden = [held(0, false, 5), held(7, false, 0)];
        let query = Query::new(QUERY_PROCESSES, 0, 0);
        let answer = facts(0).answer(&query, &Board::default(), &hidden);
        assert_eq!(answer.body[..4], [0; 4]);
    }

    #[test]
    fn what_is_not_there_is_refused() {
        for (kind, index, status) in [
            (QUERY_DEVICE, 1, LinkStatus::NoDevice),
            (QUERY_PROCESSES, u32::MAX, LinkStatus::NoDevice),
            (QUERY_FIGURES, 1, LinkStatus::NoDevice),
            (99, 0, LinkStatus::Malformed),
        ] {
            let query = Query::new(kind, index, u32::MAX);
            let answer = facts(0).answer(&query, &Board::default(), &[]);
            assert_eq!(answer.status, status as u32);
        }
        assert!(Facts::read(&[1; 7], true, 0, &NvmlTerms::default()).is_err());
    }
}
