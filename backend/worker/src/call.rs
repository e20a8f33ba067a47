//! One record being executed: its private bytes, the checks on what they say, and the answer.

use crate::live::{Entry, Found, Handle, HandleCache, Kind};
use crate::state::Worker;
use crate::{dispatch, timeline};
use std::sync::Arc;
use vgpu_channel::reply::PAYLOAD_BYTES;
use vgpu_channel::ring::RecordHeader;
use vgpu_driver::Driver;
use vgpu_protocol::cuda::{
    CU_STREAM_CAPTURE_MODE_GLOBAL, CU_STREAM_CAPTURE_MODE_RELAXED, CUcontext, CUdevice,
    CUdeviceptr, CUgraphNode, CUresult, CUstream,
};
use vgpu_protocol::wire::{RECORD_CAPTURE_MODE_SHIFT, RECORD_FLUSH, RECORD_REPLY};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Result of a call's body; the error is what the client gets.
pub type Outcome = Result<(), CUresult>;

/// A record without its payload.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// What the client wrote, unchecked.
    pub header: RecordHeader,
    /// Its position in the ring.
    pub position: u64,
    /// Whether to have the driver refuse the call, because a capture prohibits it.
    pub prohibited: bool,
}

#[cfg(test)]
impl Request {
    /// As a client sends it that waits for the answer in `slot`.
    pub(crate) fn of_client(call: u16, slot: u64) -> Self {
        let header = RecordHeader {
            call,
            flags: RECORD_REPLY,
            reply_sequence: 1,
            reply_address: slot,
            ..RecordHeader::default()
        };
        Self {
            header,
            position: 1,
            prohibited: false,
        }
    }
}

impl Request {
    /// The record's stamp on timelines.
    pub fn stamp(&self) -> u32 {
        self.position as u32
    }

    /// The guest thread's capture mode.
    pub fn capture_mode(&self) -> u32 {
        u32::from(self.header.flags >> RECORD_CAPTURE_MODE_SHIFT) & 3
    }
}

/// What one thread of the worker keeps between calls.
#[derive(Debug)]
pub struct Executor {
    /// The context that this thread issues for; 0 for lanes.
    own: u64,
    /// The driver's current context of this thread, and how many contexts had died when it was set.
    current: Option<(u64, u64)>,
    functions: HandleCache,
    kernels: HandleCache,
    streams: HandleCache,
    events: HandleCache,
    execs: HandleCache,
    reply: Vec<u8>,
    /// Streams whose timeline was written since the thread last slept, with their contexts.
    pub flushed: Vec<(u64, u64)>,
}

impl Executor {
    /// State of the calling thread, which is put into relaxed capture mode. `own` is the context it
    /// issues for, 0 if it is a lane or not known yet.
    pub fn new(driver: &Driver, own: u64) -> Self {
        exchange_mode(driver, CU_STREAM_CAPTURE_MODE_RELAXED);
        Self {
            own,
            current: None,
            functions: HandleCache::new(Kind::Function),
            kernels: HandleCache::new(Kind::Kernel),
            streams: HandleCache::new(Kind::Stream),
            events: HandleCache::new(Kind::Event),
            execs: HandleCache::new(Kind::Exec),
            reply: Vec::with_capacity(PAYLOAD_BYTES),
            flushed: Vec::new(),
        }
    }

    /// Makes `scope` the thread's current context. A context that is not live counts as none: the
    /// driver then refuses what needs one.
    ///
    /// # Errors
    /// What the driver says.
    #[inline]
    pub fn switch(&mut self, worker: &Worker, scope: u64) -> Outcome {
        let deaths = worker.live.removals(Kind::Context);
        if self.current == Some((scope, deaths)) {
            return Ok(());
        }
        self.set_current(worker, scope, deaths)
    }

