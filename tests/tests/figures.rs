//! What the operator sees: `vgpu top` and the daemon's metrics show what a known program did, whatever another one writes.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::{Client, PATIENCE, alone, eventually, parts};
use vgpu_e2e::backend::Backend;
use vgpu_e2e::command;

/// What one round of `e2e-client idle` does.
const LAUNCHES: u64 = 40;
/// Bytes of its one copy, and of the one buffer it holds.
const BYTES: u64 = 2400;

struct Watched {
    backend: Backend,
    metrics: PathBuf,
    _folder: tempfile::TempDir,
}

impl Watched {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let metrics = folder.path().join("metrics.sock");
        let more = ["--memory", "64MiB", "--metrics"].map(Into::into);
        let mut arguments = Vec::from(more);
        arguments.push(metrics.clone().into_os_string());
        let backend = Backend::start_with(&parts(), "software", arguments).expect("a backend");
        Self {
            backend,
            metrics,
            _folder: folder,
        }
    }

    /// The clients that `vgpu top --json` shows of this daemon.
    fn clients(&self) -> Vec<Value> {
        let output = top(&["--json"]);
        let documents: Vec<Value> = serde_json::from_str(&output).expect("JSON");
        let pid = u64::from(self.backend.pid());
        let mut ours = documents
            .into_iter()
            .filter(|document| document["daemon"]["pid"].as_u64() == Some(pid));
        let document = ours.next().expect("the daemon answers");
        assert_eq!(document["daemon"]["device"], "software");
        document["clients"].as_array().expect("a list").clone()
    }

    /// What the endpoint answers to `request`.
    fn ask(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.metrics).expect("the endpoint listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        // It may have heard enough before the end.
        let _ = stream.write_all(request);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    /// The samples of the endpoint by name with labels.
    fn samples(&self) -> BTreeMap<String, f64> {
        let answer = self.ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(
            head.contains(&format!("Content-Length: {}", body.len())),
            "{head}"
        );
        assert!(body.ends_with("# EOF\n"), "{body}");
        let lines = body.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').expect("a sample");
                (name.to_owned(), value.parse().expect("a number"))
            })
            .collect()
    }
}

fn top(arguments: &[&str]) -> String {
    let mut command = Command::new(parts().vgpu);
    command.arg("top").args(arguments);
    let output = command::run(&mut command, PATIENCE).expect("vgpu runs");
    assert_eq!(output.ending(), "exit 0", "{}", output.stderr);
    output.stdout
}

fn figure(client: &Value, name: &str) -> u64 {
    client[name]
        .as_u64()
        .unwrap_or_else(|| panic!("no {name} in {client}"))
}

/// That a row shows one round of `e2e-client idle` and nothing else.
fn assert_one_round(client: &Value) {
    let expected = [
        ("failed", 0),
        ("launches", LAUNCHES),
        ("copies", 1),
        ("copied_bytes", BYTES),
        ("refused", 0),
        ("memory_used", BYTES),
        ("memory_limit", 64 << 20),
        ("sticky", 0),
    ];
    for (name, value) in expected {
        assert_eq!(figure(client, name), value, "{name} of {client}");
    }
    // Besides: 40 events recorded and as many waits of streams, one fill, and what setting up takes.
    assert!(figure(client, "calls") >= 3 * LAUNCHES + 2, "{client}");
}

