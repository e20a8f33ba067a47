//! The C symbols of `libcuda.so.1`, generated from [the one table](vgpu_protocol::table).
//!
//! A row whose shim column is `auto` becomes a function that encodes its arguments, calls the
//! worker and decodes the results. A `hand` row calls the function of the same name in one of this
//! crate's modules. Stubs say so: they return `CUDA_ERROR_NOT_SUPPORTED` and are named in the log.

use crate::stream::NullStream;
use crate::{call, client, guard, hand, stream};
use core::ffi::{c_char, c_void};
use vgpu_protocol::cuda::*;
use vgpu_protocol::wire::{self, Word};
use vgpu_protocol::{call_class, cuda_aliases, cuda_calls, cuda_stubs, number};
use zerocopy::{FromZeros, IntoBytes};

/// One exported symbol.
#[derive(Debug)]
pub struct Export {
    /// The symbol.
    pub name: &'static str,
    /// Version of its ABI; 0 if `cuGetProcAddress` does not know it.
    pub since: u32,
    /// Its address in this library.
    pub address: *const c_void,
}

// SAFETY: a name, a number and the address of a function.
unsafe impl Sync for Export {}

/// C type of a parameter, from its direction and type in the table.
macro_rules! parameter {
    (out $ty:ty) => { *mut $ty };
    (opt $ty:ty) => { *mut $ty };
    (new $ty:ty) => { *mut $ty };
    (src $ty:ty) => { *const $ty };
    ($by_value:ident $ty:ty) => { $ty };
}

/// Refuses null for parameters that must point somewhere.
macro_rules! check {
    (out $arg:ident) => {
        if $arg.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
    };
    (new $arg:ident) => {
        if $arg.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
    };
    (src $arg:ident) => {
        if $arg.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
    };
    ($other:ident $arg:ident) => {};
}

/// Wire form of an argument.
macro_rules! encode {
    (val $client:ident $default:expr, $arg:ident) => {
        Word::of($arg)
    };
    (live $client:ident $default:expr, $arg:ident) => {
        Word::of($arg)
    };
    (end $client:ident $default:expr, $arg:ident) => {
        Word::of($arg)
    };
    (dev $client:ident $default:expr, $arg:ident) => {
        Word::of($client.backend_ordinal($arg)?)
    };
    (stream $client:ident $default:expr, $arg:ident) => {
        Word::of(stream::handle($client, $arg, $default)?)
    };
    (src $client:ident $default:expr, $arg:ident) => {
        crate::read($arg)?
    };
    ($out:ident $client:ident $default:expr, $arg:ident) => {
        []
    };
}

/// Stores a result where the caller wants it.
macro_rules! store {
    (out $ty:ty, $arg:ident, $reply:ident) => {
        crate::write($arg, <$ty as wire::Result>::from_wire($reply.$arg))?
    };
    (new $ty:ty, $arg:ident, $reply:ident) => {
        crate::write($arg, <$ty as wire::Result>::from_wire($reply.$arg))?
    };
    (opt $ty:ty, $arg:ident, $reply:ident) => {
        if !$arg.is_null() {
            crate::write($arg, <$ty as wire::Result>::from_wire($reply.$arg))?
        }
    };
    ($input:ident $ty:ty, $arg:ident, $reply:ident) => {};
}

macro_rules! automatic {
    ($class:ident $name:ident $symbol:ident $default:expr, ($($arg:ident : $dir:ident $ty:ty),*)) => {
        #[doc = concat!("`", stringify!($symbol), "`.")]
        ///
        /// # Safety
        /// As the CUDA driver API says of this function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $symbol($($arg: parameter!($dir $ty)),*) -> CUresult {
            guard::call(stringify!($symbol), call_class!($class), || {
                let client = client::entered()?;
                $(check!($dir $arg);)*
                let args = wire::$name::Args { $($arg: encode!($dir client $default, $arg)),* };
                let mut reply = wire::$name::Reply::new_zeroed();
                call::call(client, number::call::$name, &[args.as_bytes()], reply.as_mut_bytes())?;
                $(store!($dir $ty, $arg, reply);)*
                Ok(())
            })
        }
    };
}

