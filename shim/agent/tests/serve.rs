//! Mapper and parser against a host in memory: a program's whole life, and what can go wrong in it.

mod common;

use common::*;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vgpu_agent::mapper::start::serve;
use vgpu_agent::mapper::{Limits, MapperError};
use vgpu_agent::messages::{
    CLOSE, ENDED, GROW, HERE, OPEN, OPENED, PARSER, STOP, ToMapper, ToParser, Word,
};
use vgpu_agent::parser::{self, Parser};
use vgpu_channel::link::query::ask;
use vgpu_channel::link::virtio::{NOTICE_ENDED, NOTICE_WAKE};
use vgpu_channel::link::{LinkError, LinkStatus, Listener, Query, Socket};
use vgpu_channel::segment::SegmentFd;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const MAPPER: Limits = Limits {
    heap: HEAP,
    channels: 6,
    per_user: 100,
};

/// A mapper on a thread.
struct Mapper {
    host: Host,
    keeper: Socket,
    thread: Option<JoinHandle<Result<(), MapperError>>>,
}

impl Mapper {
    fn start(host: &Host, interrupts: bool, limits: Limits, left: u64) -> Mapper {
        let (near, far) = Socket::pair().unwrap();
        rustix::io::ioctl_fionbio(&far, true).unwrap();
        let device = FakeDevice::new(host, interrupts);
        let mut pages = FakePages::new(host);
        pages.left = left;
        let thread = std::thread::spawn(move || serve(device, pages, far, limits));
        Mapper {
            host: host.clone(),
            keeper: near,
            thread: Some(thread),
        }
    }

    fn give_parser(&self) -> OwnedFd {
        let (near, far) = Socket::pair().unwrap();
        self.keeper
            .send(Word::new(PARSER).as_bytes(), &[far.as_fd()])
            .unwrap();
        near.into_fd()
    }

    fn stop(&mut self) -> Result<(), MapperError> {
        let _ = self.keeper.send(Word::new(STOP).as_bytes(), &[]);
        match self.thread.take() {
            Some(thread) => thread.join().unwrap(),
            None => Ok(()),
        }
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        if !std::thread::panicking() && self.thread.is_some() {
            self.stop().unwrap();
            // Pages of channels closed just before may still be on their way back.
            let log = self.host.log();
            let last = log.iter().rfind(|line| !line.starts_with("gave"));
            assert_eq!(last.map(String::as_str), Some("reset"));
        }
    }
}

/// Mapper and parser on threads, with a socket for programs.
struct Agent {
    host: Host,
    path: PathBuf,
    _mapper: Mapper,
    _folder: tempfile::TempDir,
}

impl Agent {
    fn new(interrupts: bool) -> Agent {
        Agent::with(interrupts, MAPPER, 4, u64::MAX)
    }

    fn with(interrupts: bool, limits: Limits, per_user: usize, left: u64) -> Agent {
        let host = Host::default();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vgpu.sock");
        let listener = Listener::bind(&path).unwrap();
        let mapper = Mapper::start(&host, interrupts, limits, left);
        let socket = Socket::from_fd(mapper.give_parser());
        let limits = parser::Limits {
            clients: 20,
            per_user,
        };
        std::thread::spawn(move || Parser::new(listener, socket, limits).unwrap().serve());
        host.expect("settled", 1);
        // The parser hears of its mapper before programs come.
        std::thread::sleep(Duration::from_millis(20));
        Agent {
            host,
            path,
            _mapper: mapper,
            _folder: folder,
        }
    }
}

