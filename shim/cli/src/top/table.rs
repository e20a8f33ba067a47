//! The table: one row for each client, the busiest first.

use vgpu_status::{Client, Document};

/// The columns' heads.
pub const HEADS: [&str; 11] = [
    "DAEMON",
    "WORKER",
    "CLIENT",
    "TIME",
    "MEMORY",
    "QUOTA",
    "CALLS/S",
    "LAUNCHES/S",
    "COPIES/S",
    "COPIED/S",
    "WAITS/S",
];

/// Widths of the columns, in characters.
pub const WIDTHS: [u16; 11] = [8, 8, 26, 9, 10, 10, 10, 10, 10, 11, 10];

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The cells.
    pub cells: [String; 11],
    /// Whether the client's context is lost.
    pub lost: bool,
    busy: f64,
}

/// The rows for `now`; rates over the `seconds` since `before`, dashes without.
pub fn rows(now: &[Document], before: &[Document], seconds: Option<f64>) -> Vec<Row> {
    let mut rows = Vec::new();
    for document in now {
        let old = before
            .iter()
            .find(|old| old.daemon.pid == document.daemon.pid);
        for client in &document.clients {
            let old = old.and_then(|old| {
                let mut clients = old.clients.iter();
                clients.find(|old| old.worker == client.worker)
            });
            rows.push(row(document, client, old, seconds));
        }
    }
    rows.sort_by(|one, other| other.busy.total_cmp(&one.busy));
    rows
}

fn row(document: &Document, client: &Client, old: Option<&Client>, seconds: Option<f64>) -> Row {
    let zero = Client::default();
    let rate = |value: fn(&Client) -> u64| {
        // A client that came in between began at zero. A worker that lies may count backwards.
        let more = value(client).saturating_sub(value(old.unwrap_or(&zero)));
        seconds
            .filter(|seconds| *seconds > 0.0)
            .map(|seconds| more as f64 / seconds)
    };
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
    let copied = rate(|client| client.copied_bytes);
    let quota = match client.memory_limit {
        0 => "-".to_owned(),
        limit => bytes(limit as f64),
    };
    let calls = rate(|client| client.calls);
    Row {
        cells: [
            document.daemon.pid.to_string(),
            client.worker.to_string(),
            plain(&name(client)),
            time(client.seconds),
            bytes(client.memory_used as f64),
            quota,
            number(calls),
            number(rate(|client| client.launches)),
            number(rate(|client| client.copies)),
            copied.map_or("-".to_owned(), bytes),
            number(rate(|client| client.waits)),
        ],
        lost: client.sticky != 0,
        busy: calls.unwrap_or(0.0),
    }
}

fn name(client: &Client) -> String {
    match (client.channel, client.user, &client.program) {
        (Some(channel), ..) => format!("guest, channel {channel}"),
        (None, Some(user), Some(program)) => format!("{program} ({user})"),
        _ => "?".to_owned(),
    }
}

/// Only what cannot steer a terminal, and not too much of it.
fn plain(text: &str) -> String {
    text.chars()
        .take(usize::from(WIDTHS[2]))
        .map(|c| {
            if c.is_ascii_graphic() || c == ' ' {
                c
            } else {
                '?'
            }
        })
        .collect()
}

fn time(seconds: u64) -> String {
    format!(
        "{}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

fn bytes(value: f64) -> String {
    let mut value = value;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            let digits = usize::from(unit != "B" && value < 100.0);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// The table as text.
pub fn text(rows: &[Row]) -> String {
    let line = |cells: &[String]| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(WIDTHS) {
            line.push_str(&format!("{cell:<width$} ", width = usize::from(width)));
        }
        line.trim_end().to_owned() + "\n"
    };
    let mut text = line(&HEADS.map(str::to_owned));
    for row in rows {
        text.push_str(&line(&row.cells));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_status::Document;

    fn document(calls: u64, program: &str) -> Document {
        let text = serde_json::json!({
            "version": 1,
            "daemon": { "pid": 5, "device": "software", "max_clients": 64 },
            "clients": [{
                "worker": 6, "user": 1000, "program": program, "channel": null, "seconds": 3661,
                "calls": calls, "failed": 0, "launches": 0, "copies": 0, "copied_bytes": 3 << 20,
                "waits": 0, "refused": 0, "memory_used": 1536, "memory_limit": 0, "sticky": 700,
            }],
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn rates_are_differences_over_time() {
        let rows = rows(&[document(300, "a")], &[document(100, "a")], Some(2.0));
        let row = &rows[0];
        assert_eq!(row.cells[2], "a (1000)");
        assert_eq!(row.cells[3], "1:01:01");
        assert_eq!(row.cells[4], "1.5 KiB");
        assert_eq!(row.cells[6], "100");
        assert_eq!(row.cells[9], "0 B");
        assert!(row.lost);
    }

    #[test]
    fn strange_figures_and_names_stay_in_their_row() {
        let rows = rows(
            &[document(1, "\x1b[2J\n")],
            &[document(u64::MAX, "x")],
            Some(1.0),
        );
        assert_eq!(rows[0].cells[6], "0");
        assert_eq!(rows[0].cells[2], "?[2J? (1000)");
        let text = text(&rows);
        assert_eq!(text.lines().count(), 2);
        assert!(!text.contains('\x1b'));
        assert_eq!(bytes(u64::MAX as f64), "16777216.0 TiB");
    }
}