    #[cold]
    fn set_current(&mut self, worker: &Worker, scope: u64, deaths: u64) -> Outcome {
        let live = worker.live.contains(Kind::Context, scope);
        let ctx = CUcontext(if live { scope } else { 0 });
        self.current = None;
        let set = worker
            .driver
            .cuCtxSetCurrent
            .ok_or(CUresult::NOT_SUPPORTED)?;
        // SAFETY: the context is live or null.
        worker.result(unsafe { set(ctx) })?;
        // Not remembered when it is dead: the driver may give its handle to the next context.
        self.current = (live || scope == 0).then_some((scope, deaths));
        Ok(())
    }

    /// The context that this thread issues for.
    pub fn own(&self) -> u64 {
        self.own
    }

    /// Sets the context that this thread issues for.
    pub fn set_own(&mut self, ctx: u64) {
        self.own = ctx;
        self.streams.forget();
        self.events.forget();
    }

    /// Forgets which context is current, after a call that changed it.
    pub fn forget_current(&mut self) {
        self.current = None;
    }
}

/// Sets the calling thread's capture mode in the driver and gives the old one.
fn exchange_mode(driver: &Driver, mode: u32) -> u32 {
    let mut mode = mode;
    if let Some(exchange) = driver.cuThreadExchangeStreamCaptureMode {
        // SAFETY: a valid mode in a valid variable.
        let result = unsafe { exchange(&raw mut mode) };
        if result != CUresult::SUCCESS {
            tracing::debug!("the driver keeps its capture mode: {result}");
        }
    }
    mode
}

/// A record being executed.
#[derive(Debug)]
pub struct Call<'a> {
    /// The worker.
    pub worker: &'a Arc<Worker>,
    /// The executing thread.
    pub thread: &'a mut Executor,
    /// The record.
    pub request: Request,
    /// Its payload, without the address of the timeline word.
    pub payload: &'a [u8],
    /// The stream it was issued to, once that was found live.
    pub stream: Option<CUstream>,
    /// Whether the call synchronised with the device, so that device text may have come up.
    pub synchronised: bool,
}

/// Executes a record and answers it.
#[inline]
pub fn execute(worker: &Arc<Worker>, thread: &mut Executor, request: Request, payload: &[u8]) {
    thread.reply.clear();
    let mut word = None;
    let mut payload = payload;
    let mut outcome = Ok(());
    if request.header.flags & RECORD_FLUSH != 0 {
        match payload.split_last_chunk::<8>() {
            Some((rest, last)) => (payload, word) = (rest, Some(u64::from_le_bytes(*last))),
            None => outcome = Err(CUresult::INVALID_VALUE),
        }
    }
    let scope = request.header.scope;
    outcome = outcome.and_then(|()| thread.switch(worker, scope));
    let mut call = Call {
        worker,
        thread,
        request,
        payload,
        stream: None,
        synchronised: false,
    };
    if outcome.is_ok() {
        outcome = if request.prohibited {
            call.dispatch_prohibited()
        } else {
            dispatch::dispatch(&mut call)
        };
    }
    if let Some(word) = word {
        let flushed = match call.stream {
            Some(stream) => timeline::write(&mut call, stream, word),
            None => Err(CUresult::INVALID_VALUE),
        };
        if outcome.is_ok() {
            outcome = flushed;
        }
    }
    // Before the answer: who has it must find itself counted.
    worker
        .figures
        .executed(request.header.call, payload, outcome);
    call.answer(outcome);
}

