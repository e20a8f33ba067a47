//! What the client does in each mode. Every round ends with a comparison against numbers computed on the host.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::time::Duration;

use crate::cuda::{Cuda, Handle};

/// `data[i] = data[i] * 3 + value`: does not commute, so a lost or reordered launch shows in the result.
const PTX: &[u8] = b".version 7.0
.target sm_70
.address_size 64
.visible .entry chain(.param .u64 data, .param .u32 value, .param .u32 n)
{
    .reg .pred %p<2>;
    .reg .b32 %r<10>;
    .reg .b64 %d<5>;
    ld.param.u64 %d1, [data];
    ld.param.u32 %r1, [value];
    ld.param.u32 %r2, [n];
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mov.u32 %r5, %tid.x;
    mad.lo.s32 %r6, %r3, %r4, %r5;
    setp.ge.s32 %p1, %r6, %r2;
    @%p1 bra DONE;
    cvta.to.global.u64 %d2, %d1;
    mul.wide.s32 %d3, %r6, 4;
    add.s64 %d4, %d2, %d3;
    ld.global.u32 %r7, [%d4];
    mad.lo.s32 %r8, %r7, 3, %r1;
    st.global.u32 [%d4], %r8;
DONE:
    ret;
}
\0";

const NON_BLOCKING: c_uint = 1;
const DISABLE_TIMING: c_uint = 2;
const WORDS: usize = 600;
const BYTES: usize = WORDS * 4;

/// Why the client ends before it is told to.
#[derive(Debug)]
pub enum Stop {
    /// A call returned this error.
    Cuda(c_int, &'static str),
    /// The device's numbers are not the host's.
    Mismatch(String),
}

/// Calls a driver function and names it in the error.
macro_rules! call {
    ($cuda:expr, $function:ident $(, $argument:expr)* $(,)?) => {{
        // SAFETY: every argument is a value, a handle that the driver gave out and that is still alive, or a pointer
        // to storage of this function that outlives the call (for asynchronous copies: the synchronisation after it).
        let status = unsafe { ($cuda.$function)($($argument),*) };
        if status == 0 { Ok(()) } else { Err(Stop::Cuda(status, stringify!($function))) }
    }};
}
pub(crate) use call;

/// A context with one kernel, two streams, an event and buffers.
pub struct Worker<'a> {
    cuda: &'a Cuda,
    function: Handle,
    streams: [Handle; 2],
    event: Handle,
    device: u64,
    pinned: *mut u32,
    seed: u32,
}

impl<'a> Worker<'a> {
    /// Initialises CUDA and allocates.
    pub fn new(cuda: &'a Cuda) -> Result<Self, Stop> {
        match cuda.init() {
            0 => {}
            code => return Err(Stop::Cuda(code, "cu_init")),
        }
        let (mut context, mut module, mut function) = (null_mut(), null_mut(), null_mut());
        call!(cuda, primary_retain, &raw mut context, 0)?;
        call!(cuda, set_current, context)?;
        call!(cuda, module_load, &raw mut module, PTX.as_ptr().cast())?;
        call!(
            cuda,
            get_function,
            &raw mut function,
            module,
            c"chain".as_ptr()
        )?;
        let mut streams = [null_mut(); 2];
        for stream in &mut streams {
            call!(cuda, stream_create, &raw mut *stream, NON_BLOCKING)?;
        }
        let (mut event, mut device, mut pinned) = (null_mut(), 0, null_mut());
        call!(cuda, event_create, &raw mut event, DISABLE_TIMING)?;
        call!(cuda, alloc, &raw mut device, BYTES)?;
        call!(cuda, alloc_host, &raw mut pinned, BYTES)?;
        Ok(Self {
            cuda,
            function,
            streams,
            event,
            device,
            pinned: pinned.cast(),
            seed: std::process::id(),
        })
    }

