//! A daemon on a socket of the test's own, and a client without any CUDA library: it writes records
//! as the shim does.

#![allow(dead_code)] // Each test file uses its own part.

pub mod guest;

use std::cell::Cell;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vgpu_channel::client::Channel;
use vgpu_channel::link::{Hello, Socket};
use vgpu_channel::ring::RecordHeader;
use vgpu_channel::timeline::reached;
use vgpu_channel::window::Reservation;
use vgpu_protocol::cuda::CUresult;
use vgpu_protocol::number::{call, internal};
use vgpu_protocol::wire::{self, *};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// No honest step takes longer, however loaded the machine is.
pub const LONG: Duration = Duration::from_secs(60);

/// A process holds one window at a time, so tests of one process take turns.
static TURN: Mutex<()> = Mutex::new(());

/// A running daemon with the software device.
pub struct Daemon {
    pub child: Child,
    folder: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Daemon {
    pub fn start(arguments: &[&str]) -> Daemon {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        let child = Self::spawn("--listen", folder.path().join("vgpu.sock"), arguments);
        let daemon = Daemon {
            child,
            folder,
            _turn: turn,
        };
        daemon.wait_until_listening();
        daemon
    }

    /// One whose standard error is `log`.
    pub fn with_log(arguments: &[&str], log: impl Into<Stdio>) -> Daemon {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        let mut command = Self::command("--listen", folder.path().join("vgpu.sock"), arguments);
        let daemon = Daemon {
            child: command.stderr(log).spawn().unwrap(),
            folder,
            _turn: turn,
        };
        daemon.wait_until_listening();
        daemon
    }

    /// One that waits for a virtual machine.
    pub fn for_machine(arguments: &[&str]) -> Daemon {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("machine.sock");
        let daemon = Daemon {
            child: Self::spawn("--vhost-user", socket, arguments),
            folder,
            _turn: turn,
        };
        until(|| daemon.machine_socket().exists());
        daemon
    }

    /// Where a virtual machine connects.
    pub fn machine_socket(&self) -> PathBuf {
        self.folder.path().join("machine.sock")
    }

    /// One that is handed the listening socket of a virtual machine as its standard input.
    pub fn with_socket_handed_over() -> Daemon {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("machine.sock");
        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_vhost-user-vgpu"))
            .args(["--device", "software", "--fd", "0"])
            .stdin(std::os::fd::OwnedFd::from(listener))
            .spawn()
            .unwrap();
        Daemon {
            child,
            folder,
            _turn: turn,
        }
    }

    /// Kills the daemon and starts another one for the machine.
    pub fn replace_for_machine(&mut self) {
        self.signal(rustix::process::Signal::KILL);
        self.wait();
        self.child = Self::spawn("--vhost-user", self.machine_socket(), &[]);
        until(|| std::os::unix::net::UnixStream::connect(self.machine_socket()).is_ok());
    }

    fn spawn(option: &str, socket: PathBuf, arguments: &[&str]) -> Child {
        Self::command(option, socket, arguments).spawn().unwrap()
    }

    fn command(option: &str, socket: PathBuf, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-vgpu"));
        command
            .args(["--device", "software", option])
            .arg(socket)
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Starts another daemon on the same socket.
    pub fn restart(&mut self) {
        self.child = Self::spawn("--listen", self.socket(), &[]);
        self.wait_until_listening();
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("vgpu.sock")
    }

    pub fn listens(&self) -> bool {
        Socket::connect(&self.socket(), Duration::from_secs(1)).is_ok()
    }

    fn wait_until_listening(&self) {
        until(|| self.listens());
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        until(|| {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Process ids of the workers that are alive.
    pub fn workers(&self) -> Vec<i32> {
        let pid = self.child.id();
        let mut text = String::new();
        if let Ok(mut file) = std::fs::File::open(format!("/proc/{pid}/task/{pid}/children")) {
            file.read_to_string(&mut text).unwrap();
        }
        text.split_whitespace()
            .map(|pid| pid.parse().unwrap())
            .collect()
    }

    pub fn connect(&self) -> Client {
        self.try_connect().unwrap()
    }

    pub fn try_connect(&self) -> std::result::Result<Client, vgpu_channel::client::ConnectError> {
        let reservation = Reservation::for_client().unwrap();
        let hello = Hello::new(reservation.window().index, 0);
        let channel = Channel::connect(&self.socket(), &hello, reservation)?;
        Ok(Client::new(channel))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something is true.
pub fn until(mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < LONG, "took longer than {LONG:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A client with one thread.
pub struct Client {
    pub channel: Channel,
    pub slot: u64,
    pub word: u64,
    sequence: Cell<u32>,
    pub scope: Cell<u64>,
    pub thread: u32,
}

impl Client {
    pub fn new(channel: Channel) -> Client {
        let slot = channel.alloc_reply().unwrap();
        let word = channel.alloc(64, 64).unwrap();
        Client {
            channel,
            slot,
            word,
            sequence: Cell::new(0),
            scope: Cell::new(0),
            thread: 0,
        }
    }

    pub fn header(&self, call: u16, flags: u16, reply_sequence: u32) -> RecordHeader {
        RecordHeader {
            call,
            flags,
            thread: self.thread,
            reply_sequence,
            reply_address: self.slot,
            scope: self.scope.get(),
        }
    }

    /// Sends a call and waits: its status and the answer's payload.
    pub fn call(&self, number: u16, parts: &[&[u8]]) -> (CUresult, Vec<u8>) {
        self.call_with(number, 0, parts)
    }

    pub fn call_with(&self, number: u16, flags: u16, parts: &[&[u8]]) -> (CUresult, Vec<u8>) {
        self.sequence.set(self.sequence.get() + 1);
        let sequence = self.sequence.get();
        self.channel
            .post(&self.header(number, flags | RECORD_REPLY, sequence), parts)
            .unwrap();
        let slot = self.channel.reply(self.slot).unwrap();
        let (status, len) = self
            .channel
            .wait_reply(slot, sequence, Some(LONG))
            .unwrap_or_else(|error| panic!("no answer to call {number}: {error}"));
        let mut bytes = vec![0; len];
        self.channel.copy_out(self.slot + 64, &mut bytes).unwrap();
        (CUresult(status.cast_unsigned()), bytes)
    }

    /// A call that must succeed, with its reply struct.
    pub fn ask<T: FromBytes>(&self, number: u16, parts: &[&[u8]]) -> T {
        let (status, bytes) = self.call(number, parts);
        assert_eq!(status, CUresult::SUCCESS, "call {number}");
        T::read_from_prefix(&bytes).ok().unwrap().0
    }

    /// A call that must fail.
    pub fn refused(&self, number: u16, parts: &[&[u8]]) {
        assert_ne!(self.refusal(number, parts), CUresult::SUCCESS);
    }

    /// A call that must fail, and how it does.
    pub fn refusal(&self, number: u16, parts: &[&[u8]]) -> CUresult {
        let (status, _) = self.call(number, parts);
        assert_ne!(status, CUresult::SUCCESS, "call {number} was accepted");
        status
    }

    /// Posts and gives the stamp.
    pub fn post(&self, number: u16, flags: u16, parts: &[&[u8]]) -> u32 {
        self.channel
            .post(&self.header(number, flags, 0), parts)
            .unwrap() as u32
    }

    /// Flushes a stream and waits for its timeline word.
    pub fn flush(&self, stream: u64) {
        let flush = Flush {
            stream,
            word: self.word,
        };
        let stamp = self.post(internal::FLUSH, 0, &[flush.as_bytes()]);
        self.reach(stamp);
    }

    /// Waits until the timeline word has a stamp.
    pub fn reach(&self, stamp: u32) {
        let word = self.channel.heap_word(self.word).unwrap();
        until(|| {
            assert_eq!(self.channel.sticky_error(), 0);
            reached(word.load(std::sync::atomic::Ordering::Acquire), stamp)
        });
    }

    pub fn retain(&self) {
        let mut args = wire::cuDevicePrimaryCtxRetain::Args::new_zeroed();
        args.dev = Word(0);
        let reply: wire::cuDevicePrimaryCtxRetain::Reply =
            self.ask(call::cuDevicePrimaryCtxRetain, &[args.as_bytes()]);
        self.scope.set(reply.ctx.0);
    }

    pub fn alloc(&self, bytes: u64) -> u64 {
        let reply: wire::cuMemAlloc_v2::Reply =
            self.ask(call::cuMemAlloc_v2, &[&bytes.to_le_bytes()]);
        reply.dptr.0
    }

    /// Allocates shared memory with these contents.
    pub fn share(&self, bytes: &[u8]) -> Blob {
        let addr = self.channel.alloc(bytes.len().max(1) as u64, 64).unwrap();
        self.channel.copy_in(addr, bytes).unwrap();
        Blob {
            addr,
            len: bytes.len() as u64,
        }
    }

    pub fn read(&self, place: Blob) -> Vec<u8> {
        let mut bytes = vec![0; place.len as usize];
        self.channel.copy_out(place.addr, &mut bytes).unwrap();
        bytes
    }

    pub fn load_module(&self, image: &[u8]) -> (CUresult, u64) {
        let load = LoadImage {
            image: self.share(image),
            ..LoadImage::default()
        };
        let (status, bytes) = self.call(call::cuModuleLoadDataEx, &[load.as_bytes()]);
        let reply = LoadReply::read_from_prefix(&bytes).map_or(0, |reply| reply.0.handle);
        (status, reply)
    }

    pub fn function(&self, module: u64, name: &str) -> FunctionReply {
        let lookup = Lookup { container: module };
        self.ask(
            call::cuModuleGetFunction,
            &[lookup.as_bytes(), name.as_bytes()],
        )
    }
}