impl<'a> Call<'a> {
    /// The driver.
    #[inline]
    pub fn driver(&self) -> &'a Driver {
        &self.worker.driver
    }

    /// Number of the call.
    #[inline]
    pub fn number(&self) -> u16 {
        self.request.header.call
    }

    /// Passes a driver's result on; see [`Worker::result`].
    ///
    /// # Errors
    /// The result, unless it is success.
    #[inline]
    pub fn result(&self, result: CUresult) -> Outcome {
        self.worker.result(result)
    }

    fn dispatch_prohibited(&mut self) -> Outcome {
        let before = exchange_mode(self.driver(), CU_STREAM_CAPTURE_MODE_GLOBAL);
        let outcome = dispatch::dispatch(self);
        exchange_mode(self.driver(), before);
        outcome
    }

    fn answer(&mut self, outcome: Outcome) {
        let header = &self.request.header;
        let code = CUresult::from(outcome);
        if code.is_sticky() {
            self.worker.note(code);
        }
        if header.flags & RECORD_REPLY == 0 {
            if code != CUresult::SUCCESS && !code.is_sticky() {
                self.latch(code);
            }
            return;
        }
        if self.synchronised && self.worker.printing.real_sync() {
            self.worker.output.deliver(&self.worker.channel);
        }
        let answered = self.worker.channel.complete(
            header.reply_address,
            header.reply_sequence,
            code.0.cast_signed(),
            &self.thread.reply,
        );
        if let Err(error) = answered {
            self.count_malformed();
            tracing::debug!("an answer could not be given: {error}");
        }
    }

    #[cold]
    fn latch(&self, code: CUresult) {
        if let Err(error) = self
            .worker
            .channel
            .latch(self.request.header.reply_address, code.0)
        {
            self.count_malformed();
            tracing::debug!("an error could not be left behind: {error}");
        }
    }

    /// Counts a record that breaks its format, and gives what it is answered with.
    #[cold]
    pub fn malformed(&self) -> CUresult {
        self.count_malformed();
        CUresult::INVALID_VALUE
    }

    fn count_malformed(&self) {
        self.worker.refused(&self.worker.counters.malformed);
    }

    // --- reading ---

    /// The whole payload as one struct.
    ///
    /// # Errors
    /// `INVALID_VALUE` when it has another size.
    #[inline]
    pub fn decode<T: FromBytes>(&self) -> Result<T, CUresult> {
        T::read_from_bytes(self.payload).map_err(|_| self.malformed())
    }

    /// Takes one struct off the front of the payload.
    ///
    /// # Errors
    /// `INVALID_VALUE` when the payload is too short.
    #[inline]
    pub fn take<T: FromBytes>(&mut self) -> Result<T, CUresult> {
        match T::read_from_prefix(self.payload) {
            Ok((value, rest)) => {
                self.payload = rest;
                Ok(value)
            }
            Err(_) => Err(self.malformed()),
        }
    }

    /// Takes `count` structs off the front of the payload.
    ///
    /// # Errors
    /// `INVALID_VALUE` when the payload is too short.
    pub fn take_list<T: FromBytes>(&mut self, count: usize) -> Result<Vec<T>, CUresult> {
        // A count beyond the payload must not make room for it first.
        if count > self.payload.len() / size_of::<T>().max(1) {
            return Err(self.malformed());
        }
        (0..count).map(|_| self.take::<T>()).collect()
    }

    /// Takes `len` bytes off the front of the payload.
    ///
    /// # Errors
    /// `INVALID_VALUE` when the payload is too short.
    pub fn take_bytes(&mut self, len: usize) -> Result<&'a [u8], CUresult> {
        match self.payload.split_at_checked(len) {
            Some((bytes, rest)) => {
                self.payload = rest;
                Ok(bytes)
            }
            None => Err(self.malformed()),
        }
    }

    /// That nothing is left of the payload.
    ///
    /// # Errors
    /// `INVALID_VALUE`.
    pub fn done(&self) -> Outcome {
        if self.payload.is_empty() {
            Ok(())
        } else {
            Err(self.malformed())
        }
    }

    /// The rest of the payload as a name, ready for the driver.
    ///
    /// # Errors
    /// `INVALID_VALUE` when it holds a zero byte.
    pub fn take_name(&mut self) -> Result<std::ffi::CString, CUresult> {
        let name = std::ffi::CString::new(self.payload).map_err(|_| self.malformed())?;
        self.payload = &[];
        Ok(name)
    }

    // --- checking ---

    #[cold]
    fn dead(&self, code: CUresult) -> CUresult {
        self.worker.refused(&self.worker.counters.handles);
        code
    }

    /// That a handle is live.
    ///
    /// # Errors
    /// What CUDA says of an unknown handle of this type.
    #[inline]
    pub fn live<T: Handle>(&mut self, handle: T) -> Outcome {
        let live = &self.worker.live;
        let word = handle.to_word();
        let found = match T::KIND {
            // CUDA takes a kernel wherever it takes a function.
            Kind::Function => {
                self.thread.functions.check(live, word) || self.thread.kernels.check(live, word)
            }
            Kind::Kernel => self.thread.kernels.check(live, word),
            Kind::Event => match self.thread.events.find(live, word, self.thread.own) {
                Found::Own => true,
                Found::Foreign => self.settle(),
                Found::Dead => false,
            },
            Kind::Exec => self.thread.execs.check(live, word),
            kind => live.contains(kind, word),
        };
        if found {
            Ok(())
        } else {
            Err(self.dead(T::UNKNOWN))
        }
    }

    /// Waits for all records before this one, because it concerns another context's object, too.
    /// Always true.
    #[cold]
    fn settle(&self) -> bool {
        let (worker, position) = (self.worker, self.request.position);
        worker.issuers.settle(worker, position, self.thread.own);
        true
    }

    /// What is kept of a live handle.
    ///
    /// # Errors
    /// What CUDA says of an unknown handle of this type.
    pub fn entry<T: Handle>(&self, handle: T) -> Result<Entry, CUresult> {
        self.worker
            .live
            .get(T::KIND, handle.to_word())
            .ok_or_else(|| self.dead(T::UNKNOWN))
    }

    /// That a stream is live or the legacy stream, and that it has waited for posted copies.
    ///
    /// # Errors
    /// `INVALID_HANDLE`; what the driver says of the wait.
    #[inline]
    pub fn in_stream(&mut self, stream: CUstream) -> Result<CUstream, CUresult> {
        if stream.0 > CUstream::LEGACY.0 {
            // The per-thread stream is the shim's business: here it would be a worker thread's.
            let found = match stream {
                CUstream::PER_THREAD => Found::Dead,
                _ => self
                    .thread
                    .streams
                    .find(&self.worker.live, stream.0, self.thread.own),
            };
            match found {
                Found::Own => {}
                Found::Foreign => {
                    self.settle();
                }
                Found::Dead => return Err(self.dead(CUresult::INVALID_HANDLE)),
            }
            if self.worker.posted.any() {
                crate::copies::catch_up(self, stream)?;
            }
        }
        self.stream = Some(stream);
        Ok(stream)
    }

    /// That a device ordinal names a device.
    ///
    /// # Errors
    /// `INVALID_DEVICE`.
    pub fn device(&self, device: CUdevice) -> Result<CUdevice, CUresult> {
        if (0..self.worker.devices).contains(&device.0) {
            Ok(device)
        } else {
            Err(CUresult::INVALID_DEVICE)
        }
    }

    /// Enters a handle that the driver gave. It belongs to the call's context.
    pub fn enter<T: Handle>(&self, handle: T, owner: u64) {
        let entry = Entry {
            ctx: self.request.header.scope,
            owner,
            ..Entry::default()
        };
        match T::KIND {
            // The driver gives these more than once.
            Kind::Context | Kind::Pool | Kind::Module | Kind::Library | Kind::Node => {
                self.worker
                    .live
                    .enter_if_new(T::KIND, handle.to_word(), entry);
            }
            kind => self.worker.live.enter(kind, handle.to_word(), entry),
        }
    }

    // --- answering ---

    /// Appends to the answer's payload.
    ///
    /// # Errors
    /// `UNKNOWN` when it gets longer than a reply slot takes, which is a defect of the caller.
    pub fn reply<T: IntoBytes + Immutable>(&mut self, part: &T) -> Outcome {
        self.reply_bytes(part.as_bytes())
    }

    /// As [`Call::reply`], for bytes.
    ///
    /// # Errors
    /// As [`Call::reply`].
    pub fn reply_bytes(&mut self, bytes: &[u8]) -> Outcome {
        if bytes.len() > self.reply_room() {
            return Err(CUresult::UNKNOWN);
        }
        self.thread.reply.extend_from_slice(bytes);
        Ok(())
    }

    /// Bytes that still fit the answer.
    pub fn reply_room(&self) -> usize {
        PAYLOAD_BYTES.saturating_sub(self.thread.reply.len())
    }

    /// First 64-bit word of the answer so far.
    pub fn reply_word(&self) -> Option<u64> {
        self.thread
            .reply
            .first_chunk::<8>()
            .map(|bytes| u64::from_le_bytes(*bytes))
    }
}