    /// One verified round of the mode.
    pub fn round(&mut self, mode: &str) -> Result<(), Stop> {
        self.seed = self
            .seed
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223);
        match mode {
            "copy" => self.copies(),
            "allocate" => self.allocations(),
            "callback" => self.callbacks(),
            _ => self.launches(),
        }
    }

    fn launch(&self, function: Handle, stream: Handle, data: u64, value: u32) -> Result<(), Stop> {
        let (mut data, mut value, mut n) = (data, value, WORDS as u32);
        let mut parameters: [*mut c_void; 3] = [
            (&raw mut data).cast(),
            (&raw mut value).cast(),
            (&raw mut n).cast(),
        ];
        let blocks = (WORDS as u32).div_ceil(128);
        call!(
            self.cuda,
            launch_kernel,
            function,
            blocks,
            1,
            1,
            128,
            1,
            1,
            0,
            stream,
            parameters.as_mut_ptr(),
            null_mut()
        )
    }

    fn launches(&mut self) -> Result<(), Stop> {
        let [a, b] = self.streams;
        call!(self.cuda, set_words_async, self.device, self.seed, WORDS, a)?;
        let mut want = self.seed;
        for step in 0..40 {
            let (here, there) = if step % 2 == 0 { (a, b) } else { (b, a) };
            self.launch(self.function, here, self.device, step)?;
            want = want.wrapping_mul(3).wrapping_add(step);
            call!(self.cuda, event_record, self.event, here)?;
            call!(self.cuda, stream_wait_event, there, self.event, 0)?;
        }
        call!(
            self.cuda,
            to_host_async,
            self.pinned.cast(),
            self.device,
            BYTES,
            a
        )?;
        call!(self.cuda, stream_synchronize, a)?;
        self.check_pinned(want)
    }

    fn copies(&mut self) -> Result<(), Stop> {
        let len = 1 + (self.seed as usize >> 8) % 100_000;
        let sent: Vec<u8> = (0..len)
            .map(|i| (i as u32).wrapping_mul(self.seed) as u8)
            .collect();
        let mut got = vec![0u8; len];
        let mut device = 0;
        call!(self.cuda, alloc, &raw mut device, len)?;
        call!(self.cuda, to_device, device, sent.as_ptr().cast(), len)?;
        call!(self.cuda, to_host, got.as_mut_ptr().cast(), device, len)?;
        if sent != got {
            return Err(Stop::Mismatch(format!("{len} bytes there and back")));
        }
        call!(self.cuda, free, device)?;
        for i in 0..WORDS {
            // SAFETY: the pinned buffer has WORDS words, and no copy into or out of it is outstanding.
            unsafe { self.pinned.add(i).write_volatile(self.seed) };
        }
        let stream = self.streams[0];
        call!(
            self.cuda,
            to_device_async,
            self.device,
            self.pinned.cast(),
            BYTES,
            stream
        )?;
        self.launch(self.function, stream, self.device, 1)?;
        call!(
            self.cuda,
            to_host_async,
            self.pinned.cast(),
            self.device,
            BYTES,
            stream
        )?;
        call!(self.cuda, stream_synchronize, stream)?;
        self.check_pinned(self.seed.wrapping_mul(3).wrapping_add(1))
    }

    fn allocations(&mut self) -> Result<(), Stop> {
        let (mut module, mut function) = (null_mut(), null_mut());
        let (mut stream, mut event, mut device, mut pinned) =
            (null_mut(), null_mut(), 0, null_mut());
        call!(self.cuda, module_load, &raw mut module, PTX.as_ptr().cast())?;
        call!(
            self.cuda,
            get_function,
            &raw mut function,
            module,
            c"chain".as_ptr()
        )?;
        call!(self.cuda, stream_create, &raw mut stream, NON_BLOCKING)?;
        call!(self.cuda, event_create, &raw mut event, DISABLE_TIMING)?;
        call!(self.cuda, alloc, &raw mut device, 3 << 20)?;
        call!(self.cuda, alloc_host, &raw mut pinned, 1 << 20)?;
        call!(self.cuda, set_words_async, device, self.seed, WORDS, stream)?;
        self.launch(function, stream, device, 7)?;
        call!(self.cuda, event_record, event, stream)?;
        call!(
            self.cuda,
            to_host_async,
            self.pinned.cast(),
            device,
            BYTES,
            stream
        )?;
        call!(self.cuda, stream_synchronize, stream)?;
        call!(self.cuda, free_host, pinned)?;
        call!(self.cuda, free, device)?;
        call!(self.cuda, event_destroy, event)?;
        call!(self.cuda, stream_destroy, stream)?;
        call!(self.cuda, module_unload, module)?;
        self.check_pinned(self.seed.wrapping_mul(3).wrapping_add(7))
    }

    fn callbacks(&mut self) -> Result<(), Stop> {
        let stream = self.streams[0];
        call!(
            self.cuda,
            set_words_async,
            self.device,
            self.seed,
            WORDS,
            stream
        )?;
        call!(self.cuda, launch_host, stream, pause, null_mut())?;
        self.launch(self.function, stream, self.device, 9)?;
        call!(self.cuda, launch_host, stream, pause, null_mut())?;
        call!(
            self.cuda,
            to_host_async,
            self.pinned.cast(),
            self.device,
            BYTES,
            stream
        )?;
        call!(self.cuda, stream_synchronize, stream)?;
        self.check_pinned(self.seed.wrapping_mul(3).wrapping_add(9))
    }

    fn check_pinned(&self, want: u32) -> Result<(), Stop> {
        for i in 0..WORDS {
            // SAFETY: the pinned buffer has WORDS words, and the stream that wrote it was synchronised.
            let got = unsafe { self.pinned.add(i).read_volatile() };
            if got != want {
                return Err(Stop::Mismatch(format!(
                    "word {i} is {got:#x}, not {want:#x}"
                )));
            }
        }
        Ok(())
    }
}

/// A host function that holds its stream for a moment.
extern "C" fn pause(_: *mut c_void) {
    std::thread::sleep(Duration::from_millis(2));
}