fn whole_life(interrupts: bool) {
    let agent = Agent::new(interrupts);
    let (host, path) = (&agent.host, &agent.path);
    let program = Program::start(path);
    assert_eq!(program.heap.size(), HEAP);
    check_marks(&program.control, 1);
    check_marks(&program.heap, 1);
    assert_eq!(
        program.welcome.heap_address,
        program.welcome.control_address + program.welcome.control_len
    );
    // Doorbell and wake-up.
    for count in 1..=20 {
        program.doorbell.signal();
        host.expect("ring 1", count);
        host.notice(NOTICE_WAKE, 1);
        program.expect_wake();
    }
    // More than there are notices posted.
    for _ in 0..200 {
        host.notice(NOTICE_WAKE, 99);
    }
    host.notice(NOTICE_WAKE, 1);
    program.expect_wake();
    // More memory.
    let (response, mut fds) = program.grow(7, 6 * PAGE);
    assert_eq!((response.id, response.status), (7, 0));
    assert_eq!(
        response.address,
        program.welcome.heap_address + program.welcome.heap_len
    );
    let grown = SegmentFd::receive(fds.pop().unwrap(), response.len).unwrap();
    check_marks(&grown, 1);
    // A second one beside it.
    let other = Program::start(path);
    check_marks(&other.heap, 2);
    drop(program);
    host.expect("close 1", 1);
    // The queues' page is number 1.
    for page in ["gave 2", "gave 3", "gave 4"] {
        host.expect(page, 1);
    }
    assert_eq!(host.count("gave"), 3);
    other.doorbell.signal();
    host.expect("ring 2", 1);
}

#[test]
fn a_programs_whole_life() {
    whole_life(false);
}

#[test]
fn a_programs_whole_life_with_interrupts() {
    whole_life(true);
}

#[test]
fn pages_stay_until_the_host_has_closed_the_channel() {
    let agent = Agent::new(false);
    let host = &agent.host;
    host.plan(|plan| plan.hold_close = true);
    drop(Program::start(&agent.path));
    host.expect("held 1", 1);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(host.count("gave"), 0);
    host.plan(|plan| plan.hold_close = false);
    host.expect("gave", 2);
    let log = host.log();
    let at = |line: &str| log.iter().position(|entry| entry == line).unwrap();
    assert!(at("close 1") < at("gave 2") && at("close 1") < at("gave 3"));
}

#[test]
fn a_program_that_leaves_while_its_channel_is_opened_leaves_nothing() {
    let agent = Agent::new(false);
    let host = &agent.host;
    host.plan(|plan| plan.hold_open = true);
    let socket = Socket::connect(&agent.path, WAIT).unwrap();
    socket.send(hello().as_bytes(), &[]).unwrap();
    host.expect("held 1", 1);
    drop(socket);
    // The close overtakes the open; it must not be the last word.
    host.expect("close 1", 1);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(host.count("gave"), 0);
    host.plan(|plan| plan.hold_open = false);
    host.expect("open 1", 1);
    host.expect("close 1", 2);
    host.expect("gave", 2);
}

#[test]
fn a_channel_that_the_host_ends_is_over_for_its_program() {
    let agent = Agent::new(false);
    let program = Program::start(&agent.path);
    agent.host.notice(NOTICE_ENDED, 1);
    program.expect_end();
    program.expect_wake();
    agent.host.expect("close 1", 1);
    agent.host.expect("gave", 2);
    Program::start(&agent.path);
}

#[test]
fn limits_hold_per_user_and_in_all() {
    let agent = Agent::new(false);
    let programs: Vec<Program> = (0..4).map(|_| Program::start(&agent.path)).collect();
    let (_, welcome, fds) = greet(&agent.path).unwrap();
    assert_eq!(welcome.status, LinkStatus::Busy as u32);
    assert!(fds.is_empty());
    drop(programs);
    agent.host.expect("gave", 8);
    Program::start(&agent.path);

    // The mapper's own limit, whatever the parser thinks.
    let agent = Agent::with(
        false,
        Limits {
            channels: 2,
            ..MAPPER
        },
        10,
        u64::MAX,
    );
    let _programs: Vec<Program> = (0..2).map(|_| Program::start(&agent.path)).collect();
    let (_, welcome, _) = greet(&agent.path).unwrap();
    assert_eq!(welcome.status, LinkStatus::Busy as u32);
}

#[test]
fn no_pages_is_no_memory() {
    let agent = Agent::with(false, MAPPER, 4, HEAP);
    let program = Program::start(&agent.path);
    for bytes in [4 * PAGE, 0, 1, PAGE + 1, u64::MAX, 1 << 40] {
        let (response, fds) = program.grow(1, bytes);
        assert_eq!(response.status, LinkStatus::NoMemory as u32, "{bytes}");
        assert!(fds.is_empty());
    }
    assert_eq!(program.grow(2, PAGE).0.status, 0);

    let agent = Agent::with(false, MAPPER, 4, PAGE);
    let (_, welcome, _) = greet(&agent.path).unwrap();
    assert_eq!(welcome.status, LinkStatus::NoMemory as u32);
    // What was taken before there was no more is given back; the host was never told.
    agent.host.expect("gave 2", 1);
    assert_eq!(agent.host.count("open"), 0);
}