/// An argument or a result: what must be true of it beyond its type.
pub trait Value: Copy {
    /// Checks a value that goes to the driver.
    ///
    /// # Errors
    /// What the client gets instead of the call.
    #[inline]
    fn admit(self, _call: &mut Call<'_>) -> Result<Self, CUresult> {
        Ok(self)
    }
    /// Checks a value that came from the driver.
    ///
    /// # Errors
    /// What the client gets instead of the value.
    #[inline]
    fn emit(self, _call: &Call<'_>) -> Outcome {
        Ok(())
    }
}

macro_rules! plain_values {
    ($($ty:ty),* $(,)?) => { $( impl Value for $ty {} )* };
}
use vgpu_protocol::cuda::{
    CUDA_ARRAY_MEMORY_REQUIREMENTS, CUDA_ARRAY_SPARSE_PROPERTIES, CUevent, CUexecAffinityParam,
    CUfunction, CUgraph, CUgraphExec, CUkernel, CUlibrary, CUmemoryPool, CUmodule,
};
plain_values!(
    u8,
    u16,
    u32,
    u64,
    usize,
    i32,
    f32,
    CUdevice,
    CUcontext,
    CUevent,
    CUfunction,
    CUgraph,
    CUgraphExec,
    CUkernel,
    CUlibrary,
    CUmemoryPool,
    CUmodule,
    CUstream,
    CUDA_ARRAY_MEMORY_REQUIREMENTS,
    CUDA_ARRAY_SPARSE_PROPERTIES,
    CUexecAffinityParam,
);

