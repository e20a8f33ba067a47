//! What the channel's benchmarks need beside the channel: a server in a process of its own, and threads that stay on
//! their CPU.
//!
//! The benchmark program starts itself again as the server (see [`serve_if_asked`]), so that round trips are measured
//! between two processes.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use vgpu_channel::client::Channel;
use vgpu_channel::link::{Hello, Listener};
use vgpu_channel::ring::{RecordBuf, RecordHeader};
use vgpu_channel::server::{self, Config, Consumer, Parts};
use vgpu_channel::sync::{AtomicU32, Ordering};
use vgpu_channel::wait::SpinBudget;
use vgpu_channel::window::Reservation;

/// Calls of the benchmark server.
pub mod call {
    /// Answered with an empty reply.
    pub const ECHO: u16 = 1;
    /// Payload: address of two words on cache lines of their own, and a count. The server waits for each number in the
    /// first word and repeats it in the second.
    pub const PING_PONG: u16 = 2;
    /// Not answered.
    pub const POST: u16 = 3;
    /// From now on the server sleeps whenever it has nothing to do, without spinning.
    pub const SLEEPY: u16 = 4;
    /// From now on the server spins for at least a second before it sleeps.
    pub const EAGER: u16 = 5;
}

/// Names the environment variable that makes this program a server.
const SERVE: &str = "VGPU_BENCH_SERVE";

/// Two CPUs of different cores that this process may use: for the client and for the server. `VGPU_BENCH_CPUS=a,b`
/// chooses them.
#[must_use]
pub fn cpus() -> Option<(usize, usize)> {
    if let Ok(text) = std::env::var("VGPU_BENCH_CPUS") {
        let (a, b) = text.split_once(',')?;
        return Some((a.parse().ok()?, b.parse().ok()?));
    }
    let allowed = sched_getaffinity(None).ok()?;
    let mut usable = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
    let first = usable.next()?;
    let path = format!("/sys/devices/system/cpu/cpu{first}/topology/thread_siblings_list");
    let siblings = std::fs::read_to_string(path).unwrap_or_default();
    let is_sibling = |cpu: usize| {
        siblings
            .trim()
            .split(',')
            .any(|part| match part.split_once('-') {
                Some((low, high)) => {
                    low.parse().is_ok_and(|low: usize| low <= cpu)
                        && high.parse().is_ok_and(|high: usize| cpu <= high)
                }
                None => part.parse() == Ok(cpu),
            })
    };
    Some((first, usable.find(|&cpu| !is_sibling(cpu))?))
}

/// Keeps the calling thread on `cpu`; what that does not allow stays as it is.
pub fn pin(cpu: Option<usize>) {
    if let Some(cpu) = cpu {
        let mut set = CpuSet::new();
        set.set(cpu);
        let _ = sched_setaffinity(None, &set);
    }
}

/// A server process with its client's channel.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// The channel to it.
    pub channel: Channel,
    slot: u64,
    sequence: u32,
    _dir: tempfile::TempDir,
}

impl Server {
    /// Starts a server and connects to it.
    ///
    /// # Panics
    ///
    /// When that fails: there is nothing to measure then.
    #[must_use]
    pub fn start() -> Server {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        let mut child = command
            .env(SERVE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a server");
        let mut line = String::new();
        let output = child.stdout.as_mut().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        let reservation = Reservation::for_client().expect("a window");
        let hello = Hello::new(reservation.window().index, 0);
        let channel = Channel::connect(&path, &hello, reservation).expect("a channel");
        let slot = channel.alloc_reply().expect("a reply slot");
        Server {
            child,
            channel,
            slot,
            sequence: 0,
            _dir: dir,
        }
    }

    /// Calls and waits for the answer.
    ///
    /// # Panics
    ///
    /// When the server is gone.
    #[inline]
    pub fn call(&mut self, call: u16, payload: &[u8]) {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let header = RecordHeader {
            call,
            reply_sequence: self.sequence,
            reply_address: self.slot,
            ..RecordHeader::default()
        };
        self.channel
            .post(&header, &[payload])
            .expect("a live server");
        let slot = self.channel.reply(self.slot).expect("the slot");
        self.channel
            .wait_reply(slot, self.sequence, None)
            .expect("an answer");
    }

    /// Sends numbers back and forth through two bare words: what one round trip costs at least on this machine.
    ///
    /// # Panics
    ///
    /// When the server is gone.
    #[must_use]
    pub fn ping_pong(&self, rounds: u64) -> Duration {
        let words = self.channel.alloc(512, 128).expect("memory");
        let ping = self.channel.heap_word(words).expect("mapped");
        let pong = self.channel.heap_word(words + 256).expect("mapped");
        ping.store(0, Ordering::Relaxed);
        pong.store(0, Ordering::Relaxed);
        let header = RecordHeader {
            call: call::PING_PONG,
            ..RecordHeader::default()
        };
        self.channel
            .post(&header, &[&words.to_le_bytes(), &rounds.to_le_bytes()])
            .expect("a live server");
        let round = |number: u32| {
            ping.store(number, Ordering::Release);
            await_number(pong, number);
        };
        // The first round waits until the server has read the record.
        round(1);
        let start = std::time::Instant::now();
        for number in 2..=rounds as u32 {
            round(number);
        }
        let took = start.elapsed();
        self.channel.free(words).expect("allocated above");
        took
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn await_number(word: &AtomicU32, number: u32) {
    while word.load(Ordering::Acquire) != number {
        std::hint::spin_loop();
    }
}

/// Becomes a server if the environment says so; whether it did.
///
/// # Panics
///
/// When a server cannot be set up.
#[must_use]
pub fn serve_if_asked() -> bool {
    let Some(path) = std::env::var_os(SERVE) else {
        return false;
    };
    pin(cpus().map(|(_, server)| server));
    let listener = Listener::bind(Path::new(&path)).expect("bind");
    println!("ready");
    let accepted = Listener::greet(listener.accept().expect("accept")).expect("hello");
    let reservation = Reservation::for_server(accepted.hello.window).expect("window");
    let parts = Parts::create(accepted, &Config::default()).expect("parts");
    let (channel, consumer) = server::Channel::open(parts, reservation).expect("open");
    channel.welcome(0).expect("welcome");
    serve(consumer);
    true
}

fn serve(mut consumer: Consumer) {
    let eager = SpinBudget::for_cpus(usize::MAX, Duration::from_secs(1));
    let mut budget = eager;
    let mut buf = RecordBuf::new();
    loop {
        let Some(record) = consumer.pop(&mut buf).expect("an intact record") else {
            if !consumer.spin(&budget)
                && consumer.sleep(None, None).expect("sleep").gone
                && !consumer.ready()
            {
                return;
            }
            continue;
        };
        let (header, payload) = (record.header, record.payload);
        let channel = consumer.channel();
        match header.call {
            call::POST => continue,
            call::PING_PONG => {
                let word = |at: usize| {
                    u64::from_le_bytes(payload[at..at + 8].try_into().expect("eight bytes"))
                };
                let ping = channel.heap_word(word(0)).expect("mapped");
                let pong = channel.heap_word(word(0) + 256).expect("mapped");
                for number in 1..=word(8) as u32 {
                    await_number(ping, number);
                    pong.store(number, Ordering::Release);
                }
                continue;
            }
            call::SLEEPY => budget = SpinBudget::NONE,
            call::EAGER => budget = eager,
            _ => {}
        }
        channel
            .complete(header.reply_address, header.reply_sequence, 0, &[])
            .expect("a reply slot");
    }
}
