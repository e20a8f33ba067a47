//! Benchmarks of the channel. Threads and processes are pinned to different cores where there are any.
//!
//! * `post`: one thread posts into a ring with room, the consumer is awake but elsewhere: what a call costs its thread.
//! * `throughput`: 1 and 4 threads against a consumer thread that reads all the time.
//! * `round trip`: between two processes, beside a bare ping-pong of one word each way in the same run.
//! * `wake-up`: a call whose server sleeps, the caller sleeps too.
//! * `heap`, `staging`: allocation, and copies into shared memory beside an ordinary copy.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use vgpu_bench_channel::{Server, call, cpus, pin, serve_if_asked};
use vgpu_channel::link::Hello;
use vgpu_channel::loopback::{self, Loopback};
use vgpu_channel::ring::{RecordBuf, RecordHeader};
use vgpu_channel::server::Config;
use vgpu_channel::wait::SpinBudget;

fn pair(heap_bytes: u64) -> Loopback {
    let config = Config {
        heap_bytes,
        ..Config::default()
    };
    loopback::pair(&config, Hello::new(0, 0), b"").expect("a loopback channel")
}

const POST: RecordHeader = RecordHeader {
    call: call::POST,
    flags: 0,
    thread: 0,
    reply_sequence: 0,
    reply_address: 0,
    scope: 0,
};

fn post(c: &mut Criterion) {
    let mut group = c.benchmark_group("post");
    pin(cpus().map(|(client, _)| client));
    for len in [24usize, 64, 128, 512] {
        let Loopback {
            client,
            mut consumer,
            ..
        } = pair(2 << 20);
        let payload = vec![7; len];
        let mut buf = RecordBuf::new();
        group.bench_function(BenchmarkId::from_parameter(format!("{len} B")), |b| {
            b.iter_custom(|count| {
                let mut took = Duration::ZERO;
                let mut left = count;
                while left > 0 {
                    // A burst of at most a quarter of the ring, so that it never fills up.
                    let burst = left.min(2048 / (len as u64 / 64 + 2));
                    let start = Instant::now();
                    for _ in 0..burst {
                        client.post(&POST, &[black_box(&payload)]).expect("room");
                    }
                    took += start.elapsed();
                    while consumer.pop(&mut buf).expect("intact").is_some() {}
                    left -= burst;
                }
                took
            });
        });
    }
    group.finish();
}

fn throughput(c: &mut Criterion) {
    let mut group = c.benchmark_group("throughput");
    for (threads, len) in [(1u64, 64usize), (1, 1024), (4, 64), (4, 1024)] {
        let Loopback {
            client,
            mut consumer,
            ..
        } = pair(2 << 20);
        let stop = AtomicBool::new(false);
        group.throughput(Throughput::Elements(threads));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut buf = RecordBuf::new();
                while !stop.load(Ordering::Relaxed) {
                    match consumer.pop(&mut buf).expect("intact") {
                        Some(record) => {
                            black_box(record.payload);
                        }
                        None => std::hint::spin_loop(),
                    }
                }
            });
            group.bench_function(format!("{threads} x {len} B"), |b| {
                b.iter_custom(|count| {
                    let start = Instant::now();
                    std::thread::scope(|scope| {
                        for _ in 0..threads {
                            scope.spawn(|| {
                                let payload = vec![7; len];
                                for _ in 0..count {
                                    client
                                        .post(&POST, &[black_box(&payload)])
                                        .expect("a consumer");
                                }
                            });
                        }
                    });
                    start.elapsed()
                });
            });
            stop.store(true, Ordering::Relaxed);
        });
    }
    group.finish();
}

fn round_trip(c: &mut Criterion) {
    pin(cpus().map(|(client, _)| client));
    let mut server = Server::start();
    server
        .channel
        .set_spin(SpinBudget::for_cpus(usize::MAX, Duration::from_secs(1)));
    let mut group = c.benchmark_group("round trip");
    group.bench_function("bare ping-pong", |b| {
        b.iter_custom(|count| server.ping_pong(count + 1))
    });
    for len in [24usize, 64, 512] {
        let payload = vec![7; len];
        group.bench_function(format!("call, {len} B"), |b| {
            b.iter(|| server.call(call::ECHO, &payload))
        });
    }
    group.bench_function("bare ping-pong again", |b| {
        b.iter_custom(|count| server.ping_pong(count + 1))
    });
    group.finish();

    let mut group = c.benchmark_group("wake-up");
    group.sample_size(20);
    server.call(call::SLEEPY, &[]);
    server.channel.set_spin(SpinBudget::NONE);
    group.bench_function("both asleep", |b| {
        b.iter_custom(|count| {
            let mut took = Duration::ZERO;
            for _ in 0..count {
                // Long enough for the server to be asleep.
                std::thread::sleep(Duration::from_micros(200));
                let start = Instant::now();
                server.call(call::ECHO, &[]);
                took += start.elapsed();
            }
            took
        });
    });
    group.finish();
}

fn heap(c: &mut Criterion) {
    let Loopback { client, .. } = pair(256 << 20);
    let mut group = c.benchmark_group("heap");
    for len in [64u64, 4096, 1 << 20] {
        group.bench_function(format!("alloc and free, {len} B"), |b| {
            b.iter(|| {
                let block = client.alloc(black_box(len), 64).expect("room");
                client.free(block).expect("allocated");
            });
        });
    }
    group.bench_function("among 1000 blocks", |b| {
        let mut blocks: Vec<u64> = (0..1000u64)
            .map(|i| client.alloc(64 + i * 97 % 9000, 64).expect("room"))
            .collect();
        let mut at = 0;
        b.iter(|| {
            at = (at * 5 + 7) % 1000;
            client.free(blocks[at]).expect("allocated");
            blocks[at] = client.alloc(64 + at as u64 * 89 % 9000, 64).expect("room");
        });
        for block in blocks {
            client.free(block).expect("allocated");
        }
    });
    group.finish();
}

fn staging(c: &mut Criterion) {
    pin(cpus().map(|(client, _)| client));
    let Loopback { client, .. } = pair(64 << 20);
    let mut group = c.benchmark_group("staging");
    let shared = client.alloc(16 << 20, 4096).expect("room");
    for len in [256usize, 4096, 64 << 10, 1 << 20, 16 << 20] {
        let mut private = vec![7u8; len];
        let mut plain = vec![0u8; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("into shared memory, {len} B"), |b| {
            b.iter(|| client.copy_in(shared, black_box(&private)).expect("mapped"));
        });
        group.bench_function(format!("out of shared memory, {len} B"), |b| {
            b.iter(|| {
                client
                    .copy_out(shared, black_box(&mut private))
                    .expect("mapped")
            });
        });
        group.bench_function(format!("ordinary copy, {len} B"), |b| {
            b.iter(|| black_box(&mut plain).copy_from_slice(black_box(&private)));
        });
    }
    group.finish();
}

criterion_group! {
    name = channel;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).without_plots();
    // Throughput comes first: its threads would inherit the pinned CPU of the others.
    targets = throughput, post, round_trip, heap, staging
}

fn main() {
    if serve_if_asked() {
        return;
    }
    if let Some((client, server)) = cpus() {
        println!("pinned: client on CPU {client}, server on CPU {server}");
    }
    channel();
    Criterion::default().configure_from_args().final_summary();
}
