//! Streams, events, memory and graphs that are destroyed when dropped.
//!
//! A failure to destroy is not reported: it either repeats an error that a call before it returned,
//! or the process is about to end anyway.

use std::ffi::c_void;
use std::ops::{Deref, DerefMut};
use std::{ptr, slice};

use vgpu_protocol::cuda::*;

use super::{Cuda, Failure, call};

/// A stream, or a default stream.
#[derive(Debug)]
pub struct Stream<'c> {
    cuda: &'c Cuda,
    handle: CUstream,
}

impl<'c> Stream<'c> {
    /// A new stream that does not wait for the legacy default stream, nor the other way round.
    ///
    /// # Errors
    /// The driver's.
    pub fn new(cuda: &'c Cuda) -> Result<Self, Failure> {
        let mut handle = CUstream::NULL;
        // SAFETY: the pointer is to a local.
        unsafe { call!(cuda, cuStreamCreate(&mut handle, CU_STREAM_NON_BLOCKING))? };
        Ok(Self { cuda, handle })
    }

    /// The legacy default stream.
    pub fn legacy(cuda: &'c Cuda) -> Self {
        let handle = CUstream::NULL;
        Self { cuda, handle }
    }

    pub(super) fn handle(&self) -> CUstream {
        self.handle
    }

    /// Waits for all work of the stream.
    ///
    /// # Errors
    /// The driver's, also for work done before.
    #[inline]
    pub fn synchronize(&self) -> Result<(), Failure> {
        // SAFETY: the stream is live.
        unsafe { call!(self.cuda, cuStreamSynchronize(self.handle)) }
    }

    /// `cuStreamQuery`; `NOT_READY` is an error here.
    ///
    /// # Errors
    /// The driver's.
    #[inline]
    pub fn query(&self) -> Result<(), Failure> {
        // SAFETY: the stream is live.
        unsafe { call!(self.cuda, cuStreamQuery(self.handle)) }
    }

    /// Lets later work of this stream wait for an event.
    ///
    /// # Errors
    /// The driver's.
    #[inline]
    pub fn wait(&self, event: &Event) -> Result<(), Failure> {
        // SAFETY: stream and event are live.
        unsafe { call!(self.cuda, cuStreamWaitEvent(self.handle, event.handle, 0)) }
    }

    /// Runs `work`, which may only enqueue to this stream, and makes a graph of what it enqueued.
    ///
    /// # Errors
    /// The driver's, or the closure's.
    pub fn capture(
        &self,
        work: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<Graph<'c>, Failure> {
        let cuda = self.cuda;
        // SAFETY: the stream is live.
        unsafe {
            call!(
                cuda,
                cuStreamBeginCapture_v2(self.handle, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            )?;
        };
        let worked = work();
        let mut template = CUgraph::NULL;
        // SAFETY: the stream is live and the pointer is to a local. Ends the capture also if the
        // work failed, so that the stream stays usable.
        let ended = unsafe { call!(cuda, cuStreamEndCapture(self.handle, &mut template)) };
        worked.and(ended)?;
        let mut exec = CUgraphExec::NULL;
        // SAFETY: the template is live until destroyed below; the executable graph does not need it.
        let made = unsafe { call!(cuda, cuGraphInstantiateWithFlags(&mut exec, template, 0)) };
        // SAFETY: the template is destroyed once and not used again.
        unsafe { call!(cuda, cuGraphDestroy(template))? };
        made?;
        Ok(Graph { cuda, exec })
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: our own stream, destroyed once.
            let _: Result<(), Failure> =
                unsafe { call!(self.cuda, cuStreamDestroy_v2(self.handle)) };
        }
    }
}

/// An event.
#[derive(Debug)]
pub struct Event<'c> {
    cuda: &'c Cuda,
    handle: CUevent,
}

impl<'c> Event<'c> {
    /// A new event with `CU_EVENT_*` flags.
    ///
    /// # Errors
    /// The driver's.
    pub fn new(cuda: &'c Cuda, flags: u32) -> Result<Self, Failure> {
        let mut handle = CUevent::NULL;
        // SAFETY: the pointer is to a local.
        unsafe { call!(cuda, cuEventCreate(&mut handle, flags))? };
        Ok(Self { cuda, handle })
    }

