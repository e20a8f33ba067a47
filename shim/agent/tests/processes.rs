//! The three processes as they are, with a host in memory in place of the device: what a crash of each leaves behind.
//!
//! This program is all of them: the keeper starts it again with another argument, as `vgpu agent` does.

mod common;

use common::*;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use vgpu_agent::keeper::{Keeper, Programs};
use vgpu_agent::mapper::{Limits, error_text, start};
use vgpu_agent::messages::{DROP, INHERIT, KEEP, KEPT, NOT_PINNED, REFUSED, SETTLED, Word};
use vgpu_agent::options::{Access, LogLevel};
use vgpu_agent::pages::{HugePagePool, PageError, PageSource, Taken};
use vgpu_agent::store::{Store, Stored};
use vgpu_agent::{ParserOptions, parser, process, serve};
use vgpu_channel::link::{LinkError, LinkStatus, Listener, Socket};
use vgpu_channel::segment::{HugePages, SegmentFd};
use zerocopy::{FromBytes, IntoBytes};

/// Whether the pool has pages enough for the tests.
fn huge_pages() -> bool {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let free = text
        .lines()
        .find_map(|line| line.strip_prefix("HugePages_Free:"))
        .and_then(|rest| rest.trim().parse::<u64>().ok());
    rustix::process::geteuid().is_root() && free.is_some_and(|free| free >= 24)
}

/// The real pages where there are some, else ordinary ones; kept by the keeper in either case.
struct Pages {
    host: Host,
    /// While this file is there, the pool is empty.
    empty: PathBuf,
    kind: Kind,
}

enum Kind {
    Real(HugePagePool),
    Ordinary(Ordinary),
}

struct Ordinary {
    keeper: Socket,
    next: u64,
}

impl Ordinary {
    /// Has the keeper keep or hand over a segment.
    fn ask(&mut self, kind: u32, len: u64, segment: Option<SegmentFd>) -> Option<Taken> {
        self.next += 1;
        let id = u64::from(std::process::id()) << 16 | self.next;
        let word = Word::about(kind, id, len);
        let fds: Vec<_> = segment.iter().map(|segment| segment.as_fd()).collect();
        self.keeper.send(word.as_bytes(), &fds).unwrap();
        let (bytes, mut fds) = self.keeper.receive_with_fds::<24>(WAIT).unwrap();
        let answer = Word::read_from_bytes(&bytes).unwrap();
        if answer.kind == REFUSED {
            return None;
        }
        assert!(answer.kind == KEPT || answer.kind == NOT_PINNED);
        let handed = fds.pop().map(|fd| SegmentFd::receive(fd, len).unwrap());
        Some(placed(id, segment.or(handed).unwrap()))
    }
}

impl PageSource for Pages {
    fn take(&mut self, len: u64) -> Result<Taken, PageError> {
        if self.empty.exists() {
            return Err(PageError::Pool(len));
        }
        let taken = match &mut self.kind {
            Kind::Real(pool) => pool.take(len)?,
            Kind::Ordinary(pages) => {
                let segment = SegmentFd::create(len, HugePages::Never).unwrap();
                pages.ask(KEEP, len, Some(segment)).unwrap()
            }
        };
        self.host.learn(&taken);
        self.host.note("took");
        Ok(taken)
    }

    fn inherit(&mut self, len: u64) -> Result<Option<Taken>, PageError> {
        let taken = match &mut self.kind {
            Kind::Real(pool) => pool.inherit(len)?,
            Kind::Ordinary(pages) => pages.ask(INHERIT, len, None),
        };
        if let Some(taken) = &taken {
            self.host.learn(taken);
            self.host.note("inherited");
        }
        Ok(taken)
    }

    fn give_back(&mut self, taken: Taken) {
        self.host.forget(&taken);
        self.host.note("gave");
        match &mut self.kind {
            Kind::Real(pool) => pool.give_back(taken),
            Kind::Ordinary(pages) => {
                let word = Word::about(DROP, taken.id, 0);
                pages.keeper.send(word.as_bytes(), &[]).unwrap();
            }
        }
    }

    fn settled(&mut self) {
        self.host.note("settled");
        match &mut self.kind {
            Kind::Real(pool) => pool.settled(),
            Kind::Ordinary(pages) => {
                let word = Word::new(SETTLED);
                pages.keeper.send(word.as_bytes(), &[]).unwrap();
            }
        }
    }
}

