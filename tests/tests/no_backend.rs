//! No backend, a wrong one, a silent one, a broken one: `cuInit` says so, soon, and prints nothing unless asked. And
//! the daemon against clients that do not speak its language.

mod support;

use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::net::{
    self, AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};
use support::{Client, PATIENCE, alone, backend, client_command, eventually, parts};
use vgpu_e2e::backend::{SOCKET, connect};
use vgpu_e2e::command;

const NO_DEVICE: i32 = 100;
const SYSTEM_NOT_READY: i32 = 802;
const SYSTEM_DRIVER_MISMATCH: i32 = 803;

/// The first bytes of a hello and of its answer, as `docs/` gives them.
const HELLO_MAGIC: &[u8; 8] = b"vgpuhi!\0";
const WELCOME_MAGIC: &[u8; 8] = b"vgpuyes\0";
const HELLO_BYTES: usize = 64 + 1024;
const WELCOME_BYTES: usize = 64;
const STATUS_VERSION: u32 = 2;

/// Runs `e2e-client init` against the socket; the code, and what it printed to standard error.
fn init(socket: &Path, log: bool) -> (i32, String) {
    let mut command: Command = client_command("init");
    command
        .env("LD_LIBRARY_PATH", &parts().library_folder)
        .env(SOCKET, socket)
        .env_remove("VGPU_LOG");
    if log {
        command.env("VGPU_LOG", "1");
    }
    let output = command::run(&mut command, PATIENCE).expect("the client runs");
    assert_eq!(output.ending(), "exit 0", "stderr: {}", output.stderr);
    let code = output
        .stdout
        .trim()
        .strip_prefix("init ")
        .and_then(|code| code.parse().ok());
    (
        code.unwrap_or_else(|| panic!("the client said {:?}", output.stdout)),
        output.stderr,
    )
}

fn assert_refused_quietly(socket: &Path) {
    let (code, stderr) = init(socket, false);
    assert!(
        [NO_DEVICE, SYSTEM_NOT_READY, SYSTEM_DRIVER_MISMATCH].contains(&code),
        "cuInit returned {code}"
    );
    assert_eq!(stderr, "", "nothing is printed unless asked");
    let (again, told) = init(socket, true);
    assert_eq!(again, code, "the log does not change the answer");
    assert!(!told.trim().is_empty(), "VGPU_LOG=1 says why");
}

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("vgpu-e2e-")
        .tempdir()
        .expect("a temporary folder")
}

fn listener(path: &Path) -> OwnedFd {
    let fd = net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .expect("a socket");
    net::bind(&fd, &SocketAddrUnix::new(path).expect("a short path")).expect("a free path");
    net::listen(&fd, 16).expect("it listens");
    fd
}

/// A backend that treats every connection with `behave`, until the test ends.
fn fake_backend(path: &Path, behave: impl Fn(OwnedFd) + Send + 'static) {
    let listening = listener(path);
    std::thread::spawn(move || {
        while let Ok(connection) = net::accept(&listening) {
            behave(connection);
        }
    });
}

fn send(connection: &OwnedFd, bytes: &[u8]) {
    // The other side may have hung up, which is its good right here.
    let _ = net::sendmsg(
        connection,
        &[IoSlice::new(bytes)],
        &mut SendAncillaryBuffer::default(),
        SendFlags::NOSIGNAL,
    );
}

#[test]
fn without_a_socket_there_is_no_device() {
    let folder = folder();
    let socket = folder.path().join("nothing.sock");
    assert_eq!(init(&socket, false).0, NO_DEVICE);
    assert_refused_quietly(&socket);
}

#[test]
fn a_socket_that_nobody_listens_on_is_no_device() {
    let folder = folder();
    let socket = folder.path().join("dead.sock");
    drop(listener(&socket));
    assert!(socket.exists(), "the file stays behind, as after a crash");
    assert_refused_quietly(&socket);
}

#[test]
fn a_plain_file_in_place_of_the_socket_is_no_device() {
    let folder = folder();
    let socket = folder.path().join("file.sock");
    std::fs::write(&socket, "not a socket").expect("it is written");
    assert_refused_quietly(&socket);
}

#[test]
fn a_backend_that_hangs_up_is_no_device() {
    let folder = folder();
    let socket = folder.path().join("closing.sock");
    fake_backend(&socket, drop);
    assert_refused_quietly(&socket);
}

#[test]
fn a_backend_that_answers_nonsense_is_no_device() {
    let folder = folder();
    let socket = folder.path().join("nonsense.sock");
    fake_backend(&socket, |connection| {
        send(&connection, &[0x5a; 4096]);
        std::thread::sleep(Duration::from_millis(50));
    });
    assert_refused_quietly(&socket);
}