#[test]
fn what_the_host_refuses_is_refused_and_closed() {
    let agent = Agent::new(false);
    let host = &agent.host;
    host.plan(|plan| plan.refuse_open = Some(LinkStatus::NoDevice));
    let (_, welcome, fds) = greet(&agent.path).unwrap();
    assert_eq!(welcome.status, LinkStatus::NoDevice as u32);
    assert!(fds.is_empty());
    host.expect("close 1", 1);
    host.expect("gave", 2);
    host.plan(|plan| {
        plan.refuse_open = None;
        plan.refuse_grow = Some(LinkStatus::Denied);
    });
    let program = Program::start(&agent.path);
    let (response, fds) = program.grow(3, PAGE);
    assert_eq!(
        (response.id, response.status),
        (3, LinkStatus::NoMemory as u32)
    );
    assert!(fds.is_empty());
    assert_eq!(host.count("gave"), 2, "until the channel is closed");
    drop(program);
    host.expect("gave", 5);
}

#[test]
fn bad_clients_are_disconnected() {
    let agent = Agent::new(false);
    // One that says nothing.
    let silent = Socket::connect(&agent.path, WAIT).unwrap();
    let since = Instant::now();
    // One that sends a descriptor.
    let sender = Socket::connect(&agent.path, WAIT).unwrap();
    sender
        .send(hello().as_bytes(), &[std::io::stderr().as_fd()])
        .unwrap();
    let got = sender.receive_plain::<64>(WAIT);
    assert!(matches!(got, Err(LinkError::Closed)), "{got:?}");
    // One that sends nonsense is told so.
    let other = Socket::connect(&agent.path, WAIT).unwrap();
    other.send(&[1, 2, 3], &[]).unwrap();
    let bytes = other.receive_plain::<64>(WAIT).unwrap();
    assert_eq!(bytes[8], LinkStatus::Malformed as u8);
    // A good one that turns bad.
    for fds in [&[std::io::stderr().as_fd()][..], &[]] {
        let program = Program::start(&agent.path);
        let message = if fds.is_empty() {
            [9; 16]
        } else {
            let mut request = [0; 16];
            request[..4].copy_from_slice(b"grow");
            request
        };
        program.socket.send(&message, fds).unwrap();
        program.expect_end();
    }
    agent.host.expect("close", 2);
    let got = silent.receive_plain::<64>(WAIT);
    assert!(matches!(got, Err(LinkError::Closed)), "{got:?}");
    assert!(since.elapsed() >= Duration::from_secs(2));
}

#[test]
fn a_device_that_fails_ends_channels_and_serves_the_next_program() {
    let agent = Agent::new(false);
    let host = &agent.host;
    let program = Program::start(&agent.path);
    host.plan(|plan| plan.away = true);
    host.fail();
    program.expect_end();
    // While nothing answers there, programs are told at once that there is no device.
    let since = Instant::now();
    let (_, welcome, _) = greet(&agent.path).unwrap();
    assert_eq!(welcome.status, LinkStatus::NoDevice as u32);
    assert!(since.elapsed() < Duration::from_secs(2));
    assert_eq!(host.count("gave"), 0, "nobody said that it let go");
    host.plan(|plan| plan.away = false);
    let next = Program::start(&agent.path);
    check_marks(&next.heap, 2);
    host.expect("gave", 2);
    let log = host.log();
    let hellos: Vec<&String> = log.iter().filter(|l| l.starts_with("hello")).collect();
    assert_eq!(hellos.len(), 2);
    assert_ne!(hellos[0], hellos[1], "another session each time");
    let second = log.iter().rposition(|l| l.starts_with("hello")).unwrap();
    assert!(log.iter().position(|l| l.starts_with("gave")).unwrap() > second);
}

