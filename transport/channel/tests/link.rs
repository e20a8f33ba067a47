//! The link against clients that break its rules, and the parts of a channel within one process.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use vgpu_channel::callback::Callback;
use vgpu_channel::control::{ControlLayout, FEATURE_REAL_SYNC, LayoutError, ServerState};
use vgpu_channel::heap::HeapError;
use vgpu_channel::link::message::{ENVIRONMENT_BYTES, HelloError, MAJOR, MINOR, MINOR_DISTANCE};
use vgpu_channel::link::{Hello, LinkError, LinkStatus, Listener, Socket, Welcome};
use vgpu_channel::loopback::{self, Loopback};
use vgpu_channel::reply::{PAYLOAD_BYTES, ReplyError};
use vgpu_channel::ring::{RecordBuf, RecordHeader};
use vgpu_channel::segment::{FilePiece, HugePages, Pieces, SegmentError, SegmentFd};
use vgpu_channel::server::{Config, Request};
use vgpu_channel::wait::WaitError;
use zerocopy::{FromBytes, IntoBytes};

const CONFIG: Config = Config {
    ring_slots: 2048,
    heap_bytes: 2 << 20,
    pages: HugePages::Never,
};

fn pair() -> Loopback {
    loopback::pair(&CONFIG, Hello::new(0, 5), b"snapshot").expect("a loopback channel")
}

/// Sends `bytes` as a hello and gives what the server makes of it, and what the client is told.
fn greet(bytes: &[u8]) -> (LinkError, Option<LinkStatus>) {
    let (near, far) = Socket::pair().unwrap();
    near.send(bytes, &[]).unwrap();
    let error = Listener::greet(far).unwrap_err();
    let told = near
        .receive_with_fds::<{ size_of::<Welcome>() }>(Duration::ZERO)
        .ok();
    let status = told
        .map(|(bytes, _)| LinkStatus::from_word(Welcome::read_from_bytes(&bytes).unwrap().status));
    (error, status)
}

#[test]
fn a_good_hello_is_accepted_with_its_settings() {
    let mut hello = Hello::new(1, 42);
    hello.set("CUDA_MODULE_LOADING", "LAZY").unwrap();
    hello.set("X", "").unwrap();
    for distance in 0..=MINOR_DISTANCE {
        let (near, far) = Socket::pair().unwrap();
        hello.minor = MINOR + distance;
        near.send(hello.as_bytes(), &[]).unwrap();
        let accepted = Listener::greet(far).unwrap();
        assert_eq!(accepted.hello, hello);
        assert_eq!(
            accepted.hello.settings(),
            Ok(vec![("CUDA_MODULE_LOADING", "LAZY"), ("X", "")])
        );
    }
}

#[test]
fn a_bad_hello_is_refused_with_the_reason() {
    let good = Hello::new(0, 0);
    let refused = |hello: Hello| greet(hello.as_bytes());
    let version = refused(Hello {
        major: MAJOR + 1,
        ..good
    });
    assert!(matches!(
        version,
        (
            LinkError::Hello(HelloError::Version { .. }),
            Some(LinkStatus::Version)
        )
    ));
    let version = refused(Hello {
        minor: MINOR + MINOR_DISTANCE + 1,
        ..good
    });
    assert!(matches!(
        version,
        (
            LinkError::Hello(HelloError::Version { .. }),
            Some(LinkStatus::Version)
        )
    ));
    let window = refused(Hello { window: 4, ..good });
    assert!(matches!(
        window,
        (
            LinkError::Hello(HelloError::Window(4)),
            Some(LinkStatus::Window)
        )
    ));
    let magic = refused(Hello { magic: 1, ..good });
    assert!(matches!(
        magic,
        (
            LinkError::Hello(HelloError::Malformed),
            Some(LinkStatus::Malformed)
        )
    ));
    let long = refused(Hello {
        environment_len: ENVIRONMENT_BYTES as u32 + 1,
        ..good
    });
    assert!(matches!(
        long,
        (
            LinkError::Hello(HelloError::Environment),
            Some(LinkStatus::Malformed)
        )
    ));
    let unended = refused(Hello {
        environment_len: 3,
        environment: [b'A'; ENVIRONMENT_BYTES],
        ..good
    });
    assert!(matches!(
        unended,
        (LinkError::Hello(HelloError::Environment), _)
    ));
    assert!(matches!(
        greet(&[1, 2, 3]),
        (
            LinkError::Hello(HelloError::Malformed),
            Some(LinkStatus::Malformed)
        )
    ));
    assert!(matches!(
        greet(&[0; 5000]),
        (LinkError::Malformed, Some(LinkStatus::Malformed))
    ));
}

