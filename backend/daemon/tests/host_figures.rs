//! `--nvml=host`: what the host's management library says reaches clients who ask, only where the operator says so, and a
//! library that hangs, dies or lacks functions harms nobody. The library is one of the test's own.

mod common;

use common::Daemon;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use vgpu_channel::link::Query;
use vgpu_channel::link::query::ask;
use vgpu_protocol::facts::{
    DeviceFacts, HostFigures, QUERY_DEVICE, QUERY_FIGURES, QUERY_SYSTEM, SystemFacts, UNKNOWN,
};
use zerocopy::FromBytes;

const WAIT: Duration = Duration::from_secs(30);

/// What every stand-in has: one device, whatever UUID it is asked for.
const BEGINNING: &str = r#"
#include <stdlib.h>
#include <unistd.h>
typedef void *device;
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return "text"; }
int nvmlDeviceGetHandleByUUID(const char *uuid, device *found) { *found = (void *)1; return 0; }
"#;

/// A good one's figures.
const FIGURES: &str = r"
struct rates { unsigned gpu, memory; };
int nvmlDeviceGetUtilizationRates(device d, struct rates *rates) { rates->gpu = 37; rates->memory = 12; return 0; }
int nvmlDeviceGetTemperature(device d, int sensor, unsigned *to) { *to = 41; return sensor; }
int nvmlDeviceGetTemperatureThreshold(device d, int which, unsigned *to) { *to = 90 + which; return which < 2 ? 0 : 3; }
int nvmlDeviceGetPowerUsage(device d, unsigned *to) { *to = 123456; return 0; }
int nvmlDeviceGetPowerManagementLimitConstraints(device d, unsigned *low, unsigned *high) { *low = 1; *high = 2; return 0; }
int nvmlDeviceGetTotalEnergyConsumption(device d, unsigned long long *to) { *to = 1ull << 40; return 0; }
int nvmlDeviceGetClockInfo(device d, int which, unsigned *to) { *to = 1000 + which; return 0; }
int nvmlDeviceGetPerformanceState(device d, int *to) { *to = 2; return 0; }
int nvmlDeviceGetNumFans(device d, unsigned *to) { *to = 2; return 0; }
int nvmlDeviceGetFanSpeed_v2(device d, unsigned fan, unsigned *to) { *to = 50 + fan; return 0; }
int nvmlDeviceGetCurrPcieLinkWidth(device d, unsigned *to) { *to = 16; return 0; }
int nvmlDeviceGetPcieThroughput(device d, int which, unsigned *to) { *to = 700 + which; return 0; }
int nvmlDeviceGetEccMode(device d, int *now, int *then) { *now = 1; *then = 0; return 0; }
int nvmlDeviceGetTotalEccErrors(device d, int kind, int counter, unsigned long long *to) {
    *to = 10 * kind + counter; return 0;
}
";

fn library(folder: &Path, source: &str) -> PathBuf {
    let (file, code) = (folder.join("libnvidia-ml.so.1"), folder.join("nvml.c"));
    std::fs::write(&code, format!("{BEGINNING}{source}")).unwrap();
    let made = Command::new("gcc")
        .args(["-shared", "-fPIC", "-w", "-o"])
        .args([&file, &code])
        .status();
    assert!(made.expect("a C compiler").success());
    file
}

fn facts<T: FromBytes>(daemon: &Daemon, kind: u32) -> T {
    let answer = ask(&daemon.socket(), &Query::new(kind, 0, 0), WAIT).unwrap();
    T::read_from_prefix(&answer.body).unwrap().0
}

fn figures(daemon: &Daemon) -> HostFigures {
    facts(daemon, QUERY_FIGURES)
}

/// A daemon with such a library, and the folder that holds it.
fn daemon(source: &str, more: &[&str]) -> (Daemon, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let library = library(folder.path(), source);
    let mut arguments = vec!["--nvml-library", library.to_str().unwrap()];
    arguments.extend(more);
    (Daemon::start(&arguments), folder)
}