    /// Records the event in a stream.
    ///
    /// # Errors
    /// The driver's.
    #[inline]
    pub fn record(&self, stream: &Stream) -> Result<(), Failure> {
        // SAFETY: event and stream are live.
        unsafe { call!(self.cuda, cuEventRecord(self.handle, stream.handle)) }
    }

    /// `cuEventQuery`; `NOT_READY` is an error here.
    ///
    /// # Errors
    /// The driver's.
    #[inline]
    pub fn query(&self) -> Result<(), Failure> {
        // SAFETY: the event is live.
        unsafe { call!(self.cuda, cuEventQuery(self.handle)) }
    }

    /// Waits for the work before the last record.
    ///
    /// # Errors
    /// The driver's.
    #[inline]
    pub fn synchronize(&self) -> Result<(), Failure> {
        // SAFETY: the event is live.
        unsafe { call!(self.cuda, cuEventSynchronize(self.handle)) }
    }
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        // SAFETY: our own event, destroyed once.
        let _: Result<(), Failure> = unsafe { call!(self.cuda, cuEventDestroy_v2(self.handle)) };
    }
}

/// An executable graph.
#[derive(Debug)]
pub struct Graph<'c> {
    cuda: &'c Cuda,
    exec: CUgraphExec,
}

impl Graph<'_> {
    /// Enqueues the graph.
    ///
    /// # Errors
    /// The driver's.
    #[inline]
    pub fn launch(&self, stream: &Stream) -> Result<(), Failure> {
        // SAFETY: graph and stream are live. The buffers its nodes use are outlived by no launch:
        // freeing device memory waits for work that was enqueued before.
        unsafe { call!(self.cuda, cuGraphLaunch(self.exec, stream.handle)) }
    }
}

impl Drop for Graph<'_> {
    fn drop(&mut self) {
        // SAFETY: our own graph, destroyed once.
        let _: Result<(), Failure> = unsafe { call!(self.cuda, cuGraphExecDestroy(self.exec)) };
    }
}

/// Device memory.
#[derive(Debug)]
pub struct DeviceBuffer<'c> {
    cuda: &'c Cuda,
    address: CUdeviceptr,
    len: usize,
}

impl<'c> DeviceBuffer<'c> {
    /// Allocates `len` bytes; their content is undefined.
    ///
    /// # Errors
    /// The driver's.
    #[inline]
    pub fn new(cuda: &'c Cuda, len: usize) -> Result<Self, Failure> {
        let mut address = CUdeviceptr::NULL;
        // SAFETY: the pointer is to a local.
        unsafe { call!(cuda, cuMemAlloc_v2(&mut address, len))? };
        Ok(Self { cuda, address, len })
    }

    /// Allocates memory that holds these bytes.
    ///
    /// # Errors
    /// The driver's.
    pub fn holding(cuda: &'c Cuda, bytes: &[u8]) -> Result<Self, Failure> {
        let buffer = Self::new(cuda, bytes.len())?;
        buffer.write(bytes)?;
        Ok(buffer)
    }

    /// The device address.
    pub(super) fn address(&self) -> CUdeviceptr {
        self.address
    }

