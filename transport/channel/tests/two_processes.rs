//! The channel between two real processes: this program starts itself again as the server.
//!
//! `VGPU_STRESS_RECORDS` sets the number of records of the stress test (default 200,000; 10,000,000 and more are meant
//! for `--release`).

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use vgpu_channel::callback::Callback;
use vgpu_channel::client::{Channel, ConnectError, PostError};
use vgpu_channel::link::{Hello, LinkStatus, Listener};
use vgpu_channel::ring::{RecordBuf, RecordHeader};
use vgpu_channel::segment::{HugePages, SegmentFd};
use vgpu_channel::server::{self, Config, Parts, Request};
use vgpu_channel::wait::{SpinBudget, WaitError};
use vgpu_channel::window::{Place, Reservation};

/// Calls that the server of these tests knows.
mod call {
    /// Payload: a seed's pattern; checked, not answered.
    pub const CHECK: u16 = 1;
    /// Answered with the number of records checked so far from the calling thread.
    pub const COUNT: u16 = 2;
    /// The process ends at once.
    pub const DIE: u16 = 3;
    /// Runs a callback in the client and answers when it was acknowledged.
    pub const CALL_BACK: u16 = 4;
    /// Prints the payload.
    pub const PRINT: u16 = 5;
    /// Sleeps for the payload's milliseconds, then answers with the CPU milliseconds used since the last answer.
    pub const NAP: u16 = 6;
    /// Answers with the address of a large fresh allocation.
    pub const WHERE: u16 = 7;
}

/// A small generator for sizes and contents; the same seed gives the same bytes on both sides.
struct Pattern(u64);

impl Pattern {
    fn new(thread: u32, index: u64) -> Pattern {
        Pattern((u64::from(thread) << 48 ^ index).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Mostly short records, some of any length up to the longest.
    fn len(&mut self) -> usize {
        let random = self.next();
        match random % 1000 {
            0 => (random >> 20) as usize % (vgpu_channel::ring::MAX_PAYLOAD + 1),
            1..=50 => (random >> 20) as usize % 4096,
            _ => (random >> 20) as usize % 256,
        }
    }

    fn fill(&mut self, bytes: &mut Vec<u8>) {
        let len = self.len();
        bytes.clear();
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
    }
}

fn serve(path: &Path) {
    let listener = Listener::bind(path).expect("bind");
    println!("ready");
    let accepted = Listener::greet(listener.accept().expect("accept")).expect("hello");
    let reservation = Reservation::for_server(accepted.hello.window).expect("window");
    reservation.steer_driver().expect("steer");
    let config = Config {
        heap_bytes: 4 << 20,
        ..Config::default()
    };
    let parts = Parts::create(accepted, &config).expect("parts");
    let (channel, mut consumer) = server::Channel::open(parts, reservation).expect("open");
    channel
        .write_snapshot(b"what the server knows")
        .expect("snapshot");
    channel.welcome(77).expect("welcome");

    let mut buf = RecordBuf::new();
    let mut checked = [0u64; 16];
    let mut expected = Vec::new();
    let mut cpu = cpu_millis();
    let budget = SpinBudget::default();
    loop {
        let Some(record) = consumer.pop(&mut buf).expect("an intact record") else {
            if consumer.spin(&budget) {
                continue;
            }
            let woken = consumer.sleep(None, None).expect("sleep");
            if woken.request && !woken.gone {
                let Request::Grow(request) = channel.next_request(Duration::ZERO).expect("request");
                if request.bytes > 1 << 30 {
                    channel.deny(&request, LinkStatus::NoMemory).expect("deny");
                } else {
                    let segment =
                        SegmentFd::create(request.bytes, HugePages::Try).expect("segment");
                    channel.grant(&request, &segment).expect("grant");
                }
            }
            if woken.gone && !consumer.ready() {
                return;
            }
            continue;
        };
        let header = record.header;
        let answer = |status: i32, payload: &[u8]| {
            channel
                .complete(header.reply_address, header.reply_sequence, status, payload)
                .expect("a reply slot");
        };
        match header.call {
            call::CHECK => {
                let count = &mut checked[header.thread as usize];
                assert_eq!(header.scope, *count, "order of thread {}", header.thread);
                Pattern::new(header.thread, *count).fill(&mut expected);
                assert!(
                    record.payload == expected,
                    "content of record {count} of thread {}",
                    header.thread
                );
                *count += 1;
            }
            call::COUNT => answer(0, &checked[header.thread as usize].to_le_bytes()),
            call::DIE => std::process::abort(),
            call::CALL_BACK => {
                let callback = Callback {
                    function: 0x1234,
                    user: header.scope,
                    id: 9,
                    ..Default::default()
                };
                let position = channel.call_back(&callback).expect("room");
                channel
                    .wait_acknowledged(position, Some(Duration::from_secs(20)))
                    .expect("acknowledgement");
                answer(0, b"done");
            }
            call::PRINT => channel.print(record.payload),
            call::NAP => {
                let millis = u64::from_le_bytes(record.payload.try_into().expect("eight bytes"));
                std::thread::sleep(Duration::from_millis(millis));
                let now = cpu_millis();
                answer(0, &(now - cpu).to_le_bytes());
                cpu = now;
            }
            call::WHERE => {
                let large = vec![0u8; 64 << 20];
                answer(0, &(large.as_ptr() as u64).to_le_bytes());
            }
            other => panic!("unknown call {other}"),
        }
    }
}

/// CPU time of this process in milliseconds.
fn cpu_millis() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}

/// A server process; killed on drop.
struct Server {
    child: Child,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start() -> Server {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command
            .arg0("two-processes-server")
            .env("VGPU_TEST_SERVE", &path)
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("a server");
        let mut line = String::new();
        let output = child.stdout.as_mut().expect("its output");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line)
            .expect("a line");
        assert_eq!(line, "ready\n");
        Server {
            child,
            path,
            _dir: dir,
        }
    }