#[test]
fn a_backend_that_accepts_without_descriptors_is_no_device() {
    let folder = folder();
    let socket = folder.path().join("empty.sock");
    fake_backend(&socket, |connection| {
        let mut welcome = [0u8; WELCOME_BYTES];
        welcome[..8].copy_from_slice(WELCOME_MAGIC);
        welcome[16] = 1;
        send(&connection, &welcome);
        std::thread::sleep(Duration::from_millis(50));
    });
    assert_refused_quietly(&socket);
}

#[test]
fn a_backend_of_another_version_is_named_as_such() {
    let folder = folder();
    let socket = folder.path().join("version.sock");
    fake_backend(&socket, |connection| {
        let mut welcome = [0u8; WELCOME_BYTES];
        welcome[..8].copy_from_slice(WELCOME_MAGIC);
        welcome[8..12].copy_from_slice(&STATUS_VERSION.to_le_bytes());
        welcome[16..18].copy_from_slice(&99u16.to_le_bytes());
        send(&connection, &welcome);
        std::thread::sleep(Duration::from_millis(50));
    });
    assert_refused_quietly(&socket);
    let (_, told) = init(&socket, true);
    assert!(
        told.to_lowercase().contains("version"),
        "the log says '{told}'"
    );
}

#[test]
fn a_silent_backend_does_not_hang_the_program() {
    let folder = folder();
    let socket = folder.path().join("silent.sock");
    fake_backend(&socket, std::mem::forget);
    assert_ne!(init(&socket, false).0, 0);
}

/// Sends `message` as a first word to the daemon; its answer, empty when it just hung up.
fn greet(socket: &Path, message: &[u8]) -> Vec<u8> {
    let connection = connect(socket).expect("the daemon accepts");
    rustix::net::sockopt::set_socket_timeout(
        &connection,
        rustix::net::sockopt::Timeout::Recv,
        Some(Duration::from_secs(30)),
    )
    .expect("a timeout can be set");
    send(&connection, message);
    let mut answer = vec![0u8; 4096];
    match net::recv(&connection, &mut answer[..], RecvFlags::empty()) {
        Ok((_, len)) => {
            answer.truncate(len);
            answer
        }
        Err(rustix::io::Errno::CONNRESET) => Vec::new(),
        Err(error) => panic!("the daemon neither answered nor hung up: {error}"),
    }
}

#[test]
fn the_daemon_refuses_strange_clients_and_serves_the_next() {
    let _turn = alone();
    let backend = backend();
    let mut strange_version = vec![0u8; HELLO_BYTES];
    strange_version[..8].copy_from_slice(HELLO_MAGIC);
    strange_version[8..10].copy_from_slice(&99u16.to_le_bytes());
    let answer = greet(&backend.socket(), &strange_version);
    assert_eq!(
        answer.get(..8),
        Some(&WELCOME_MAGIC[..]),
        "an honest refusal, not a hang-up"
    );
    assert_eq!(answer.get(8..12), Some(&STATUS_VERSION.to_le_bytes()[..]));

    for nonsense in [
        &b""[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0u8; HELLO_BYTES],
        &[0xff; HELLO_BYTES],
        &[0x41; 60_000],
    ] {
        let answer = greet(&backend.socket(), nonsense);
        let status = answer.get(8..12).map(|bytes| bytes.to_vec());
        assert_ne!(
            status,
            Some(vec![0; 4]),
            "nonsense of {} bytes was accepted",
            nonsense.len()
        );
    }
    let client = Client::start(&backend, "launch");
    client.wait_until_ready();
    assert!(client.finish().starts_with("done "));
}

#[test]
fn clients_that_say_nothing_do_not_keep_others_out() {
    let _turn = alone();
    let backend = backend();
    // Connections count against their user's limit of 16 from the start, until they are hung up on.
    let silent: Vec<OwnedFd> = (0..12)
        .filter_map(|_| connect(&backend.socket()).ok())
        .collect();
    assert!(!silent.is_empty());
    let client = Client::start(&backend, "launch");
    client.wait_until_ready();
    assert!(client.finish().starts_with("done "));
    // They are hung up on: the next read finds the end.
    for connection in &silent {
        let mut byte = [0u8; 64];
        eventually(PATIENCE, "a silent connection stays open", || {
            matches!(
                net::recv(connection, &mut byte[..], RecvFlags::DONTWAIT),
                Ok((_, 0)) | Err(rustix::io::Errno::CONNRESET)
            )
        });
    }
}
