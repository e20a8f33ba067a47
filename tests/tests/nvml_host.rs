//! `--nvml=host` from the host's management library to a monitor: a stand-in library on the host's side, a monitor in C on
//! the program's, our `libnvidia-ml.so.1` and the daemon between.

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::parts;
use vgpu_e2e::backend::Backend;
use vgpu_e2e::{command, diagnosis};

/// Everything that it lacks is not known.
const LIBRARY: &str = r"
typedef void *device;
struct rates { unsigned gpu, memory; };
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, device *found) { *found = (void *)1; return 0; }
int nvmlDeviceGetUtilizationRates(device d, struct rates *rates) { rates->gpu = 37; rates->memory = 12; return 0; }
int nvmlDeviceGetTemperature(device d, int sensor, unsigned *to) { *to = 41; return 0; }
int nvmlDeviceGetPowerUsage(device d, unsigned *to) { *to = 123456; return 0; }
int nvmlDeviceGetClockInfo(device d, int which, unsigned *to) { *to = 1000 + which; return 0; }
int nvmlDeviceGetTotalEccErrors(device d, int kind, int counter, unsigned long long *to) {
    *to = 10 * kind + counter; return 0;
}
int nvmlDeviceGetSerial(device d, char *to, unsigned length) { *to = 0; return 0; }
";

/// Prints `NAME CODE VALUE` for each question.
const MONITOR: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
typedef int (*call)();
static void *library;
static call find(const char *name) { return (call)dlsym(library, name); }
struct field { unsigned id, scope; long long time, took; int kind, code; unsigned long long value; };
int main(void) {
    unsigned pair[2] = {0, 0}, one = 0, temperature[3] = {12 | 1 << 24, 0, 0};
    unsigned long long count = 0;
    char text[96] = "";
    void *device = 0;
    struct field fields[2] = {{4}, {186}};
    library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (!library || find("nvmlInit_v2")() || find("nvmlDeviceGetHandleByIndex_v2")(0, &device)) return 1;
    int code = find("nvmlDeviceGetUtilizationRates")(device, pair);
    printf("rates %d %u %u\n", code, pair[0], pair[1]);
    printf("temperature %d", find("nvmlDeviceGetTemperature")(device, 0, &one)); printf(" %u\n", one);
    code = find("nvmlDeviceGetTemperatureV")(device, temperature);
    printf("temperature-v %d %u\n", code, temperature[2]);
    one = 0; code = find("nvmlDeviceGetPowerUsage")(device, &one); printf("power %d %u\n", code, one);
    one = 0; code = find("nvmlDeviceGetClock")(device, 2, 0, &one); printf("clock %d %u\n", code, one);
    code = find("nvmlDeviceGetTotalEccErrors")(device, 1, 1, &count); printf("ecc %d %llu\n", code, count);
    code = find("nvmlDeviceGetFieldValues")(device, 2, fields);
    printf("fields %d %d %llu %d\n", code, fields[0].code, fields[0].value, fields[1].code);
    one = 0; code = find("nvmlDeviceGetFanSpeed")(device, &one); printf("fan %d %u\n", code, one);
    printf("bad-clock %d\n", find("nvmlDeviceGetClockInfo")(device, 99, &one));
    printf("null %d\n", find("nvmlDeviceGetPowerUsage")(device, 0));
    printf("serial %d\n", find("nvmlDeviceGetSerial")(device, text, 96));
    return 0;
}
"#;

fn monitor(folder: &Path, arguments: &[&str]) -> String {
    let library = folder.join("libnvidia-ml.so.1");
    diagnosis::library(&library, LIBRARY, "libnvidia-ml.so.1", &[]).expect("compiled");
    let program = folder.join("monitor");
    diagnosis::program(&program, MONITOR, &["-ldl"]).expect("compiled");
    let mut more: Vec<_> = vec!["--nvml-library".into(), library.into_os_string()];
    more.extend(arguments.iter().map(Into::into));
    let backend = Backend::start_with(&parts(), "software", more).expect("a backend");
    let mut monitor = Command::new(program);
    backend.attach(&mut monitor, &[]);
    let output = command::run(&mut monitor, Duration::from_secs(60)).expect("it runs");
    assert_eq!(output.ending(), "exit 0", "{}", output.stderr);
    output.stdout
}

#[test]
fn a_monitor_sees_the_hosts_figures_where_the_operator_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = monitor(folder.path(), &["--nvml=host"]);
    for line in [
        "rates 0 37 12",
        "temperature 0 41",
        "temperature-v 0 41",
        "power 0 123456",
        "clock 0 1002",
        "ecc 0 11",
        // The field that the figures answer, and one that they do not.
        "fields 0 0 10 3",
        // What the host's library does not know, and what nobody is told.
        "fan 3 0",
        "bad-clock 2",
        "null 2",
        "serial 3",
    ] {
        assert!(
            said.lines().any(|have| have == line),
            "no {line:?} in {said}"
        );
    }
}

#[test]
fn and_none_of_them_otherwise() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = monitor(folder.path(), &[]);
    for line in [
        "rates 3 0 0",
        "temperature 3 0",
        "temperature-v 3 0",
        "power 3 0",
        "clock 3 0",
        "ecc 3 0",
        "fields 0 3 0 3",
        "fan 3 0",
        "bad-clock 3",
        "null 3",
        "serial 3",
    ] {
        assert!(
            said.lines().any(|have| have == line),
            "no {line:?} in {said}"
        );
    }
}