#[test]
fn a_device_that_failed_unseen_is_mended_for_the_next_program() {
    let agent = Agent::new(false);
    // Nobody is connected, so nobody looks.
    agent.host.fail();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(agent.host.count("hello"), 1);
    Program::start(&agent.path);
    assert_eq!(agent.host.count("hello"), 2);
}

#[test]
fn a_gone_device_ends_the_mapper() {
    let host = Host::default();
    let mut mapper = Mapper::start(&host, true, MAPPER, u64::MAX);
    let socket = Socket::from_fd(mapper.give_parser());
    host.expect("settled", 1);
    let (bytes, _) = socket
        .receive_with_fds::<{ size_of::<ToParser>() }>(WAIT)
        .unwrap();
    assert_eq!(ToParser::read_from_bytes(&bytes).unwrap().kind, HERE);
    host.remove();
    socket.send(open(1).as_bytes(), &[]).unwrap();
    let error = mapper.stop().unwrap_err();
    assert!(error.to_string().contains("gone"), "{error}");
}

#[test]
fn a_host_that_refuses_at_the_start_is_an_error_in_one_sentence() {
    for (refusal, version, words) in [
        (Some(LinkStatus::Denied), None, "refuses"),
        (Some(LinkStatus::Version), None, "same release"),
        (None, Some(MAJOR_OF_ANOTHER), "same release"),
    ] {
        let host = Host::default();
        host.plan(|plan| {
            plan.refuse_hello = refusal;
            plan.version = version;
        });
        let mut mapper = Mapper::start(&host, false, MAPPER, u64::MAX);
        let thread = mapper.thread.take().unwrap();
        let error = thread.join().unwrap().unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

const MAJOR_OF_ANOTHER: u16 = 77;

fn open(token: u64) -> ToMapper {
    let mut message = ToMapper::new_zeroed();
    message.kind = OPEN;
    message.channel = token;
    message.hello = hello();
    message
}

fn next(socket: &Socket) -> (ToParser, Vec<OwnedFd>) {
    let (bytes, fds) = socket
        .receive_with_fds::<{ size_of::<ToParser>() }>(WAIT)
        .unwrap();
    (ToParser::read_from_bytes(&bytes).unwrap(), fds)
}

#[test]
fn a_parser_that_dies_or_misbehaves_takes_its_channels_only() {
    let host = Host::default();
    let mapper = Mapper::start(&host, false, MAPPER, u64::MAX);
    let first = Socket::from_fd(mapper.give_parser());
    assert_eq!(next(&first).0.kind, HERE);
    for token in [5, 6] {
        first.send(open(token).as_bytes(), &[]).unwrap();
    }
    for token in [5, 6] {
        let (message, fds) = next(&first);
        assert_eq!((message.kind, message.channel), (OPENED, token));
        assert_eq!(fds.len(), 4);
    }
    // It dies.
    drop(first);
    host.expect("close", 2);
    host.expect("gave", 4);
    // The next one counts from the beginning again, and may close what is not there.
    let second = Socket::from_fd(mapper.give_parser());
    assert_eq!(next(&second).0.kind, HERE);
    second.send(open(5).as_bytes(), &[]).unwrap();
    assert_eq!(next(&second).0.kind, OPENED);
    let mut close = open(99);
    close.kind = CLOSE;
    second.send(close.as_bytes(), &[]).unwrap();
    // The host ends one: told once.
    host.notice(NOTICE_ENDED, 3);
    let (message, _) = next(&second);
    assert_eq!((message.kind, message.channel), (ENDED, 5));
    host.expect("close 3", 1);
    // It sends a hello that no parser lets through.
    let mut bad = open(6);
    bad.hello.magic = 1;
    second.send(bad.as_bytes(), &[]).unwrap();
    let (message, fds) = next(&second);
    assert_eq!(message.status, LinkStatus::Malformed as u32);
    assert!(fds.is_empty());
    // The same number twice, two growths at once, an unknown kind, a descriptor: it is dropped.
    let twice = |socket: &Socket| {
        for _ in 0..2 {
            socket.send(open(1).as_bytes(), &[]).unwrap();
        }
    };
    let growths = |socket: &Socket| {
        socket.send(open(1).as_bytes(), &[]).unwrap();
        assert_eq!(next(socket).0.kind, OPENED);
        let mut grow = open(1);
        (grow.kind, grow.bytes) = (GROW, PAGE);
        for _ in 0..2 {
            socket.send(grow.as_bytes(), &[]).unwrap();
        }
    };
    let unknown = |socket: &Socket| {
        let mut message = open(1);
        message.kind = 77;
        socket.send(message.as_bytes(), &[]).unwrap();
    };
    let descriptor = |socket: &Socket| {
        socket
            .send(open(1).as_bytes(), &[std::io::stderr().as_fd()])
            .unwrap();
    };
    drop(second);
    for misdeed in [&twice as &dyn Fn(&Socket), &growths, &unknown, &descriptor] {
        let parser = Socket::from_fd(mapper.give_parser());
        assert_eq!(next(&parser).0.kind, HERE);
        misdeed(&parser);
        while parser
            .receive_with_fds::<{ size_of::<ToParser>() }>(WAIT)
            .is_ok()
        {}
        assert!(parser.is_gone());
    }
    // All pages but the queues' come back.
    let deadline = Instant::now() + WAIT;
    while host.count("took") != host.count("gave") + 1 {
        assert!(Instant::now() < deadline, "{:?}", host.log());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_mapper_without_a_keeper_resets_the_device_and_ends() {
    let host = Host::default();
    let mut mapper = Mapper::start(&host, false, MAPPER, u64::MAX);
    host.expect("settled", 1);
    let (unconnected, _) = Socket::pair().unwrap();
    drop(std::mem::replace(&mut mapper.keeper, unconnected));
    let thread = mapper.thread.take().unwrap();
    thread.join().unwrap().unwrap();
    assert_eq!(host.log().last().map(String::as_str), Some("reset"));
}

#[test]
fn a_question_is_passed_on_and_takes_no_channel() {
    let agent = Agent::new(true);
    let query = Query::new(2, 7, 0);
    let answer = ask(&agent.path, &query, WAIT).unwrap();
    assert_eq!(answer.kind, 2);
    // The host was told who asks, whatever the program said.
    let [user, process] = [0, 4].map(|at| {
        let bytes = answer.body[at..at + 4].try_into().unwrap();
        u32::from_le_bytes(bytes)
    });
    assert_eq!(user, rustix::process::geteuid().as_raw());
    assert_eq!(process, std::process::id());
    assert_eq!(agent.host.count("open"), 0);
    // A host that does not know what a question is.
    agent.host.plan(|plan| plan.no_questions = true);
    match ask(&agent.path, &query, WAIT) {
        Err(LinkError::Refused(LinkStatus::Malformed)) => {}
        other => panic!("{other:?}"),
    }
    // Many at once: each gets an answer or is told to come later, and channels are opened meanwhile.
    agent.host.plan(|plan| plan.no_questions = false);
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let path = agent.path.clone();
            std::thread::spawn(move || {
                for _ in 0..20 {
                    ask(&path, &Query::new(2, 0, 0), WAIT).unwrap();
                }
            })
        })
        .collect();
    let program = Program::start(&agent.path);
    check_marks(&program.control, 1);
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn questions_that_wait_keep_no_program_out() {
    let agent = Agent::new(false);
    agent.host.plan(|plan| plan.hold_questions = true);
    // More than a user may have channels.
    let asking: Vec<_> = (0..6)
        .map(|_| {
            let path = agent.path.clone();
            std::thread::spawn(move || ask(&path, &Query::new(2, 0, 0), WAIT))
        })
        .collect();
    agent.host.expect("asked", 6);
    let program = Program::start(&agent.path);
    check_marks(&program.control, 1);
    agent.host.fail();
    for thread in asking {
        assert!(thread.join().unwrap().is_err());
    }
}

#[test]
fn questions_of_a_lost_session_are_answered() {
    let agent = Agent::new(false);
    agent.host.plan(|plan| plan.hold_questions = true);
    let path = agent.path.clone();
    let asking = std::thread::spawn(move || ask(&path, &Query::new(2, 0, 0), WAIT));
    agent.host.expect("asked", 1);
    agent.host.fail();
    match asking.join().unwrap() {
        Err(LinkError::Refused(LinkStatus::NoDevice)) => {}
        other => panic!("{other:?}"),
    }
}