#[test]
fn settings_that_are_no_settings_are_refused() {
    let mut hello = Hello::new(0, 0);
    for (name, value) in [
        ("", "x"),
        ("lower", "x"),
        ("A=B", "x"),
        ("A", "\n"),
        ("A", "é"),
        ("A\0", "x"),
    ] {
        assert_eq!(
            hello.set(name, value),
            Err(HelloError::Environment),
            "{name:?}={value:?}"
        );
    }
    assert_eq!(
        hello.set("A", &"x".repeat(ENVIRONMENT_BYTES - 2)),
        Err(HelloError::EnvironmentFull)
    );
    hello.set("A", &"x".repeat(ENVIRONMENT_BYTES - 3)).unwrap();
    assert_eq!(hello.settings().unwrap().len(), 1);
    assert_eq!(hello.set("B", ""), Err(HelloError::EnvironmentFull));
}

#[test]
fn a_client_that_sends_descriptors_is_disconnected() {
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    for count in [1usize, 4] {
        let (near, far) = Socket::pair().unwrap();
        let smuggled: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        let fds = vec![smuggled.as_fd(); count];
        near.send(Hello::new(0, 0).as_bytes(), &fds).unwrap();
        let before = open();
        assert!(matches!(Listener::greet(far), Err(LinkError::Descriptors)));
        // The connection's own descriptor is closed with it; the smuggled ones must not remain. Other tests open and
        // close descriptors meanwhile, hence the room.
        assert!(open() < before + 16);
        assert!(near.is_gone());
    }
}

#[test]
fn a_silent_client_is_given_two_seconds() {
    let (near, far) = Socket::pair().unwrap();
    let start = Instant::now();
    assert!(matches!(Listener::greet(far), Err(LinkError::TimedOut)));
    assert!(start.elapsed() >= Duration::from_secs(2));
    assert!(near.is_gone());
    let (near, far) = Socket::pair().unwrap();
    drop(near);
    assert!(matches!(Listener::greet(far), Err(LinkError::Closed)));
}

#[test]
fn a_socket_is_replaced_only_when_nobody_answers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let first = Listener::bind(&path).unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o666
    );
    assert!(Listener::bind(&path).is_err(), "somebody listens");
    // A listener that died without removing its socket.
    let stale = dir.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    assert!(Listener::bind(&stale).is_ok());
    assert!(!stale.exists(), "removed by the listener that replaced it");
    // What is at the path is no longer ours when it was replaced.
    std::fs::remove_file(&path).unwrap();
    let third = Listener::bind(&path).unwrap();
    drop(first);
    assert!(
        path.exists(),
        "the first listener leaves its successor's socket alone"
    );
    drop(third);
    assert!(!path.exists());
    std::fs::write(&path, b"a file").unwrap();
    assert!(Listener::bind(&path).is_err(), "not a socket");
    assert_eq!(std::fs::read(&path).unwrap(), b"a file");
}

