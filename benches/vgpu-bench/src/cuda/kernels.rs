//! The kernels, written in PTX so that no compiler is needed to build this program.

use std::ffi::c_void;
use std::ptr;

use vgpu_protocol::cuda::CUfunction;

use super::{Cuda, DeviceBuffer, Failure, Stream, call};

const PTX: &str = "\
.version 7.0
.target sm_70
.address_size 64

.visible .entry bench_null()
{
    ret;
}

.visible .entry bench_saxpy(
    .param .f32 factor,
    .param .u64 source,
    .param .u64 target,
    .param .u32 count)
{
    .reg .pred %p<2>;
    .reg .f32 %f<4>;
    .reg .b32 %r<6>;
    .reg .b64 %d<6>;

    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.u32 %r4, %r1, %r2, %r3;
    ld.param.u32 %r5, [count];
    setp.ge.u32 %p1, %r4, %r5;
    @%p1 bra DONE;
    ld.param.u64 %d1, [source];
    ld.param.u64 %d2, [target];
    cvta.to.global.u64 %d1, %d1;
    cvta.to.global.u64 %d2, %d2;
    mul.wide.u32 %d3, %r4, 4;
    add.u64 %d4, %d1, %d3;
    add.u64 %d5, %d2, %d3;
    ld.param.f32 %f1, [factor];
    ld.global.f32 %f2, [%d4];
    ld.global.f32 %f3, [%d5];
    fma.rn.f32 %f3, %f1, %f2, %f3;
    st.global.f32 [%d5], %f3;
DONE:
    ret;
}

.visible .entry bench_spin(.param .u64 cycles)
{
    .reg .pred %p<2>;
    .reg .b64 %d<5>;

    ld.param.u64 %d1, [cycles];
    mov.u64 %d2, %clock64;
AGAIN:
    mov.u64 %d3, %clock64;
    sub.u64 %d4, %d3, %d2;
    setp.lt.u64 %p1, %d4, %d1;
    @%p1 bra AGAIN;
    ret;
}
";

/// Threads in a block of [`Kernels::saxpy`].
const BLOCK: u32 = 128;

/// The loaded kernels of one context; launched while that context is current.
#[derive(Clone, Copy, Debug)]
pub struct Kernels<'c> {
    cuda: &'c Cuda,
    null: CUfunction,
    saxpy: CUfunction,
    spin: CUfunction,
}

impl<'c> Kernels<'c> {
    /// Loads them into the current context, for as long as that lives.
    ///
    /// # Errors
    /// The driver's.
    pub fn load(cuda: &'c Cuda) -> Result<Self, Failure> {
        let module = cuda.module(PTX)?;
        Ok(Self {
            cuda,
            null: cuda.function(module, c"bench_null")?,
            saxpy: cuda.function(module, c"bench_saxpy")?,
            spin: cuda.function(module, c"bench_spin")?,
        })
    }

    /// Launches one thread that does nothing.
    ///
    /// # Errors
    /// The driver's.
    #[inline]
    pub fn null(&self, stream: &Stream) -> Result<(), Failure> {
        let none = ptr::null_mut();
        // SAFETY: the kernel has no parameters; stream and module are live.
        unsafe {
            call!(
                self.cuda,
                cuLaunchKernel(self.null, 1, 1, 1, 1, 1, 1, 0, stream.handle(), none, none)
            )
        }
    }

    /// Launches `target[i] += factor * source[i]` over all 32-bit floats of `target`: a kernel of
    /// four parameters.
    ///
    /// # Errors
    /// The driver's; `Content` if `source` is shorter than `target`.
    #[inline]
    pub fn saxpy(
        &self,
        factor: f32,
        source: &DeviceBuffer,
        target: &DeviceBuffer,
        stream: &Stream,
    ) -> Result<(), Failure> {
        let too_long = || Failure::Content("buffers do not fit the kernel".into());
        if source.len() < target.len() {
            return Err(too_long());
        }
        let count = u32::try_from(target.len() / 4).map_err(|_| too_long())?;
        let (from, to) = (source.address(), target.address());
        let mut params: [*mut c_void; 4] = [
            ptr::from_ref(&factor).cast_mut().cast(),
            ptr::from_ref(&from).cast_mut().cast(),
            ptr::from_ref(&to).cast_mut().cast(),
            ptr::from_ref(&count).cast_mut().cast(),
        ];
        // SAFETY: the pointers are to locals of the kernel's four parameter types, which are read
        // before the call returns; the kernel stays within `count` elements of both buffers.
        unsafe {
            call!(
                self.cuda,
                cuLaunchKernel(
                    self.saxpy,
                    count.div_ceil(BLOCK),
                    1,
                    1,
                    BLOCK,
                    1,
                    1,
                    0,
                    stream.handle(),
                    params.as_mut_ptr(),
                    ptr::null_mut(),
                )
            )
        }
    }

    /// Launches one thread that spins for that many clock cycles.
    ///
    /// # Errors
    /// The driver's.
    pub fn spin(&self, cycles: u64, stream: &Stream) -> Result<(), Failure> {
        let mut params: [*mut c_void; 1] = [ptr::from_ref(&cycles).cast_mut().cast()];
        // SAFETY: the pointer is to a local of the parameter's type, read before the call returns.
        unsafe {
            call!(
                self.cuda,
                cuLaunchKernel(
                    self.spin,
                    1,
                    1,
                    1,
                    1,
                    1,
                    1,
                    0,
                    stream.handle(),
                    params.as_mut_ptr(),
                    ptr::null_mut(),
                )
            )
        }
    }
}
