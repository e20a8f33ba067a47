//! Replays the committed corpora, and writes the seeds when `VGPU_WRITE_SEEDS` is set.

use std::path::PathBuf;

use vgpu_channel::link::{Hello, Query};
use vgpu_protocol::number::{CALLS, Place};
use zerocopy::IntoBytes;

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target)
}

/// Inputs that reach the interesting places, by target and name.
fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut hello = Hello::new(0, 7);
    hello.set("CUDA_MODULE_LOADING", "LAZY").unwrap();
    hello.set("CUDA_DEVICE_MAX_CONNECTIONS", "8").unwrap();
    let mut other = Hello::new(3, 0);
    other.minor = 2;
    // Write 8 bytes at offset 8: a call number and a payload length; then publish and take.
    let record = |len: u32| {
        let mut steps = vec![8 * 4, 8, 0, 5, 0, 0, 0];
        steps.extend_from_slice(&len.to_le_bytes());
        steps.push(3);
        steps
    };
    let mut all = vec![
        ("ring_consumer", "empty-record".to_owned(), record(0)),
        (
            "ring_consumer",
            "wraps".to_owned(),
            [record(3000), vec![3; 10]].concat(),
        ),
        ("ring_consumer", "too-long".to_owned(), record(u32::MAX)),
        (
            "ring_consumer",
            "longer-than-the-ring".to_owned(),
            record(64 * 64),
        ),
        ("ring_consumer", "no-operations".to_owned(), vec![3; 200]),
        (
            "ring_consumer",
            "publish-without-take".to_owned(),
            vec![1, 1, 2, 2, 2],
        ),
        (
            "hello",
            "with-settings".to_owned(),
            hello.as_bytes().to_vec(),
        ),
        ("hello", "other-minor".to_owned(), other.as_bytes().to_vec()),
        ("hello", "short".to_owned(), hello.as_bytes()[..40].to_vec()),
        (
            "hello",
            "query".to_owned(),
            Query::new(2, 0, 0).as_bytes().to_vec(),
        ),
        ("control_header", "as-it-is".to_owned(), vec![]),
        ("control_header", "bad-magic".to_owned(), vec![1]),
        (
            "control_header",
            "moved-ring".to_owned(),
            [vec![0; 24], vec![0, 0x10]].concat(),
        ),
        (
            "control_header",
            "huge-snapshot".to_owned(),
            [vec![0; 95], vec![0xff; 9]].concat(),
        ),
    ];
    all.extend(requests());
    // One record of each call, with words that are small numbers, which many checks let pass.
    for call in CALLS.iter().filter(|call| call.place != Place::Guest) {
        let record = |payload: usize| {
            let mut record = vec![0; 22];
            record[..2].copy_from_slice(&call.number.to_le_bytes());
            record.extend((0..payload).map(|at| u8::from(at % 8 == 0)));
            let mut input = u16::try_from(record.len()).unwrap().to_le_bytes().to_vec();
            input.extend(record);
            input
        };
        let input = [0, 8, 16, 24, 32, 48, 64, 96].map(record).concat();
        all.push(("record_dispatch", call.name.to_owned(), input));
    }
    all
}

/// Requests of each kind.
fn requests() -> Vec<(&'static str, String, Vec<u8>)> {
    use vgpu_channel::link::virtio::*;
    let request = |kind, channel| Request {
        kind,
        reserved: 0,
        channel,
    };
    let piece = |page: u64| Piece {
        address: page << 21,
        len: 2 << 20,
    };
    let hello = SessionHello {
        session: 7,
        major: 1,
        minor: 0,
        flags: 0,
    };
    let open = Open {
        user: 1000,
        process: 42,
        control_pieces: 1,
        heap_pieces: 2,
        hello: Hello::new(0, 0),
    };
    let grow = Grow {
        id: 1,
        pieces: 2,
        reserved: 0,
    };
    let pieces = [piece(3), piece(1), piece(8)];
    let bytes = |name: &str, parts: &[&[u8]]| ("virtio_request", name.to_owned(), parts.concat());
    vec![
        bytes(
            "hello",
            &[request(KIND_HELLO, 0).as_bytes(), hello.as_bytes()],
        ),
        bytes(
            "open",
            &[
                request(KIND_OPEN, 1).as_bytes(),
                open.as_bytes(),
                pieces.as_bytes(),
            ],
        ),
        bytes(
            "grow",
            &[
                request(KIND_GROW, 1).as_bytes(),
                grow.as_bytes(),
                pieces[1..].as_bytes(),
            ],
        ),
        bytes("close", &[request(KIND_CLOSE, 1).as_bytes()]),
        bytes(
            "query",
            &[
                request(KIND_QUERY, 9).as_bytes(),
                Query::new(2, 0, 0).as_bytes(),
            ],
        ),
    ]
}

#[test]
fn every_corpus_file_is_survived() {
    for (name, target) in vgpu_fuzz::TARGETS {
        let files: Vec<_> = std::fs::read_dir(corpus(name))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            target(&std::fs::read(&file).unwrap());
        }
    }
}

#[test]
fn the_seeds_are_in_the_corpus() {
    for (target, name, bytes) in seeds() {
        let path = corpus(target).join(&name);
        if std::env::var_os("VGPU_WRITE_SEEDS").is_some() {
            std::fs::write(&path, &bytes).unwrap();
        }
        assert!(
            std::fs::read(&path).is_ok_and(|written| written == bytes),
            "{target}/{name}: run with VGPU_WRITE_SEEDS=1"
        );
    }
}