impl Value for CUdeviceptr {
    #[inline]
    fn admit(self, call: &mut Call<'_>) -> Result<Self, CUresult> {
        call.worker.device_address(self.0)?;
        Ok(self)
    }
    fn emit(self, call: &Call<'_>) -> Outcome {
        call.worker.placed(self.0)
    }
}

impl Value for CUgraphNode {
    fn admit(self, call: &mut Call<'_>) -> Result<Self, CUresult> {
        call.live(self)?;
        Ok(self)
    }
}

/// Answers a record without executing it.
#[cold]
pub fn refuse(worker: &Arc<Worker>, thread: &mut Executor, request: Request, code: CUresult) {
    thread.reply.clear();
    let mut call = Call {
        worker,
        thread,
        request,
        payload: &[],
        stream: None,
        synchronised: false,
    };
    call.answer(Err(code));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Parts;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use vgpu_channel::link::Hello;
    use vgpu_channel::loopback;
    use vgpu_channel::server::Config;

    /// The context that the driver was last asked to make current.
    static CURRENT: AtomicU64 = AtomicU64::new(0);

    unsafe extern "C" fn set_current(ctx: CUcontext) -> CUresult {
        CURRENT.store(ctx.0, Ordering::Relaxed);
        CUresult::SUCCESS
    }

    /// Whether the driver was asked for anything.
    static ASKED: AtomicBool = AtomicBool::new(false);

    unsafe extern "C" fn of_stream(_stream: CUstream) -> CUresult {
        ASKED.store(true, Ordering::Relaxed);
        CUresult::SUCCESS
    }

    unsafe extern "C" fn of_event(_event: CUevent) -> CUresult {
        ASKED.store(true, Ordering::Relaxed);
        CUresult::SUCCESS
    }

    unsafe extern "C" fn of_module(_module: CUmodule) -> CUresult {
        ASKED.store(true, Ordering::Relaxed);
        CUresult::SUCCESS
    }

    #[test]
    fn a_handle_that_is_not_live_never_reaches_the_driver() {
        use vgpu_protocol::number::call;
        let pair = loopback::pair(&Config::default(), Hello::new(0, 0), &[]).expect("a channel");
        let worker = Worker::new(Parts::bare(
            Driver {
                cuCtxSetCurrent: Some(set_current),
                cuStreamQuery: Some(of_stream),
                cuStreamSynchronize: Some(of_stream),
                cuStreamDestroy_v2: Some(of_stream),
                cuEventQuery: Some(of_event),
                cuEventDestroy_v2: Some(of_event),
                cuModuleUnload: Some(of_module),
                ..Driver::default()
            },
            Arc::clone(&pair.server),
        ));
        let slot = pair.client.alloc_reply().expect("a slot");
        let mut thread = Executor::new(&worker.driver, 0);
        for (kind, number) in [
            (Kind::Stream, call::cuStreamQuery),
            (Kind::Stream, call::cuStreamSynchronize),
            (Kind::Stream, call::cuStreamDestroy_v2),
            (Kind::Event, call::cuEventQuery),
            (Kind::Event, call::cuEventDestroy_v2),
            (Kind::Module, call::cuModuleUnload),
        ] {
            let mut asked = |handle: u64| {
                let request = Request::of_client(number, slot);
                ASKED.store(false, Ordering::Relaxed);
                execute(&worker, &mut thread, request, &handle.to_le_bytes());
                ASKED.load(Ordering::Relaxed)
            };
            let live = 0x1000 + u64::from(number) * 0x100;
            worker.live.enter(kind, live, Entry::default());
            // One that never was, one of another kind, one that is live, the same after its end.
            assert!(!asked(0x7f00_0000), "call {number} of a forged handle");
            worker.live.enter(Kind::Graph, 0x9990, Entry::default());
            assert!(!asked(0x9990), "call {number} of a graph");
            assert!(asked(live), "call {number} of a live handle");
            worker.live.remove(kind, live);
            assert!(!asked(live), "call {number} of a handle that was live");
        }
    }

    #[test]
    fn a_context_with_the_handle_of_a_dead_one_is_made_current_anew() {
        let pair = loopback::pair(&Config::default(), Hello::new(0, 0), &[]).expect("a channel");
        let worker = Worker::new(Parts {
            primaries: vec![0x1000],
            ..Parts::bare(
                Driver {
                    cuCtxSetCurrent: Some(set_current),
                    ..Driver::default()
                },
                Arc::clone(&pair.server),
            )
        });
        let mut thread = Executor::new(&worker.driver, 0);
        assert_eq!(thread.switch(&worker, 0x1000), Ok(()));
        assert_eq!(CURRENT.load(Ordering::Relaxed), 0x1000);
        worker.live.remove(Kind::Context, 0x1000);
        // A thread that still has work of the dead context runs in none.
        assert_eq!(thread.switch(&worker, 0x1000), Ok(()));
        assert_eq!(CURRENT.load(Ordering::Relaxed), 0);
        worker.live.enter(Kind::Context, 0x1000, Entry::default());
        assert_eq!(thread.switch(&worker, 0x1000), Ok(()));
        assert_eq!(CURRENT.load(Ordering::Relaxed), 0x1000);
    }
}