    fn connect(&self) -> Channel {
        let reservation = Reservation::for_client().expect("a window");
        let hello = Hello::new(reservation.window().index, 1);
        Channel::connect(&self.path, &hello, reservation).expect("a channel")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One thread's means to call.
struct Caller<'a> {
    channel: &'a Channel,
    thread: u32,
    slot: u64,
    sequence: u32,
}

impl<'a> Caller<'a> {
    fn new(channel: &'a Channel, thread: u32) -> Caller<'a> {
        Caller {
            channel,
            thread,
            slot: channel.alloc_reply().expect("a slot"),
            sequence: 0,
        }
    }

    fn post(&self, call: u16, scope: u64, payload: &[u8]) -> Result<u64, PostError> {
        let header = RecordHeader {
            call,
            thread: self.thread,
            scope,
            ..Default::default()
        };
        self.channel.post(&header, &[payload])
    }

    fn call(&mut self, call: u16, scope: u64, payload: &[u8]) -> Result<Vec<u8>, WaitError> {
        self.sequence += 1;
        let header = RecordHeader {
            call,
            thread: self.thread,
            scope,
            reply_sequence: self.sequence,
            reply_address: self.slot,
            ..Default::default()
        };
        self.channel
            .post(&header, &[payload])
            .map_err(|_| WaitError::PeerGone)?;
        let slot = self.channel.reply(self.slot).expect("the slot");
        let (status, len) =
            self.channel
                .wait_reply(slot, self.sequence, Some(Duration::from_secs(60)))?;
        assert_eq!(status, 0);
        let mut answer = vec![0; len];
        slot.payload(&mut answer).expect("the answer");
        Ok(answer)
    }

    fn number(&mut self, call: u16, payload: &[u8]) -> Result<u64, WaitError> {
        Ok(u64::from_le_bytes(
            self.call(call, 0, payload)?
                .try_into()
                .expect("eight bytes"),
        ))
    }
}

fn stress(channel: &Channel) {
    const THREADS: u64 = 4;
    let total: u64 = std::env::var("VGPU_STRESS_RECORDS")
        .ok()
        .map_or(200_000, |text| text.parse().expect("a number"));
    let each = total.div_ceil(THREADS);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..THREADS as u32 {
            scope.spawn(move || {
                let mut caller = Caller::new(channel, thread);
                let mut payload = Vec::new();
                for index in 0..each {
                    Pattern::new(thread, index).fill(&mut payload);
                    caller
                        .post(call::CHECK, index, &payload)
                        .expect("a live server");
                    if index % 4096 == 0 {
                        assert_eq!(caller.number(call::COUNT, &[]), Ok(index + 1));
                    }
                }
                assert_eq!(caller.number(call::COUNT, &[]), Ok(each));
            });
        }
    });
    println!(
        "stress: {} records of {THREADS} threads verified in {:.1?}",
        each * THREADS,
        start.elapsed()
    );
}

fn sleep_and_wake(channel: &Channel) {
    let mut callers: Vec<_> = (8..12).map(|thread| Caller::new(channel, thread)).collect();
    // Both sides sleep between these, several client threads at once, and neither uses the CPU meanwhile.
    std::thread::scope(|scope| {
        for caller in &mut callers {
            scope.spawn(move || {
                for _ in 0..20 {
                    caller
                        .number(call::NAP, &1u64.to_le_bytes())
                        .expect("an answer");
                }
            });
        }
    });
    let mut caller = Caller::new(channel, 12);
    caller
        .number(call::NAP, &0u64.to_le_bytes())
        .expect("an answer");
    let own = cpu_millis();
    std::thread::sleep(Duration::from_millis(500));
    let server = caller
        .number(call::NAP, &500u64.to_le_bytes())
        .expect("an answer");
    let own = cpu_millis() - own;
    assert!(
        server < 100 && own < 100,
        "an idle second took {server} ms in the server, {own} ms in the client"
    );
    println!(
        "sleep and wake: idle for 1 s used {server} ms CPU in the server, {own} ms in the client"
    );
}