#[test]
fn figures_reach_those_who_ask_where_the_operator_says_so() {
    let (daemon, _folder) = daemon(FIGURES, &["--nvml=host"]);
    assert_eq!(facts::<SystemFacts>(&daemon, QUERY_SYSTEM).host_figures, 1);
    let found = figures(&daemon);
    assert_eq!((found.utilization, found.memory_utilization), (37, 12));
    assert_eq!(found.temperature, 41);
    assert_eq!(found.temperature_thresholds, [90, 91, UNKNOWN, UNKNOWN]);
    assert_eq!((found.power, found.power_range), (123_456, [1, 2]));
    assert_eq!(found.energy, 1 << 40);
    assert_eq!(found.clocks, [1000, 1001, 1002, 1003]);
    assert_eq!((found.performance_state, found.link_width), (2, 16));
    assert_eq!(
        (found.fans, &found.fan_speeds[..3]),
        (2, &[50, 51, UNKNOWN][..])
    );
    assert_eq!(found.link_throughput, [700, 701]);
    assert_eq!((found.ecc, found.ecc_errors), ([1, 0], [[0, 1], [10, 11]]));
    // What the library does not have is not known, and nothing is made up for it.
    assert_eq!(found.max_clocks, [UNKNOWN; 4]);
    assert_eq!(
        (found.power_limit, found.clocks_reasons),
        (UNKNOWN, u64::MAX)
    );
}

#[test]
fn without_the_option_nothing_is_told_and_the_library_is_not_even_loaded() {
    let trap = "__attribute__((constructor)) void loaded(void) { abort(); }";
    let (daemon, _folder) = daemon(trap, &[]);
    assert_eq!(facts::<SystemFacts>(&daemon, QUERY_SYSTEM).host_figures, 0);
    let begun = Instant::now();
    for _ in 0..100 {
        assert_eq!(figures(&daemon), HostFigures::unknown());
    }
    // No process was started for any of them.
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_library_that_dies_or_says_too_much_harms_nobody() {
    for source in [
        "int nvmlDeviceGetPowerUsage(device d, unsigned *to) { *(volatile int *)0 = 1; return 0; }",
        "int nvmlDeviceGetPowerUsage(device d, unsigned *to) { exit(0); }",
        "int nvmlDeviceGetPowerUsage(device d, unsigned *to) { return write(1, \"noise\", 5) - 5; }",
        "__attribute__((constructor)) void loaded(void) { abort(); }",
    ] {
        let (mut daemon, _folder) = daemon(source, &["--nvml=host"]);
        for _ in 0..3 {
            assert_eq!(figures(&daemon), HostFigures::unknown(), "{source}");
        }
        assert!(facts::<DeviceFacts>(&daemon, QUERY_DEVICE).memory_total > 0);
        assert!(daemon.child.try_wait().unwrap().is_none(), "{source}");
        assert!(daemon.workers().is_empty(), "{source}");
    }
}

#[test]
fn one_that_hangs_makes_those_who_ask_for_figures_wait_once_and_nobody_else() {
    let hang = "int nvmlDeviceGetPowerUsage(device d, unsigned *to) { for (;;) pause(); }";
    let (daemon, _folder) = daemon(hang, &["--nvml=host"]);
    let socket = daemon.socket();
    let waiting = std::thread::spawn(move || {
        let answer = ask(&socket, &Query::new(QUERY_FIGURES, 0, 0), WAIT).unwrap();
        HostFigures::read_from_prefix(&answer.body).unwrap().0
    });
    let begun = Instant::now();
    while !waiting.is_finished() {
        // Meanwhile others are answered.
        assert!(facts::<DeviceFacts>(&daemon, QUERY_DEVICE).memory_total > 0);
        assert!(begun.elapsed() < WAIT);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(waiting.join().unwrap(), HostFigures::unknown());
    // It was ended, and is not tried again at once.
    assert!(daemon.workers().is_empty());
    let begun = Instant::now();
    assert_eq!(figures(&daemon), HostFigures::unknown());
    assert!(daemon.workers().is_empty());
    assert!(begun.elapsed() < Duration::from_secs(4));
}
