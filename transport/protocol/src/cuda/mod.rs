//! CUDA driver API types as plain data: handles are 64-bit values, structs are `#[repr(C)]` with
//! explicit padding, enumerations are integers.
//!
//! Enumerations are integers on purpose: both the program and the driver may use values newer than
//! this crate, and an out-of-range Rust enum would be undefined behaviour. Names and layouts follow
//! `cuda.h` of CUDA 13; sizes are asserted against what a C compiler says.

mod result;
mod structs;

pub use result::{CUresult, ERRORS};
pub use structs::*;

use core::ffi::c_void;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a scalar argument on the wire, and how to get there and back.
///
/// Every scalar travels as one little-endian 64-bit word, so that wire structs have no padding and
/// no size that differs between calls.
pub trait Scalar: Copy {
    /// The value as a 64-bit word; signed values are sign-extended, floats keep their bits.
    fn to_word(self) -> u64;
    /// The inverse of [`Scalar::to_word`]; excess high bits are ignored.
    fn from_word(word: u64) -> Self;
}

macro_rules! integer_scalars {
    ($($ty:ty),*) => { $(
        impl Scalar for $ty {
            fn to_word(self) -> u64 { self as u64 }
            fn from_word(word: u64) -> Self { word as $ty }
        }
    )* };
}
integer_scalars!(u8, u16, u32, u64, usize, i32, i64);

impl Scalar for f32 {
    fn to_word(self) -> u64 {
        u64::from(self.to_bits())
    }
    fn from_word(word: u64) -> Self {
        f32::from_bits(word as u32)
    }
}

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident;)*) => { $(
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord,
                 FromBytes, IntoBytes, KnownLayout, Immutable)]
        pub struct $name(pub u64);

        impl $name {
            /// The null handle.
            pub const NULL: Self = Self(0);
            /// Whether this is the null handle.
            pub const fn is_null(self) -> bool { self.0 == 0 }
        }

        impl Scalar for $name {
            fn to_word(self) -> u64 { self.0 }
            fn from_word(word: u64) -> Self { Self(word) }
        }
    )* };
}

handles! {
    /// A context.
    CUcontext;
    /// A module loaded into one context.
    CUmodule;
    /// A kernel of a module. Launch functions also accept a [`CUkernel`] cast to it.
    CUfunction;
    /// A library: code loaded for every context.
    CUlibrary;
    /// A kernel of a library.
    CUkernel;
    /// A stream; see [`CUstream::LEGACY`] and [`CUstream::PER_THREAD`] for the special values.
    CUstream;
    /// An event.
    CUevent;
    /// A graph.
    CUgraph;
    /// A node of a graph.
    CUgraphNode;
    /// An instantiated graph.
    CUgraphExec;
    /// A memory pool.
    CUmemoryPool;
    /// An array.
    CUarray;
    /// An array with levels of detail.
    CUmipmappedArray;
    /// A texture object.
    CUtexObject;
    /// A surface object.
    CUsurfObject;
    /// A just-in-time linker invocation.
    CUlinkState;
    /// An object of the program whose end graphs may put off.
    CUuserObject;
    /// An address the device can use. Under unified addressing also host addresses.
    CUdeviceptr;
}

impl CUstream {
    /// `CU_STREAM_LEGACY`: the legacy default stream, also what handle 0 means in plain exports.
    pub const LEGACY: Self = Self(1);
    /// `CU_STREAM_PER_THREAD`: the calling thread's default stream.
    pub const PER_THREAD: Self = Self(2);
}

/// A device ordinal.
#[repr(transparent)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct CUdevice(pub i32);

impl Scalar for CUdevice {
    fn to_word(self) -> u64 {
        self.0.to_word()
    }
    fn from_word(word: u64) -> Self {
        Self(i32::from_word(word))
    }
}

/// `void (*)(void *user)`: a host function enqueued in a stream.
pub type CUhostFn = Option<unsafe extern "C" fn(user: *mut c_void)>;
/// `void (*)(CUstream, CUresult, void *user)`: a stream callback.
pub type CUstreamCallback =
    Option<unsafe extern "C" fn(stream: CUstream, status: CUresult, user: *mut c_void)>;
/// `size_t (*)(int block_size)`: dynamic shared memory as a function of the block size.
pub type CUoccupancyB2DSize = Option<unsafe extern "C" fn(block_size: i32) -> usize>;

/// `CU_STREAM_NON_BLOCKING`.
pub const CU_STREAM_NON_BLOCKING: u32 = 1;
/// `CU_EVENT_BLOCKING_SYNC`.
pub const CU_EVENT_BLOCKING_SYNC: u32 = 1;
/// `CU_EVENT_DISABLE_TIMING`.
pub const CU_EVENT_DISABLE_TIMING: u32 = 2;
/// `CU_EVENT_INTERPROCESS`: other processes may open it. Only with [`CU_EVENT_DISABLE_TIMING`].
pub const CU_EVENT_INTERPROCESS: u32 = 4;
/// `CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS`, the only flag of opening shared memory, and one that must be given.
pub const CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS: u32 = 1;
/// `CU_EVENT_RECORD_EXTERNAL`.
pub const CU_EVENT_RECORD_EXTERNAL: u32 = 1;
/// `CU_MEMHOSTALLOC_PORTABLE`, also `CU_MEMHOSTREGISTER_PORTABLE`.
pub const CU_MEMHOST_PORTABLE: u32 = 1;
/// `CU_MEMHOSTALLOC_DEVICEMAP`, also `CU_MEMHOSTREGISTER_DEVICEMAP`.
pub const CU_MEMHOST_DEVICEMAP: u32 = 2;
/// `CU_MEMORYTYPE_HOST`.
pub const CU_MEMORYTYPE_HOST: u32 = 1;
/// `CU_MEMORYTYPE_DEVICE`.
pub const CU_MEMORYTYPE_DEVICE: u32 = 2;
/// `CU_MEMORYTYPE_ARRAY`.
pub const CU_MEMORYTYPE_ARRAY: u32 = 3;
/// `CU_MEMORYTYPE_UNIFIED`.
pub const CU_MEMORYTYPE_UNIFIED: u32 = 4;
/// `CU_LAUNCH_PARAM_BUFFER_POINTER`: key of the `extra` launch array.
pub const CU_LAUNCH_PARAM_BUFFER_POINTER: usize = 1;
/// `CU_LAUNCH_PARAM_BUFFER_SIZE`: key of the `extra` launch array.
pub const CU_LAUNCH_PARAM_BUFFER_SIZE: usize = 2;
/// `CU_STREAM_CAPTURE_MODE_GLOBAL`.
pub const CU_STREAM_CAPTURE_MODE_GLOBAL: u32 = 0;
/// `CU_STREAM_CAPTURE_MODE_THREAD_LOCAL`.
pub const CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: u32 = 1;
/// `CU_STREAM_CAPTURE_MODE_RELAXED`.
pub const CU_STREAM_CAPTURE_MODE_RELAXED: u32 = 2;
/// One more than the highest device attribute that is asked for when a client connects. CUDA 13.0
/// knows attributes up to 144; the slack costs nothing.
pub const DEVICE_ATTRIBUTE_COUNT: usize = 176;