fn callbacks_and_output(channel: &Channel) {
    std::thread::scope(|scope| {
        let dispatcher = scope.spawn(|| {
            let (mut user, mut text) = (Vec::new(), Vec::new());
            while user.len() < 50 || text.len() < 50 {
                channel
                    .wait_dispatch(|| false, Some(Duration::from_secs(20)))
                    .expect("work");
                while let Some((position, callback)) = channel.callbacks().pop() {
                    assert_eq!((callback.function, callback.id), (0x1234, 9));
                    user.push(callback.user);
                    channel.acknowledge(position);
                }
                let mut bytes = [0; 7];
                let len = channel.output().read(&mut bytes);
                text.extend_from_slice(&bytes[..len]);
            }
            (user, text)
        });
        let mut caller = Caller::new(channel, 13);
        for index in 0..50 {
            caller
                .post(call::PRINT, 0, &[index as u8])
                .expect("a live server");
            assert_eq!(
                caller.call(call::CALL_BACK, index, &[]).expect("an answer"),
                b"done"
            );
        }
        let (user, text) = dispatcher.join().expect("the dispatcher");
        assert_eq!(user, (0..50).collect::<Vec<u64>>());
        assert_eq!(text, (0..50).collect::<Vec<u8>>());
    });
    println!("callbacks and output: 50 of each, in order");
}

fn growth(channel: &Channel) {
    let before = channel.heap_stats();
    let block = channel
        .alloc(100 << 20, 2 << 20)
        .expect("a granted segment");
    assert_eq!(block % (2 << 20), 0);
    assert_eq!(channel.window().classify(block), Place::Shared);
    assert!(channel.heap_stats().total >= before.total + (100 << 20));
    channel
        .copy_in(block + (100 << 20) - 3, b"end")
        .expect("mapped");
    let mut back = [0; 3];
    channel
        .copy_out(block + (100 << 20) - 3, &mut back)
        .expect("mapped");
    assert_eq!(&back, b"end");
    assert!(channel.alloc(2 << 30, 64).is_err(), "refused by the server");
    channel.free(block).expect("its start");
    println!("growth: granted, used, and refused beyond the limit");
}

fn placement(channel: &Channel) {
    let at = Caller::new(channel, 14)
        .number(call::WHERE, &[])
        .expect("an answer");
    assert_eq!(channel.window().classify(at), Place::Driver, "{at:#x}");
    println!("placement: the server's allocations go to {at:#x}, in the driver part");
}

fn death(channel: &Channel) {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            scope.spawn(move || {
                let waited = channel.sleep_until(|| false, || {}, None);
                assert_eq!(waited, Err(WaitError::PeerGone), "sleeper {thread}");
            });
        }
        scope.spawn(|| assert_eq!(channel.poll_until(|| false, None), Err(WaitError::PeerGone)));
        let mut caller = Caller::new(channel, 15);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(caller.call(call::DIE, 0, &[]), Err(WaitError::PeerGone));
        // The ring fills up and then refuses, too.
        let refused = (0..100_000).find_map(|_| caller.post(call::CHECK, 0, &[0; 1000]).err());
        assert_eq!(refused, Some(PostError::PeerGone));
    });
    assert!(channel.is_gone(false));
    assert_eq!(
        channel.wait_until(|| true, || {}, None),
        Ok(()),
        "what is there still counts"
    );
    println!(
        "death: every wait ended {:.1?} after the start of the test",
        start.elapsed()
    );
}

fn main() {
    if let Some(path) = std::env::var_os("VGPU_TEST_SERVE") {
        serve(Path::new(&path));
        return;
    }
    let server = Server::start();
    let channel = server.connect();
    assert_eq!(channel.snapshot(), b"what the server knows");
    assert_eq!(channel.server_fingerprint(), 77);
    stress(&channel);
    sleep_and_wake(&channel);
    callbacks_and_output(&channel);
    growth(&channel);
    placement(&channel);
    death(&channel);
    let second = Reservation::for_client_at(channel.window().index);
    assert!(second.is_err(), "the window is still held");
    drop(channel);
    let reservation = Reservation::for_client().expect("a window");
    let hello = Hello::new(reservation.window().index, 1);
    drop(server);
    assert!(matches!(
        Channel::connect(Path::new("/nonexistent/socket"), &hello, reservation),
        Err(ConnectError::Link(_))
    ));
    // Says it as cargo's own test runner does, so that it is counted.
    println!("\ntest result: ok. 6 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
}
