//! A CUDA program in Rust for the tests that kill, starve or watch a client. It finds `libcuda.so.1` as any program
//! does, through the loader, and needs neither NVIDIA's compiler nor its libraries: its kernel is PTX text.
//!
//! `e2e-client MODE` works until its standard input closes, for one round at least. It prints `ready` after its first verified round, and ends
//! with one line: `done ROUNDS` (status 0), `error CODE CALL` for a CUDA error (status 3), or `mismatch ...` (status 4).
//!
//! | mode | does |
//! |---|---|
//! | `launch` | posts launches on two streams, with events between them |
//! | `copy` | pageable and pinned copies both ways |
//! | `allocate` | allocations, streams, events and modules come and go |
//! | `callback` | host functions hold up a stream |
//! | `idle` | one round, then nothing |
//! | `once` | one round of `launch`, then it ends by itself |
//! | `rounds` | ten rounds of each of the first four, then it ends by itself |
//! | `backlog` | posts slow kernels and copies to pinned memory without end: `ready` when half a minute of them is under way |
//! | `scribble` | writes random bytes over all memory shared with the host, beside launches; says `scribbled BYTES` |
//! | `init` | only `cuInit`: prints `init CODE` and ends |
//! | `secure` | only prints `secure 1` if the system calls it privileged (`AT_SECURE`), else `secure 0` |
//!
//! A second argument names the library by its path, for programs whose loader is not told where it is; a third one says
//! for how many seconds `scribble` goes on, 5 where it is missing.

mod backlog;
mod cuda;
mod scribble;
mod work;

use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use work::{Stop, Worker};

fn main() -> ExitCode {
    let mode = std::env::args().nth(1).unwrap_or_default();
    if mode == "secure" {
        // SAFETY: takes a number and has no preconditions.
        say(&format!("secure {}", unsafe {
            libc::getauxval(libc::AT_SECURE)
        }));
        return ExitCode::SUCCESS;
    }
    let library = std::env::args().nth(2);
    let cuda = match cuda::Cuda::load(library.as_deref().unwrap_or("libcuda.so.1")) {
        Ok(cuda) => cuda,
        Err(error) => {
            eprintln!("e2e-client: {error}");
            return ExitCode::from(2);
        }
    };
    if mode == "init" {
        say(&format!("init {}", cuda.init()));
        return ExitCode::SUCCESS;
    }
    if mode == "scribble" {
        let seconds = std::env::args().nth(3).and_then(|text| text.parse().ok());
        scribble::run(&cuda, Duration::from_secs(seconds.unwrap_or(5)));
    }
    match work(&cuda, &mode) {
        Ok(rounds) => {
            say(&format!("done {rounds}"));
            ExitCode::SUCCESS
        }
        Err(Stop::Cuda(code, call)) => {
            say(&format!("error {code} {call}"));
            ExitCode::from(3)
        }
        Err(Stop::Mismatch(what)) => {
            say(&format!("mismatch {what}"));
            ExitCode::from(4)
        }
    }
}

fn work(cuda: &cuda::Cuda, mode: &str) -> Result<u64, Stop> {
    if mode == "backlog" {
        return backlog::run(cuda).map(|()| 0);
    }
    if let "once" | "rounds" = mode {
        return few(cuda, mode);
    }
    let closed = watch_input();
    let mut worker = Worker::new(cuda)?;
    let mut rounds = 0;
    while rounds == 0 || !closed.load(Ordering::Relaxed) {
        if mode == "idle" && rounds > 0 {
            std::thread::park_timeout(Duration::from_secs(3600));
            continue;
        }
        worker.round(mode)?;
        rounds += 1;
        if rounds == 1 {
            say("ready");
        }
    }
    Ok(rounds)
}

/// A number of rounds that does not depend on anybody.
fn few(cuda: &cuda::Cuda, mode: &str) -> Result<u64, Stop> {
    let mut worker = Worker::new(cuda)?;
    if mode == "once" {
        return worker.round("launch").map(|()| 1);
    }
    let mut rounds = 0;
    for _ in 0..10 {
        for mode in ["launch", "copy", "allocate", "callback"] {
            worker.round(mode)?;
            rounds += 1;
        }
    }
    Ok(rounds)
}

/// A flag that turns true when standard input ends.
fn watch_input() -> Arc<AtomicBool> {
    let closed = Arc::new(AtomicBool::new(false));
    let (flag, main) = (Arc::clone(&closed), std::thread::current());
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        // An unreadable input is as good as a closed one.
        let _ = std::io::stdin().read_to_end(&mut rest);
        flag.store(true, Ordering::Relaxed);
        main.unpark();
    });
    closed
}

fn say(line: &str) {
    let mut stdout = std::io::stdout();
    // The reader may be gone already; there is nobody left to tell.
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}