#[test]
fn figures_add_up_for_a_known_program_and_go_with_it() {
    let _turn = alone();
    let watched = Watched::start();
    assert!(watched.clients().is_empty());
    let client = Client::start(&watched.backend, "idle");
    client.wait_until_ready();
    let rows = watched.clients();
    assert_eq!(rows.len(), 1);
    assert_one_round(&rows[0]);
    assert_eq!(rows[0]["program"], "e2e-client");
    assert_eq!(rows[0]["channel"], Value::Null);
    let user = u64::from(rustix::process::geteuid().as_raw());
    assert_eq!(figure(&rows[0], "user"), user);

    // The same figures, under the names that are promised.
    let samples = watched.samples();
    assert_eq!(samples["vgpu_clients"], 1.0);
    let labels = format!(
        "{{worker=\"{}\",user=\"{user}\",program=\"e2e-client\"}}",
        figure(&rows[0], "worker")
    );
    for (name, field) in [
        ("calls_total", "calls"),
        ("failed_calls_total", "failed"),
        ("launches_total", "launches"),
        ("copies_total", "copies"),
        ("copied_bytes_total", "copied_bytes"),
        ("waits_total", "waits"),
        ("refused_total", "refused"),
        ("memory_used_bytes", "memory_used"),
        ("memory_limit_bytes", "memory_limit"),
        ("sticky_error", "sticky"),
    ] {
        let sample = samples[&format!("vgpu_{name}{labels}")];
        assert_eq!(sample, figure(&rows[0], field) as f64, "{name}");
    }

    let table = top(&["--once"]);
    let daemon = watched.backend.pid().to_string();
    let row = table.lines().find(|line| line.starts_with(&daemon));
    let row = row.unwrap_or_else(|| panic!("no row in {table}"));
    for cell in ["e2e-client", "2.3 KiB", "64.0 MiB"] {
        assert!(row.contains(cell), "{row}");
    }

    assert_eq!(client.finish(), "done 1");
    eventually(PATIENCE, "the row goes with its client", || {
        watched.clients().is_empty()
    });
    assert_eq!(watched.samples()["vgpu_clients"], 0.0);
}

#[test]
fn a_client_that_writes_garbage_spoils_no_other_row() {
    let _turn = alone();
    let watched = Watched::start();
    let folder = tempfile::tempdir().expect("a folder");
    // Its name is its own choice.
    let strange = folder.path().join("a\"} 1\n\u{1b}[2J");
    std::fs::copy(env!("CARGO_BIN_EXE_e2e-client"), &strange).expect("the client");
    let quiet = Client::start(&watched.backend, "idle");
    quiet.wait_until_ready();
    let mut command = Command::new(&strange);
    command
        .arg("scribble")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    watched.backend.attach(&mut command, &[]);
    let mut bad = Client::spawn(&mut command);
    let mut both = 0;
    while bad.is_running() {
        let rows = watched.clients();
        let ours = rows.iter().find(|row| row["program"] == "e2e-client");
        assert_one_round(ours.expect("the quiet client is there"));
        for row in &rows {
            let name = row["program"].as_str().expect("a name");
            assert!(
                name.chars()
                    .all(|c| c.is_ascii_graphic() && !"\"\\{}".contains(c)),
                "{name:?}"
            );
        }
        both += u32::from(rows.len() == 2);
        assert!(watched.samples().contains_key("vgpu_clients"));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(both > 0, "the other one was never seen");
    assert_eq!(quiet.finish(), "done 1");
}

#[test]
fn strangers_at_the_endpoint_cost_nobody_anything() {
    let _turn = alone();
    let watched = Watched::start();
    assert!(
        watched
            .ask(b"\xff\xfe\r\n\r\n")
            .starts_with("HTTP/1.1 400 ")
    );
    assert!(
        watched
            .ask(b"GET /other HTTP/1.1\r\n\r\n")
            .starts_with("HTTP/1.1 404 ")
    );
    // Too long a request is not answered at all.
    assert_eq!(watched.ask(&vec![b'x'; 1 << 20]), "");
    // One that says nothing, while clients come and go.
    let silent = UnixStream::connect(&watched.metrics).expect("the endpoint listens");
    let client = Client::start(&watched.backend, "idle");
    client.wait_until_ready();
    assert_eq!(client.finish(), "done 1");
    assert_eq!(watched.samples()["vgpu_clients"].fract(), 0.0);
    drop(silent);
    let mut watched = watched;
    let ended = watched.backend.terminate().expect("the wait works");
    assert!(ended.is_some_and(|status| status.success()));
    assert!(
        !watched.metrics.exists(),
        "the socket's file goes with the daemon"
    );
}

#[test]
fn another_users_daemon_is_not_shown_and_one_sentence_says_so() {
    let _turn = alone();
    let _watched = Watched::start();
    if !rustix::process::geteuid().is_root() {
        println!("not checked: needs root to become another user");
        return;
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "61234", "--regid", "61234", "--clear-groups"])
        .arg(parts().vgpu)
        .args(["top", "--once"]);
    let output = command::run(&mut command, PATIENCE);
    let output = output.expect("setpriv runs");
    assert_eq!(output.ending(), "exit 1", "{}", output.stdout);
    assert_eq!(output.stderr.trim().lines().count(), 1, "{}", output.stderr);
}