    /// Bytes allocated.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn fits(&self, len: usize) -> Result<(), Failure> {
        if len > self.len {
            let have = self.len;
            return Err(Failure::Content(format!(
                "{len} bytes in a buffer of {have}"
            )));
        }
        Ok(())
    }

    /// `cuMemcpyHtoD` to the buffer's start.
    ///
    /// # Errors
    /// The driver's.
    #[inline]
    pub fn write(&self, from: &[u8]) -> Result<(), Failure> {
        self.fits(from.len())?;
        // SAFETY: the slice is valid for the call, which returns only when it was read.
        unsafe {
            call!(
                self.cuda,
                cuMemcpyHtoD_v2(self.address, from.as_ptr().cast(), from.len())
            )
        }
    }

    /// `cuMemcpyDtoH` from the buffer's start.
    ///
    /// # Errors
    /// The driver's.
    #[inline]
    pub fn read(&self, to: &mut [u8]) -> Result<(), Failure> {
        self.fits(to.len())?;
        // SAFETY: the slice is ours for the call, which returns only when it was written.
        unsafe {
            call!(
                self.cuda,
                cuMemcpyDtoH_v2(to.as_mut_ptr().cast(), self.address, to.len())
            )
        }
    }

    /// `cuMemcpyHtoDAsync`, then `between`, then a wait for the stream.
    ///
    /// # Errors
    /// The first that any of the three returns.
    #[inline]
    pub fn write_async(
        &self,
        from: &[u8],
        stream: &Stream,
        between: impl FnOnce(),
    ) -> Result<(), Failure> {
        self.fits(from.len())?;
        let source = from.as_ptr().cast();
        // SAFETY: the slice is borrowed until the stream has no more work.
        let enqueued = unsafe {
            call!(
                self.cuda,
                cuMemcpyHtoDAsync_v2(self.address, source, from.len(), stream.handle)
            )
        };
        between();
        enqueued.and(stream.synchronize())
    }

    /// `cuMemcpyDtoHAsync`, then a wait for the stream.
    ///
    /// # Errors
    /// The driver's.
    #[inline]
    pub fn read_async(&self, to: &mut [u8], stream: &Stream) -> Result<(), Failure> {
        self.fits(to.len())?;
        let target = to.as_mut_ptr().cast();
        // SAFETY: the slice is exclusively borrowed until the stream has no more work.
        let enqueued = unsafe {
            call!(
                self.cuda,
                cuMemcpyDtoHAsync_v2(target, self.address, to.len(), stream.handle)
            )
        };
        enqueued.and(stream.synchronize())
    }

    /// `cuMemcpyDtoDAsync` from all of another buffer.
    ///
    /// # Errors
    /// The driver's.
    #[inline]
    pub fn copy_from(&self, from: &DeviceBuffer, stream: &Stream) -> Result<(), Failure> {
        self.fits(from.len)?;
        // SAFETY: both buffers have that many bytes; freeing either waits for the copy.
        unsafe {
            call!(
                self.cuda,
                cuMemcpyDtoDAsync_v2(self.address, from.address, from.len, stream.handle)
            )
        }
    }

    /// `cuMemsetD8Async` of the whole buffer.
    ///
    /// # Errors
    /// The driver's.
    #[inline]
    pub fn fill(&self, value: u8, stream: &Stream) -> Result<(), Failure> {
        // SAFETY: the buffer has that many bytes; freeing it waits for the fill.
        unsafe {
            call!(
                self.cuda,
                cuMemsetD8Async(self.address, value, self.len, stream.handle)
            )
        }
    }
}

impl Drop for DeviceBuffer<'_> {
    fn drop(&mut self) {
        // SAFETY: our own memory, freed once; the driver waits for work that uses it.
        let _: Result<(), Failure> = unsafe { call!(self.cuda, cuMemFree_v2(self.address)) };
    }
}

/// Page-locked host memory.
#[derive(Debug)]
pub struct PinnedBuffer<'c> {
    cuda: &'c Cuda,
    address: *mut c_void,
    len: usize,
}

impl<'c> PinnedBuffer<'c> {
    /// Allocates `len` bytes and sets them all to zero.
    ///
    /// # Errors
    /// The driver's.
    pub fn new(cuda: &'c Cuda, len: usize) -> Result<Self, Failure> {
        let buffer = Self::unset(cuda, len)?;
        // SAFETY: freshly allocated with this length. Also makes the bytes initialised memory.
        unsafe { buffer.address.cast::<u8>().write_bytes(0, len) };
        Ok(buffer)
    }

    /// Allocates and frees `len` bytes.
    ///
    /// # Errors
    /// The driver's.
    #[inline]
    pub fn alloc_and_free(cuda: &'c Cuda, len: usize) -> Result<(), Failure> {
        Self::unset(cuda, len).map(drop)
    }

    fn unset(cuda: &'c Cuda, len: usize) -> Result<Self, Failure> {
        let mut address = ptr::null_mut();
        // SAFETY: the pointer is to a local.
        unsafe { call!(cuda, cuMemHostAlloc(&mut address, len, 0))? };
        Ok(Self { cuda, address, len })
    }
}

impl Deref for PinnedBuffer<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `new` initialised `len` bytes there; they are freed only on drop.
        unsafe { slice::from_raw_parts(self.address.cast(), self.len) }
    }
}

impl DerefMut for PinnedBuffer<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and exclusively borrowed.
        unsafe { slice::from_raw_parts_mut(self.address.cast(), self.len) }
    }
}

impl Drop for PinnedBuffer<'_> {
    fn drop(&mut self) {
        // SAFETY: our own memory, freed once; every copy from or to it waited before returning.
        let _: Result<(), Failure> = unsafe { call!(self.cuda, cuMemFreeHost(self.address)) };
    }
}