macro_rules! manual {
    ($class:ident $name:ident $symbol:ident ($($default:expr)?) ($($arg:ident : $dir:ident $ty:ty),*)) => {
        #[doc = concat!("`", stringify!($symbol), "`.")]
        ///
        /// # Safety
        /// As the CUDA driver API says of this function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $symbol($($arg: parameter!($dir $ty)),*) -> CUresult {
            // SAFETY: the caller's contract, passed on.
            guard::call(stringify!($symbol), call_class!($class), || unsafe { hand::$name($($default,)? $($arg),*) })
        }
    };
}

macro_rules! export {
    (auto $class:ident $name:ident ($($arguments:tt)*)) => { automatic!($class $name $name NullStream::Legacy, ($($arguments)*)); };
    (auto $class:ident $name:ident | $twin:ident ($($arguments:tt)*)) => {
        automatic!($class $name $name NullStream::Legacy, ($($arguments)*));
        automatic!($class $name $twin NullStream::PerThread, ($($arguments)*));
    };
    (hand $class:ident $name:ident ($($arguments:tt)*)) => { manual!($class $name $name () ($($arguments)*)); };
    (hand $class:ident $name:ident | $twin:ident ($($arguments:tt)*)) => {
        manual!($class $name $name (NullStream::Legacy) ($($arguments)*));
        manual!($class $name $twin (NullStream::PerThread) ($($arguments)*));
    };
}

macro_rules! calls {
    ($($number:literal $class:ident / $place:ident / $capture:tt $shim:ident / $backend:ident
       $name:ident @ $since:literal $(| $twin:ident @ $twin_since:literal)?
       ($($arg:ident : $dir:ident $ty:ty),*);)*) => {
        $(export!($shim $class $name $(| $twin)? ($($arg : $dir $ty),*));)*

        const CALL_EXPORTS: &[Export] = &[$(
            Export { name: stringify!($name), since: $since, address: $name as *const c_void },
            $(Export { name: stringify!($twin), since: $twin_since, address: $twin as *const c_void },)?
        )*];
    };
}
cuda_calls!(calls);

/// Pointer-sized words, enough for the arguments of every aliased function.
type Argument = usize;

macro_rules! aliases {
    ($($name:ident @ $since:literal = $target:ident;)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "`, the old name of `", stringify!($target), "`.")]
            ///
            /// # Safety
            /// As the CUDA driver API says of this function.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name(a: Argument, b: Argument, c: Argument) -> CUresult {
                // SAFETY: the target takes at most three integer or pointer arguments, which the
                // C calling convention passes in the same registers; excess ones are ignored.
                unsafe {
                    core::mem::transmute::<
                        *const c_void,
                        unsafe extern "C" fn(Argument, Argument, Argument) -> CUresult,
                    >($target as *const c_void)(a, b, c)
                }
            }
        )*
        const ALIAS_EXPORTS: &[Export] = &[$(
            Export { name: stringify!($name), since: $since, address: $name as *const c_void },
        )*];
    };
}
cuda_aliases!(aliases);

macro_rules! stubs {
    ($($name:ident @ $since:literal;)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "`: not implemented.")]
            #[unsafe(no_mangle)]
            pub extern "C" fn $name() -> CUresult {
                guard::call(stringify!($name), number::Class::Call, unsupported)
            }
        )*
        const STUB_EXPORTS: &[Export] = &[$(
            Export { name: stringify!($name), since: $since, address: $name as *const c_void },
        )*];
    };
}
cuda_stubs!(stubs);

/// What is not implemented.
fn unsupported() -> Result<(), CUresult> {
    client::entered()?;
    Err(CUresult::NOT_SUPPORTED)
}

/// Marks this library, so that the backend never takes it for NVIDIA's driver.
#[unsafe(no_mangle)]
pub static vgpu_shim_marker: u32 = 1;

static TABLES: [&[Export]; 3] = [CALL_EXPORTS, ALIAS_EXPORTS, STUB_EXPORTS];

/// Every exported symbol.
pub fn all() -> impl Iterator<Item = &'static Export> {
    TABLES.into_iter().flatten()
}