#[test]
fn a_memory_file_must_be_sealed_and_of_the_announced_size() {
    let made = SegmentFd::create(4 << 20, HugePages::Try).unwrap();
    let copy = |segment: &SegmentFd| segment.as_fd().try_clone_to_owned().unwrap();
    assert_eq!(
        SegmentFd::receive(copy(&made), 4 << 20).unwrap().size(),
        4 << 20
    );
    assert!(matches!(
        SegmentFd::receive(copy(&made), 2 << 20),
        Err(SegmentError::WrongSize {
            announced: 0x20_0000,
            actual: 0x40_0000
        })
    ));
    for size in [0, 1, 4096, (64 << 30) + (2 << 20)] {
        assert!(matches!(
            SegmentFd::receive(copy(&made), size),
            Err(SegmentError::Size(_))
        ));
        assert!(matches!(
            SegmentFd::create(size, HugePages::Never),
            Err(SegmentError::Size(_))
        ));
    }
    assert!(rustix::fs::ftruncate(copy(&made), 0).is_err(), "sealed");
    let unsealed = tempfile::tempfile().unwrap();
    unsealed.set_len(2 << 20).unwrap();
    assert!(matches!(
        SegmentFd::receive(unsealed.into(), 2 << 20),
        Err(SegmentError::NotSealed)
    ));
}

#[test]
fn a_layout_that_contradicts_itself_is_refused() {
    let layout = ControlLayout::new(2048);
    let good = layout.header();
    assert_eq!(good.layout(layout.size), Ok(layout));
    assert_eq!(good.layout(layout.size + 1), Err(LayoutError::Areas));
    let mut bad = good;
    bad.magic = 0;
    assert_eq!(bad.layout(layout.size), Err(LayoutError::Magic));
    bad = good;
    bad.major = 9;
    assert_eq!(bad.layout(layout.size), Err(LayoutError::Version(9)));
    bad = good;
    bad.ring.offset = 0;
    assert_eq!(
        bad.layout(layout.size),
        Err(LayoutError::Areas),
        "over the header"
    );
    bad = good;
    bad.ring.len += 64;
    assert_eq!(
        bad.layout(layout.size),
        Err(LayoutError::Areas),
        "no power of two"
    );
    bad = good;
    bad.snapshot.offset = u64::MAX - 63;
    assert_eq!(
        bad.layout(layout.size),
        Err(LayoutError::Areas),
        "wraps around"
    );
    bad = good;
    bad.output.offset = bad.snapshot.offset;
    assert_eq!(
        bad.layout(layout.size),
        Err(LayoutError::Areas),
        "overlapping"
    );
}

