//! Leaves work behind: the device goes on writing to shared memory for many seconds after the program has stopped.

use std::ffi::{c_uint, c_void};
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use crate::cuda::{Cuda, Handle};
use crate::say;
use crate::work::{Stop, call};

/// Multiplies `data[0]` by 3 and adds 1, `rounds` times: takes as long as it is told to.
const PTX: &[u8] = b".version 7.0
.target sm_70
.address_size 64
.visible .entry spin(.param .u64 data, .param .u32 rounds)
{
    .reg .pred %p<2>;
    .reg .b32 %r<4>;
    .reg .b64 %d<3>;
    ld.param.u64 %d1, [data];
    ld.param.u32 %r1, [rounds];
    cvta.to.global.u64 %d2, %d1;
    ld.global.u32 %r2, [%d2];
LOOP:
    mad.lo.s32 %r2, %r2, 3, 1;
    add.s32 %r1, %r1, -1;
    setp.ne.s32 %p1, %r1, 0;
    @%p1 bra LOOP;
    st.global.u32 [%d2], %r2;
    ret;
}
\0";

/// How long one kernel takes. A stream of ours has hundreds of commands in flight, half of which are such.
const KERNEL: Duration = Duration::from_millis(60);
/// Bytes that each copy writes to pinned memory.
const BYTES: usize = 4 << 20;
/// Kernels and copies that are under way when the program says `ready`.
const READY: u64 = 300;

/// Posts slow kernels and copies to pinned memory, one behind the other, until a call fails.
pub fn run(cuda: &Cuda) -> Result<(), Stop> {
    match cuda.init() {
        0 => {}
        code => return Err(Stop::Cuda(code, "cu_init")),
    }
    let (mut context, mut module, mut function) = (null_mut(), null_mut(), null_mut());
    let (mut stream, mut device, mut pinned) = (null_mut(), 0, null_mut());
    call!(cuda, primary_retain, &raw mut context, 0)?;
    call!(cuda, set_current, context)?;
    call!(cuda, module_load, &raw mut module, PTX.as_ptr().cast())?;
    let name = c"spin".as_ptr();
    call!(cuda, get_function, &raw mut function, module, name)?;
    call!(cuda, stream_create, &raw mut stream, 1)?;
    call!(cuda, alloc, &raw mut device, BYTES)?;
    call!(cuda, alloc_host, &raw mut pinned, BYTES)?;
    call!(cuda, set_words_async, device, 0x5a5a, BYTES / 4, stream)?;
    // Devices differ by far: so many rounds that one kernel takes long enough.
    let mut rounds = 1000;
    loop {
        let start = Instant::now();
        spin(cuda, function, stream, device, rounds)?;
        call!(cuda, stream_synchronize, stream)?;
        if start.elapsed() >= KERNEL {
            break;
        }
        rounds *= 2;
    }
    for posted in 0_u64.. {
        if posted == READY {
            say("ready");
        }
        spin(cuda, function, stream, device, rounds)?;
        call!(cuda, to_host_async, pinned, device, BYTES, stream)?;
    }
    Ok(())
}

fn spin(
    cuda: &Cuda,
    function: Handle,
    stream: Handle,
    mut data: u64,
    mut rounds: c_uint,
) -> Result<(), Stop> {
    let mut parameters: [*mut c_void; 2] = [(&raw mut data).cast(), (&raw mut rounds).cast()];
    call!(
        cuda,
        launch_kernel,
        function,
        1,
        1,
        1,
        1,
        1,
        1,
        0,
        stream,
        parameters.as_mut_ptr(),
        null_mut()
    )
}
