//! What is answered to those who ask without a channel: facts that were found at the start, and memory as it is now.

use crate::{host, probe};
use std::time::{Duration, Instant};
use vgpu_channel::link::{Answer, LinkStatus, Query};
use vgpu_protocol::facts::{
    DeviceFacts, PROCESSES_PER_PAGE, ProcessFacts, ProcessMemory, QUERY_DEVICE, QUERY_PROCESSES,
    QUERY_SYSTEM, SystemFacts, put_text,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// How long a look at the host's free memory is good for.
const FRESH: Duration = Duration::from_millis(500);
/// How long a look may take: natively a monitor waits as long.
const LOOK: Duration = Duration::from_secs(5);
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

/// The last look at the host's free memory.
#[derive(Clone, Debug, Default)]
pub struct Board {
    free: Vec<u64>,
    taken: Option<Instant>,
}

impl Board {
    /// What was found just now, for each device; empty if nothing was.
    pub fn new(free: Vec<u64>) -> Board {
        Board {
            free,
            taken: Some(Instant::now()),
        }
    }

    fn is_fresh(&self) -> bool {
        self.taken.is_some_and(|taken| taken.elapsed() < FRESH)
    }
}

impl Facts {
    /// What a probe said: [`SystemFacts`], then [`DeviceFacts`] for each device.
    ///
    /// # Errors
    /// When the bytes are nothing of the kind.
    pub fn read(bytes: &[u8], software: bool, quota: u64) -> anyhow::Result<Facts> {
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
        Ok(Facts {
            system,
            devices,
            quota,
            host,
        })
    }

    /// Number of devices.
    pub fn devices(&self) -> usize {
        self.devices.len()
    }

    /// Whether the answer must wait for a look at the host's memory.
    pub fn needs_look(&self, query: &Query, board: &Board) -> bool {
        self.host && query.kind == QUERY_DEVICE && !board.is_fresh()
    }

    /// Looks at the host's memory, in another process. This takes a while.
    pub fn look(&self) -> Board {
        let mut arguments = vec!["memory".to_owned()];
        arguments.extend(
            self.devices
                .iter()
                .map(|device| host::uuid_text(&device.uuid)),
        );
        let free = probe::ask(&arguments, LOOK).and_then(|bytes| {
            let text = String::from_utf8(bytes)?;
            Ok(text.lines().map(str::parse).collect::<Result<_, _>>()?)
        });
        Board::new(free.unwrap_or_else(|error| {
            tracing::warn!("the host does not say how much memory is free: {error:#}");
            Vec::new()
        }))
    }

    /// The answer to a question of somebody who may know of the clients in `held`.
    pub fn answer(&self, query: &Query, board: &Board, held: &[Held]) -> Answer {
        let index = query.index as usize;
        let (status, body) = match (query.kind, self.devices.get(index)) {
            (QUERY_SYSTEM, _) => (LinkStatus::Ok, self.system.as_bytes().to_vec()),
            (QUERY_DEVICE, Some(device)) => {
                let device = self.device(device, board.free.get(index).copied(), held);
                (LinkStatus::Ok, device.as_bytes().to_vec())
            }
            (QUERY_PROCESSES, Some(_)) => {
                let processes = self.processes(query.page as usize, held);
                (LinkStatus::Ok, processes.as_bytes().to_vec())
            }
            (QUERY_DEVICE | QUERY_PROCESSES, None) => (LinkStatus::NoDevice, Vec::new()),
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
        Facts::read(&bytes, true, quota).unwrap()
    }

    fn memory(facts: &Facts, free: Option<u64>, held: &[Held]) -> (u64, u64, u64) {
        let board = Board::new(free.into_iter().collect());
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
            (99, 0, LinkStatus::Malformed),
        ] {
            let query = Query::new(kind, index, u32::MAX);
            let answer = facts(0).answer(&query, &Board::default(), &[]);
            assert_eq!(answer.status, status as u32);
        }
        assert!(Facts::read(&[1; 7], true, 0).is_err());
    }
}