fn mapper(log: &Path, refuse: bool) -> Result<(), String> {
    let (keeper, pages) = start::begin()?;
    let host = Host::logging_to(log);
    host.note(format!("mapper {}", std::process::id()));
    if refuse {
        host.plan(|plan| plan.refuse_hello = Some(LinkStatus::Denied));
    }
    if fs::exists(log.with_extension("away")).unwrap() {
        return Err("told to fail".to_owned());
    }
    let source = Pages {
        host: host.clone(),
        empty: log.with_extension("empty"),
        kind: if huge_pages() {
            let pool = HugePagePool::new(pages, None);
            Kind::Real(pool.map_err(|error| error_text(&error))?)
        } else {
            Kind::Ordinary(Ordinary {
                keeper: pages,
                next: 0,
            })
        },
    };
    let limits = Limits {
        heap: HEAP,
        channels: 8,
        per_user: 32,
    };
    start::serve(FakeDevice::new(&host, false), source, keeper, limits)
        .map_err(|error| error_text(&error))
}

fn keeper(folder: &Path, refuse: bool, stored: (Store, Vec<Stored>)) -> Result<(), String> {
    let signals = serve::catch_signals().unwrap();
    let listener = Listener::bind(&folder.join("vgpu.sock")).unwrap();
    let log = OsString::from(folder.join("log"));
    let programs = Programs {
        program: PathBuf::from("/proc/self/exe"),
        mapper: vec!["mapper".into(), log.clone(), refuse.to_string().into()],
        reset: vec!["reset".into(), log.clone()],
        parser: vec!["parser".into(), log],
    };
    Keeper::new(programs, listener, signals)
        .with_store(stored.0, stored.1)
        .run()
}

fn parser(log: &Path) -> Result<(), String> {
    // Before it loses its rights.
    Host::logging_to(log).note(format!("parser {}", std::process::id()));
    parser::run(&ParserOptions {
        user: 65534,
        limits: vgpu_agent::options::Limits {
            heap: HEAP,
            max_clients: 16,
            max_clients_per_user: 16,
            device: None,
            access: Access::Auto,
            log_level: LogLevel::Info,
        },
    })
}

/// A running agent.
struct Agent {
    child: Option<Child>,
    folder: tempfile::TempDir,
}

impl Agent {
    fn start(refuse: bool) -> Agent {
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new("/proc/self/exe")
            .arg("keeper")
            .arg(folder.path())
            .arg(refuse.to_string())
            .stderr(fs::File::create(folder.path().join("stderr")).unwrap())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Agent {
            child: Some(child),
            folder,
        }
    }

    fn ready() -> Agent {
        let agent = Agent::start(false);
        agent.expect("settled", 1);
        agent.expect("parser", 1);
        agent.program().expect("a first program");
        agent
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("vgpu.sock")
    }

