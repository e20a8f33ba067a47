//! Runs host functions of streams: one thread per context, one function at a time.
//!
//! The stream's executor waits for the function's end, so the stream is blocked meanwhile, as CUDA
//! promises. CUDA calls made on this thread are refused (`NOT_PERMITTED`).

use parking_lot::Mutex;
use std::ffi::c_void;
use std::sync::mpsc::{Sender, channel, sync_channel};
use vgpu_protocol::cuda::{CUresult, CUstream};

/// A function of the program to be called from a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HostCall {
    /// Of `cuLaunchHostFunc`, or of a host node.
    Function {
        function: unsafe extern "C" fn(*mut c_void),
        user: usize,
    },
    /// Of `cuStreamAddCallback`; called also when the context has failed.
    Callback {
        function: unsafe extern "C" fn(CUstream, CUresult, *mut c_void),
        stream: CUstream,
        user: usize,
    },
}

impl HostCall {
    /// Whether the function is called with the error when the context has failed.
    pub(crate) fn wants_failures(self) -> bool {
        matches!(self, Self::Callback { .. })
    }

    fn call(self, status: CUresult) {
        match self {
            // SAFETY: the program gave the function to be called with this argument, once per
            // execution of the command, on a thread of the driver's choice.
            Self::Function { function, user } => unsafe { function(user as *mut c_void) },
            Self::Callback {
                function,
                stream,
                user,
            } => {
                // SAFETY: as above.
                unsafe { function(stream, status, user as *mut c_void) }
            }
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// The thread, started with the first function and ended with its context.
#[derive(Default)]
pub(crate) struct HostThread {
    jobs: Mutex<Option<Sender<Job>>>,
}

impl HostThread {
    /// Calls a host function and waits for its end.
    ///
    /// # Errors
    /// `OPERATING_SYSTEM` if there can be no thread.
    pub(crate) fn run(&self, call: HostCall, status: CUresult) -> Result<(), CUresult> {
        let (done, wait) = sync_channel::<()>(1);
        let job: Job = Box::new(move || {
            call.call(status);
            let _ = done.send(());
        });
        self.send(job)?;
        wait.recv().map_err(|_| CUresult::UNKNOWN)
    }

    fn send(&self, job: Job) -> Result<(), CUresult> {
        let mut jobs = self.jobs.lock();
        let sender = match jobs.as_ref() {
            Some(sender) => sender,
            None => {
                let (sender, receiver) = channel::<Job>();
                std::thread::Builder::new()
                    .name("vgpu-host-fn".into())
                    .spawn(move || {
                        crate::current::mark_host_function_thread();
                        for job in receiver {
                            job();
                        }
                    })
                    .map_err(|_| CUresult::OPERATING_SYSTEM)?;
                jobs.insert(sender)
            }
        };
        sender.send(job).map_err(|_| CUresult::UNKNOWN)
    }
}