#[test]
fn a_call_is_answered() {
    let Loopback {
        client,
        server,
        mut consumer,
    } = pair();
    assert_eq!(client.snapshot(), b"snapshot");
    assert_eq!(client.server_state(), ServerState::Serving);
    server.add_features(FEATURE_REAL_SYNC);
    server.set_sticky_error(700);
    assert_eq!(
        (client.features(), client.sticky_error()),
        (FEATURE_REAL_SYNC, 700)
    );

    let address = client.alloc_reply().unwrap();
    let header = RecordHeader {
        call: 3,
        reply_sequence: 1,
        reply_address: address,
        ..Default::default()
    };
    client.post(&header, &[b"ques", b"tion"]).unwrap();
    let mut buf = RecordBuf::new();
    let record = consumer.pop(&mut buf).unwrap().unwrap();
    assert_eq!(record.payload, b"question");
    server
        .complete(
            record.header.reply_address,
            record.header.reply_sequence,
            -7,
            b"answer",
        )
        .unwrap();
    let slot = client.reply(address).unwrap();
    assert_eq!(client.wait_reply(slot, 1, None), Ok((-7, 6)));
    let mut answer = [0; 6];
    slot.payload(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");

    server.latch(address, 400).unwrap();
    server.latch(address, 401).unwrap();
    assert_eq!(
        (slot.latched(), slot.take_latched(), slot.take_latched()),
        (400, 400, 0),
        "the first one stays"
    );
    client.free(address).unwrap();
}

#[test]
fn a_reply_address_is_checked() {
    let Loopback { client, server, .. } = pair();
    let end = client.segments().end();
    for address in [
        0,
        8,
        client.alloc(4096, 64).unwrap() + 4,
        end,
        end - 64,
        u64::MAX - 63,
        0xffff_ffff_ffff_f000,
    ] {
        assert_eq!(
            server.complete(address, 1, 0, b""),
            Err(ReplyError::Address(address)),
            "{address:#x}"
        );
        assert!(server.latch(address, 1).is_err());
    }
    let slot = client.alloc_reply().unwrap();
    let long = [0; PAYLOAD_BYTES + 1];
    assert_eq!(
        server.complete(slot, 1, 0, &long),
        Err(ReplyError::TooLong(PAYLOAD_BYTES + 1))
    );
    assert!(server.complete(slot, 1, 0, &long[1..]).is_ok());
}

#[test]
fn addresses_outside_the_segments_are_refused() {
    let Loopback { client, server, .. } = pair();
    let (start, end) = (client.window().high, client.segments().end());
    let mut bytes = [0; 16];
    for address in [0, start - 1, end - 15, end, u64::MAX - 3] {
        assert!(
            server.copy_out(address, &mut bytes).is_err(),
            "{address:#x}"
        );
        assert!(server.copy_in(address, &bytes).is_err(), "{address:#x}");
        assert!(client.heap_word(address).is_err(), "{address:#x}");
    }
    assert!(server.contains(start, end - start));
    assert!(!server.contains(start, end - start + 1));
    assert!(!server.contains(start + 1, u64::MAX));
    let at = client.alloc(16, 64).unwrap();
    client.copy_in(at, b"sixteen bytes...").unwrap();
    server.copy_out(at, &mut bytes).unwrap();
    assert_eq!(&bytes, b"sixteen bytes...");
    assert!(matches!(
        client.free(at + 64),
        Err(HeapError::NotAllocated(_))
    ));
}

#[test]
fn callbacks_wait_for_acknowledgements() {
    let Loopback { client, server, .. } = pair();
    let callback = |id| Callback {
        id,
        args: [1, 2, 3],
        ..Default::default()
    };
    for id in 0..256 {
        assert_eq!(server.call_back(&callback(id)), Some(id));
    }
    assert_eq!(
        server.call_back(&callback(256)),
        None,
        "all entries are in use"
    );
    let taken: Vec<_> = std::iter::from_fn(|| client.callbacks().pop()).collect();
    assert_eq!(taken.len(), 256);
    assert_eq!(taken[255], (255, callback(255)));
    assert_eq!(
        server.call_back(&callback(256)),
        None,
        "taken is not acknowledged"
    );
    client.acknowledge(1);
    assert_eq!(
        server.call_back(&callback(256)),
        None,
        "the next entry is another one"
    );
    client.acknowledge(0);
    assert_eq!(server.call_back(&callback(256)), Some(256));
    assert!(server.acknowledged(1) && !server.acknowledged(2));
    assert_eq!(
        server.wait_acknowledged(2, Some(Duration::ZERO)),
        Err(WaitError::TimedOut)
    );
    assert_eq!(server.wait_acknowledged(1, None), Ok(()));
}

#[test]
fn output_keeps_order_and_counts_what_is_cut() {
    let Loopback { client, server, .. } = pair();
    let text: Vec<u8> = (0..200_000u32).map(|i| (i % 253) as u8).collect();
    let mut read = Vec::new();
    let mut sent = 0;
    let mut chunk = [0; 5000];
    while read.len() < text.len() {
        sent += server.output().write(&text[sent..]);
        let len = client.output().read(&mut chunk);
        read.extend_from_slice(&chunk[..len]);
    }
    assert!(read == text);
    assert!(!client.output().ready());
    server.print(&text);
    assert_eq!(server.output().dropped(), text.len() as u64 - 65_536);
}

#[test]
fn the_heap_grows_until_its_mappings_are_used_up() {
    // Control segment, first heap segment, and three more.
    let pair = loopback::pair_limited(&CONFIG, Hello::new(0, 5), b"", 5).unwrap();
    let (client, server) = (pair.client, pair.server);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let mut asked = 0;
            loop {
                match server.next_request(Duration::from_secs(60)) {
                    Ok(Request::Grow(request)) => {
                        let segment = SegmentFd::create(request.bytes, HugePages::Never).unwrap();
                        server.grant(&request, &segment).unwrap();
                        asked += 1;
                    }
                    Err(LinkError::Closed) => return asked,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let blocks: Vec<u64> = (0..3)
            .map(|_| client.alloc(64 << 20, 64).unwrap())
            .collect();
        assert!(!client.segments().has_room());
        let full = client.alloc(64 << 20, 64);
        assert!(matches!(full, Err(HeapError::Full(_))), "{full:?}");
        // What there is goes on serving.
        client.free(blocks[1]).unwrap();
        assert_eq!(client.alloc(64 << 20, 64), Ok(blocks[1]));
        drop(client);
        assert_eq!(asked.join().unwrap(), 3, "the server was asked in vain");
    });
}

#[test]
fn pieces_count_as_the_mappings_they_become() {
    const PAGE: u64 = 2 << 20;
    let file = tempfile::tempfile().unwrap();
    file.set_len(16 * PAGE).unwrap();
    let files: std::sync::Arc<[OwnedFd]> = std::sync::Arc::new([file.into()]);
    let pieces = |pages: &[u64]| {
        let piece = |page: &u64| FilePiece {
            file: 0,
            reserved: 0,
            offset: page * PAGE,
            len: PAGE,
        };
        Pieces::new(&files, pages.iter().map(piece).collect()).unwrap()
    };
    let pair = loopback::pair_limited(&CONFIG, Hello::new(0, 5), b"", 5).unwrap();
    let segments = pair.client.segments();
    let end = segments.end();
    let refused = segments.append_pieces(end, &pieces(&[0, 2, 4, 6]));
    assert!(matches!(refused, Err(SegmentError::TooManyMaps(4))));
    assert_eq!(segments.end(), end, "nothing is mapped");
    // Neighbours are one mapping.
    segments
        .append_pieces(end, &pieces(&[3, 4, 5, 6, 9, 10]))
        .unwrap();
    segments
        .append_pieces(segments.end(), &pieces(&[8]))
        .unwrap();
    let one = segments.append_pieces(segments.end(), &pieces(&[0]));
    assert!(matches!(one, Err(SegmentError::TooManyMaps(1))));
}

#[test]
fn waits_end_when_the_server_goes_or_time_is_over() {
    let Loopback {
        client,
        server,
        consumer,
    } = pair();
    let short = Some(Duration::from_millis(5));
    assert_eq!(
        client.wait_until(|| false, || {}, short),
        Err(WaitError::TimedOut)
    );
    assert_eq!(client.poll_until(|| false, short), Err(WaitError::TimedOut));
    drop((server, consumer));
    assert_eq!(
        client.wait_until(|| false, || {}, None),
        Err(WaitError::PeerGone)
    );
    assert_eq!(client.poll_until(|| false, None), Err(WaitError::PeerGone));
    assert!(client.is_gone(false));
    assert!(
        matches!(client.alloc(1 << 30, 64), Err(HeapError::Full(_))),
        "no growth without a server"
    );
}

#[test]
fn a_forked_childs_copies_can_be_let_go() {
    let Loopback {
        client,
        server,
        consumer,
    } = pair();
    client.abandon_in_child().unwrap();
    assert!(
        server.is_gone(),
        "no descriptor of the connection is left here"
    );
    assert!(consumer.sleep(None, None).unwrap().gone);
    assert_eq!(
        client.sleep_until(|| false, || {}, None),
        Err(WaitError::PeerGone)
    );
}