    /// A file that changes what the mapper does while it is there.
    fn switch(&self, name: &str) -> PathBuf {
        self.folder.path().join("log").with_extension(name)
    }

    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).unwrap()
    }

    fn count(&self, start: &str) -> usize {
        let log = self.log();
        log.iter().filter(|line| line.starts_with(start)).count()
    }

    fn expect(&self, start: &str, count: usize) {
        self.wait(&format!("{count} × {start}"), || {
            self.count(start) >= count
        });
    }

    fn wait(&self, what: &str, mut test: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !test() {
            assert!(
                Instant::now() < deadline,
                "{what}: {:?}\n{}",
                self.log(),
                self.stderr()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The number of the last process of a kind.
    fn process(&self, kind: &str) -> Pid {
        let log = self.log();
        let number = log
            .iter()
            .rev()
            .find_map(|line| line.strip_prefix(kind)?.trim().parse().ok())
            .unwrap();
        Pid::from_raw(number).unwrap()
    }

    /// A program, tried again while there is no device.
    fn program(&self) -> Option<Program> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            match greet(&self.path()) {
                Ok((socket, welcome, fds)) if welcome.status == 0 => {
                    return Some(Program::welcomed(socket, welcome, fds));
                }
                Ok((_, welcome, _)) => {
                    assert_eq!(welcome.status, LinkStatus::NoDevice as u32);
                }
                Err(LinkError::Closed) => {}
                Err(error) => panic!("{error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// Memory files that the keeper holds.
    fn kept(&self) -> usize {
        let id = self.child.as_ref().unwrap().id();
        fs::read_dir(format!("/proc/{id}/fd"))
            .unwrap()
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .filter(|target| target.to_string_lossy().contains("vgpu-segment"))
            .count()
    }

    fn end(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let pid = Pid::from_raw(child.id() as i32).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        child.wait().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn ends_in_order() {
    let mut agent = Agent::ready();
    let program = agent.program().unwrap();
    check_marks(&program.heap, 2);
    let (response, _) = program.grow(1, 4 * PAGE);
    assert_eq!(response.status, 0);
    // One page for the queues, and three segments of the program that lives.
    agent.wait("kept", || agent.kept() == 4);
    let status = agent.end();
    assert!(status.success(), "{}", agent.stderr());
    program.expect_end();
    // Pages of the first program may still be on their way back.
    let log = agent.log();
    let last = log.iter().rfind(|line| !line.starts_with("gave"));
    assert_eq!(last.map(String::as_str), Some("reset"));
    assert!(!agent.path().exists());
}

fn the_parser_has_no_privilege() {
    let agent = Agent::ready();
    let id = agent.process("parser").as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.unwrap()[name.len()..].trim().to_owned()
    };
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("CapPrm:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "1");
    if rustix::process::geteuid().is_root() {
        assert_eq!(field("CapBnd:"), "0000000000000000");
        assert_eq!(field("Uid:"), "65534\t65534\t65534\t65534");
        assert_eq!(field("Gid:"), "65534\t65534\t65534\t65534");
        assert_eq!(field("Groups:"), "");
        // Nothing but sockets, and of a channel nothing at all.
        let program = agent.program().unwrap();
        let allowed = ["socket:", "/dev/null", "pidfd", "pipe:"];
        // It closes what it has just passed on a moment after the program has it.
        agent.wait("nothing but sockets in the parser", || {
            fs::read_dir(format!("/proc/{id}/fd"))
                .unwrap()
                .flatten()
                .all(|entry| {
                    let target = fs::read_link(entry.path()).unwrap_or_default();
                    let target = target.to_string_lossy().into_owned();
                    entry.file_name() == "2" || allowed.iter().any(|kind| target.contains(kind))
                })
        });
        drop(program);
    }
}

fn a_parser_that_crashes_takes_its_programs_only() {
    let agent = Agent::ready();
    let program = agent.program().unwrap();
    let (opens, mapper) = (agent.count("open"), agent.process("mapper"));
    kill_process(agent.process("parser"), Signal::KILL).unwrap();
    program.expect_end();
    agent.expect("close", opens);
    let next = agent.program().unwrap();
    next.doorbell.signal();
    agent.expect("ring", 1);
    assert_eq!(agent.process("mapper"), mapper);
    assert_eq!(agent.count("hello"), 1);
    assert_eq!(agent.count("parser"), 2);
}

fn a_mapper_that_crashes_frees_no_page() {
    let agent = Agent::ready();
    let program = agent.program().unwrap();
    agent.wait("the first program's pages dropped", || agent.kept() == 3);
    // The next mapper fails at first, so that there is none for a while.
    let away = agent.switch("away");
    fs::write(&away, "").unwrap();
    kill_process(agent.process("mapper"), Signal::KILL).unwrap();
    program.expect_end();
    agent.expect("mapper", 3);
    assert_eq!(agent.kept(), 3, "without a mapper");
    // Programs are told at once that there is no device.
    agent.wait("an answer", || {
        matches!(greet(&agent.path()), Ok((_, welcome, _)) if welcome.status == LinkStatus::NoDevice as u32)
    });
    fs::remove_file(&away).unwrap();
    agent.expect("hello", 2);
    let next = agent.program().unwrap();
    check_marks(&next.control, 1);
    // Only the new one's: queues, control, heap.
    agent.wait("old pages dropped", || agent.kept() == 3);
    let log = agent.log();
    let at = |what: &str| log.iter().rposition(|line| line.starts_with(what)).unwrap();
    assert!(at("reset") < at("hello") && at("hello") < at("settled"));
}

fn a_mapper_that_crashes_while_the_pool_is_empty_is_replaced() {
    let agent = Agent::ready();
    let program = agent.program().unwrap();
    agent.wait("the first program's pages dropped", || agent.kept() == 3);
    let took = agent.count("took");
    fs::write(agent.switch("empty"), "").unwrap();
    // Twice: what was taken over can be taken over again.
    for crash in 1..3 {
        kill_process(agent.process("mapper"), Signal::KILL).unwrap();
        agent.expect("settled", 1 + crash);
        assert_eq!(agent.count("inherited"), crash);
        agent.wait("old pages dropped", || agent.kept() == 1);
    }
    program.expect_end();
    assert_eq!(agent.count("took"), took);
    fs::remove_file(agent.switch("empty")).unwrap();
    // Who came meanwhile was told that there is no memory.
    assert!(agent.program().is_some());
}

fn without_a_mapper_the_end_resets_the_device() {
    let mut agent = Agent::ready();
    let _program = agent.program().unwrap();
    let away = agent.switch("away");
    fs::write(&away, "").unwrap();
    kill_process(agent.process("mapper"), Signal::KILL).unwrap();
    agent.expect("mapper", 5);
    assert!(agent.end().success());
    assert_eq!(agent.log().last().map(String::as_str), Some("reset only"));
}

fn a_refused_agent_says_why_and_ends() {
    let mut agent = Agent::start(true);
    let status = agent.child.take().unwrap().wait().unwrap();
    assert!(!status.success());
    let stderr = agent.stderr();
    assert!(stderr.contains("refuses a session"), "{stderr}");
    assert!(!agent.path().exists());
}

/// With a service manager that holds memory files of an agent that was killed: a program's and the queues'.
fn the_service_managers_files_stay_until_the_host_lets_go() {
    use std::os::unix::net::UnixDatagram;
    let folder = tempfile::tempdir().unwrap();
    let notify = folder.path().join("notify");
    let manager = UnixDatagram::bind(&notify).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let old = [fake_segment(1, PAGE).segment, fake_segment(2, PAGE).segment];
    let [program, queues] = old.map(|old| Stdio::from(old.as_fd().try_clone_to_owned().unwrap()));
    let script = "LISTEN_PID=$$ exec \"$0\" keeper \"$1\" false 3<&0 4<&1 0</dev/null 1<&0";
    let child = Command::new("/bin/sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(folder.path())
        .env("LISTEN_FDS", "2")
        .env("LISTEN_FDNAMES", "vgpu-segment-77:vgpu-segment-queues-78")
        .env("NOTIFY_SOCKET", &notify)
        .stdin(program)
        .stdout(queues)
        .stderr(fs::File::create(folder.path().join("stderr")).unwrap())
        .spawn()
        .unwrap();
    let mut agent = Agent {
        child: Some(child),
        folder,
    };
    let mut heard = Vec::new();
    let is_heard = |heard: &[String], what: &str| heard.iter().any(|line| line.ends_with(what));
    while !(is_heard(&heard, "-77") && is_heard(&heard, "READY=1")) {
        let mut bytes = [0; 200];
        let len = manager.recv(&mut bytes).unwrap();
        heard.push(String::from_utf8(bytes[..len].to_vec()).unwrap());
    }
    // The queues' page is taken over; the program's file is let go once there is a session.
    heard.sort();
    assert_eq!(
        heard,
        ["FDSTOREREMOVE=1\nFDNAME=vgpu-segment-77", "READY=1"]
    );
    assert!(agent.count("hello") == 1 && agent.count("settled") == 1);
    assert!(agent.count("inherited") == 1 && agent.count("took") == 0);
    assert!(agent.stderr().contains("2 segments of an earlier agent"));
    agent.wait("old file dropped", || agent.kept() == 1);
    assert!(agent.end().success());
}

const TESTS: &[(&str, fn())] = &[
    (
        "the_service_managers_files_stay_until_the_host_lets_go",
        the_service_managers_files_stay_until_the_host_lets_go,
    ),
    ("ends_in_order", ends_in_order),
    ("the_parser_has_no_privilege", the_parser_has_no_privilege),
    (
        "a_parser_that_crashes_takes_its_programs_only",
        a_parser_that_crashes_takes_its_programs_only,
    ),
    (
        "a_mapper_that_crashes_frees_no_page",
        a_mapper_that_crashes_frees_no_page,
    ),
    (
        "a_mapper_that_crashes_while_the_pool_is_empty_is_replaced",
        a_mapper_that_crashes_while_the_pool_is_empty_is_replaced,
    ),
    (
        "without_a_mapper_the_end_resets_the_device",
        without_a_mapper_the_end_resets_the_device,
    ),
    (
        "a_refused_agent_says_why_and_ends",
        a_refused_agent_says_why_and_ends,
    ),
];

fn exit(outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let stored = Store::open();
    if matches!(
        arguments.first(),
        Some(&("keeper" | "mapper" | "parser" | "reset"))
    ) {
        process::start_log(LogLevel::Info);
    }
    match arguments.as_slice() {
        ["keeper", folder, refuse] => {
            return exit(keeper(Path::new(folder), *refuse == "true", stored));
        }
        ["mapper", log, refuse] => return exit(mapper(Path::new(log), *refuse == "true")),
        ["parser", log] => return exit(parser(Path::new(log))),
        ["reset", log] => {
            Host::logging_to(Path::new(log)).note("reset only");
            return ExitCode::SUCCESS;
        }
        ["--list", ..] => {
            for (name, _) in TESTS {
                println!("{name}: test");
            }
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    if !huge_pages() {
        println!(
            "no 24 free huge pages, or not root: with ordinary pages (`sysctl vm.nr_hugepages=64`)"
        );
    }
    let (mut passed, mut failed, mut left) = (0, 0, 0);
    for (name, test) in TESTS {
        if filter.is_some_and(|filter| !name.contains(filter)) {
            left += 1;
            continue;
        }
        let outcome = std::panic::catch_unwind(test);
        println!(
            "test {name} ... {}",
            if outcome.is_ok() { "ok" } else { "FAILED" }
        );
        match outcome {
            Ok(()) => passed += 1,
            Err(_) => failed += 1,
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {left} filtered out"
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
