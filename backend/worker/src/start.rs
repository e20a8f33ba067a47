//! A worker process from its first instruction to its last.
//!
//! It is exec'ed with a socket to the daemon as its only descriptor beside standard output (nowhere)
//! and standard error (the daemon's log), and with an environment of allow-listed driver settings.
//! The order of its start is fixed:
//!
//! 1. close everything else, become undumpable, die with the daemon;
//! 2. receive the channel's parts;
//! 3. reserve the shared part of the window, map the segments, close the files behind them if they are a machine's RAM;
//! 4. steer the driver's allocations into the window;
//! 5. load and initialise the driver, take the snapshot;
//! 6. confine the process (`confine`);
//! 7. welcome the client, and only now read what it writes.

use crate::call::Executor;
use crate::exchange::Exchange;
use crate::figures::Counts;
use crate::ipc::{Carrier, Sharing};
use crate::issuer::{Ended, Issuer};
use crate::output::Output;
use crate::quota::Quota;
use crate::setup::{DEVICE_CUDA, DEVICE_SOFTWARE, MEMORY_PIECES, Received, Setup, SetupError};
use crate::state::{Addresses, Parts, Worker};
use crate::{control, device, snapshot};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use vgpu_channel::control::{FEATURE_APART, ServerState};
use vgpu_channel::link::{LinkError, LinkStatus, Socket};
use vgpu_channel::permits::Permits;
use vgpu_channel::server::{self, Channel, Consumer};
use vgpu_channel::shm;
use vgpu_channel::wait::{APART_SPIN, SpinBudget};
use vgpu_channel::window::{Reservation, WindowError};
use vgpu_driver::Driver;
use vgpu_protocol::cuda::{CUdevice, CUresult};
use vgpu_protocol::number::fingerprint;

/// How long the daemon may take for its message.
const SETUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a worker could not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("the process could not be prepared: {0}")]
    System(#[from] std::io::Error),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Window(#[from] WindowError),
    #[error(transparent)]
    Channel(#[from] server::SetupError),
    #[error(transparent)]
    Device(#[from] device::DeviceError),
    #[error(transparent)]
    Snapshot(#[from] vgpu_channel::shm::OutOfRange),
    #[error(
        "device {0} can read ordinary host memory, this process's included, so it is not served; load the kernel module nvidia_uvm with uvm_disable_hmm=1"
    )]
    HeterogeneousMemory(i32),
    #[error("device {0} is not known to this worker")]
    UnknownDevice(u32),
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// Runs a worker process: to be called from `main`, with the daemon's socket as standard input.
/// Returns when the client's life is over; the process must exit then.
pub fn run() -> ExitCode {
    match start() {
        Ok(Ended::Corrupt) => ExitCode::from(3),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("the worker cannot serve: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<Ended, StartError> {
    shm::count_copies();
    let socket = isolate()?;
    let Received {
        setup,
        parts,
        permits,
        figures: page,
        exchange,
    } = Setup::receive(Socket::from_fd(socket), SETUP_TIMEOUT)?;
    // The descriptor is closed here; the map stays.
    let figures = Counts::map(page.as_fd())?;
    drop(page);
    let daemon = Socket::from_fd(parts.socket.as_fd().try_clone_to_owned()?);
    let reservation = Reservation::for_server(setup.hello.window)
        .inspect_err(|_| vgpu_channel::link::listener::refuse(&daemon, LinkStatus::Window))?;
    let (channel, consumer) = Channel::open(parts, reservation)?;
    let opened = prepare(&setup, &channel, permits, figures, exchange).inspect_err(|error| {
        channel.refuse(match error {
            StartError::Window(_) => LinkStatus::Window,
            StartError::Device(_) => LinkStatus::NoDevice,
            _ => LinkStatus::Internal,
        });
    })?;
    let worker = Worker::new(opened);
    confine();
    Ok(serve(worker, consumer, daemon, &setup)?)
}

/// Cuts the process off from what it inherited, and gives the daemon's socket.
fn isolate() -> std::io::Result<OwnedFd> {
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = rustix::fs::open(
        "/dev/null",
        rustix::fs::OFlags::RDWR,
        rustix::fs::Mode::empty(),
    )?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    drop(null);
    let keep = std::os::fd::AsRawFd::as_raw_fd(&socket).cast_unsigned();
    for (first, last) in [(3, keep.saturating_sub(1)), (keep + 1, u32::MAX)] {
        if first <= last {
            // SAFETY: no descriptor in this range belongs to anything in this process, which has
            // opened nothing yet but `socket`.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    die_with_daemon()?;
    Ok(socket)
}

/// The daemon's death closes the socket, which ends the worker in good order; should that hang, the
/// signal's alarm ends it a second later.
fn die_with_daemon() -> std::io::Result<()> {
    extern "C" fn soon(_: libc::c_int) {
        // SAFETY: async-signal-safe; the alarm's default action ends the process.
        unsafe { libc::alarm(1) };
    }
    // SAFETY: an all-zero `sigaction` is valid, the handler only sets an alarm, and the process has
    // a single thread.
    let set = unsafe {
        let mut action = std::mem::zeroed::<libc::sigaction>();
        action.sa_sigaction = soon as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(libc::SIGTERM, &raw const action, std::ptr::null_mut())
    };
    if set != 0 {
        return Err(std::io::Error::last_os_error());
    }
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    Ok(())
}

/// Loads and initialises the driver and leaves the snapshot in the channel.
fn prepare(
    setup: &Setup,
    channel: &Arc<Channel>,
    permits: Permits,
    figures: Counts,
    exchange: Exchange,
) -> Result<Parts, StartError> {
    let output = Output::capture()?;
    channel.segments().reservation().steer_driver()?;
    let software = setup.device == DEVICE_SOFTWARE;
    let mut carrier = None;
    let driver = match setup.device {
        DEVICE_CUDA => device::load_cuda()?,
        DEVICE_SOFTWARE => {
            vgpu_software::configure(vgpu_software::Options {
                devices: i32::try_from(setup.software_devices).unwrap_or(1),
                ..vgpu_software::Options::default()
            });
            carrier = Some(Carrier {
                take: vgpu_software::ipc::take_descriptor,
                put: vgpu_software::ipc::put_descriptor,
            });
            vgpu_software::driver()
        }
        other => return Err(StartError::UnknownDevice(other)),
    };
    let devices = device::initialise(&driver)?;
    if !software {
        refuse_heterogeneous_memory(&driver, devices)?;
    }
    let quota = Quota::new(setup.quota, Counts::private());
    let registers = channel
        .heap_segments()
        .first()
        .is_some_and(|heap| channel.segments().is_plain(heap.address, heap.len));
    let taken = snapshot::take(&driver, devices, software, registers, &quota);
    channel.write_snapshot(&taken.bytes)?;
    let archs = if software {
        Vec::new()
    } else {
        device::archs(&driver, devices)
    };
    let budget = if setup.memory == MEMORY_PIECES {
        channel.add_features(FEATURE_APART);
        SpinBudget::new(APART_SPIN)
    } else {
        SpinBudget::default()
    };
    Ok(Parts {
        driver,
        channel: Arc::clone(channel),
        quota: setup.quota,
        addresses: Addresses::Window,
        output,
        figures,
        devices: devices.min(snapshot::MAX_DEVICES),
        primaries: taken.primaries,
        archs,
        budget,
        permits: Some(permits),
        sharing: Sharing::new(exchange, carrier),
    })
}

/// A device that reads ordinary host memory by itself could read this very process: such a host is
/// not served (`isolation.md` 14).
fn refuse_heterogeneous_memory(driver: &Driver, devices: i32) -> Result<(), StartError> {
    const PAGEABLE_MEMORY_ACCESS: i32 = 88;
    for ordinal in 0..devices {
        let mut value = 0;
        // SAFETY: the result has room.
        let asked = unsafe {
            vgpu_driver::call!(
                driver,
                cuDeviceGetAttribute(&raw mut value, PAGEABLE_MEMORY_ACCESS, CUdevice(ordinal))
            )
        };
        if asked == CUresult::SUCCESS && value != 0 {
            return Err(StartError::HeterogeneousMemory(ordinal));
        }
    }
    Ok(())
}

/// Gives up what serving does not need, before the first guest byte is read. Descriptors, dumps and
/// the environment are already taken care of; filters for system calls and files belong here, after
/// every library that the driver loads lazily is loaded (`isolation.md` 11).
fn confine() {
    // What a client makes the driver write must not become a core file.
    let none = rustix::process::Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Core, none) {
        tracing::warn!("core files could not be turned off: {error}");
    }
}

fn serve(
    worker: Arc<Worker>,
    consumer: Consumer,
    daemon: Socket,
    setup: &Setup,
) -> Result<Ended, LinkError> {
    spawn("output", {
        let worker = Arc::clone(&worker);
        move || worker.output.relay(&worker.channel, &worker.gate)
    });
    spawn("control", {
        let (worker, listen) = (Arc::clone(&worker), setup.listen_path());
        move || {
            // Registration makes driver calls, which must not meet a capture.
            let mut thread = Executor::new(&worker.driver, 0);
            control::serve(&worker, &mut thread, &daemon);
            // Whatever the other threads are in, nobody waits for its result any more.
            control::remove_stale_socket(listen);
            std::process::exit(0);
        }
    });
    let mut issuer = Issuer::new(Arc::clone(&worker), consumer);
    worker.channel.welcome(fingerprint())?;
    let ended = issuer.run();
    worker.stop();
    worker.channel.set_state(ServerState::Ended);
    worker.channel.wake_client();
    if ended == Ended::Gone {
        control::remove_stale_socket(setup.listen_path());
    }
    // Lanes may hang in the driver; the process ends without them.
    std::process::exit(match ended {
        Ended::Corrupt => 3,
        Ended::Gone | Ended::Stopped => 0,
    })
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) {
    let spawned = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body);
    if let Err(error) = spawned {
        tracing::error!("no thread for {name}: {error}");
        std::process::exit(1);
    }
}

/// Serves a channel in this process until the client is gone, for tests and for fuzzing: what
/// [`run`] does after a driver is there, without the process's isolation.
pub fn serve_in_process(driver: Driver, devices: i32, consumer: Consumer) -> Ended {
    let worker = Worker::new(Parts {
        devices,
        ..Parts::bare(driver, Arc::clone(consumer.channel()))
    });
    let ended = Issuer::new(Arc::clone(&worker), consumer).run();
    worker.stop();
    worker.channel.set_state(ServerState::Ended);
    worker.channel.wake_client();
    ended
}
