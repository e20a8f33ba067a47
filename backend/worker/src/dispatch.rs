//! From a call's number to its body. Everything here is generated from the table of calls: for
//! rows marked `auto` the whole body (decode, check by direction, call the driver, enter new
//! handles, answer), for rows marked `hand` the way to the function of that name in
//! [`crate::hand`].

use crate::call::{Call, Outcome, Value};
use crate::live::Handle;
use crate::{hand, rules};
use vgpu_protocol::cuda::*;
use vgpu_protocol::{cuda_calls, wire};

/// The checked argument, or room for the result.
macro_rules! receive {
    ($call:ident, val $ty:ty, $word:expr) => {
        Value::admit($word.get::<$ty>(), $call)?
    };
    ($call:ident, live $ty:ty, $word:expr) => {{
        let handle = $word.get::<$ty>();
        $call.live(handle)?;
        handle
    }};
    ($call:ident, end $ty:ty, $word:expr) => {{
        let handle = $word.get::<$ty>();
        $call.live(handle)?;
        handle
    }};
    ($call:ident, dev $ty:ty, $word:expr) => {
        $call.device($word.get::<$ty>())?
    };
    ($call:ident, stream $ty:ty, $word:expr) => {
        $call.in_stream($word.get::<$ty>())?
    };
    ($call:ident, src $ty:ty, $word:expr) => {
        $word
    };
    ($call:ident, $out:ident $ty:ty, $word:expr) => {
        <$ty>::default()
    };
}

/// What the driver's function takes.
macro_rules! pass {
    (src $arg:ident) => {
        &raw const $arg
    };
    (out $arg:ident) => {
        &raw mut $arg
    };
    (opt $arg:ident) => {
        &raw mut $arg
    };
    (new $arg:ident) => {
        &raw mut $arg
    };
    ($by_value:ident $arg:ident) => {
        $arg
    };
}

/// Takes a handle out of its set before the call that destroys it.
macro_rules! retire {
    ($call:ident, end $arg:ident, $ended:ident) => {
        $ended = $call
            .worker
            .live
            .remove(kind_of($arg), $arg.0)
            .map(|entry| (kind_of($arg), $arg.0, entry));
    };
    ($call:ident, $other:ident $arg:ident, $ended:ident) => {};
}

/// What must happen with a result before it is shown.
macro_rules! settle {
    ($call:ident, new $arg:ident) => {
        $call.enter($arg, 0);
    };
    ($call:ident, out $arg:ident) => {
        Value::emit($arg, $call)?;
    };
    ($call:ident, opt $arg:ident) => {
        Value::emit($arg, $call)?;
    };
    ($call:ident, $input:ident $arg:ident) => {};
}

/// A field of the answer.
macro_rules! field {
    (out $arg:ident) => {
        wire::Result::to_wire($arg)
    };
    (opt $arg:ident) => {
        wire::Result::to_wire($arg)
    };
    (new $arg:ident) => {
        wire::Result::to_wire($arg)
    };
    ($input:ident $arg:ident) => {
        []
    };
}

macro_rules! body {
    (none $call:ident $name:ident ($($args:tt)*)) => {
        Err($call.worker.unknown($call.number()))
    };
    (hand $call:ident $name:ident ($($args:tt)*)) => {
        hand::$name($call)
    };
    (auto $call:ident $name:ident ($($args:tt)*)) => {
        automatic::$name($call)
    };
}

macro_rules! automatic_body {
    (auto $name:ident ($($arg:ident : $dir:ident $ty:ty),*)) => {
        #[allow(non_snake_case, unused_mut, unused_assignments, unused_variables)]
        pub(super) fn $name(call: &mut Call<'_>) -> Outcome {
            let Some(function) = call.driver().$name else {
                return Err(call.worker.unknown(call.number()));
            };
            let args = call.decode::<wire::$name::Args>()?;
            rules::before(call)?;
            $( let mut $arg: $ty = receive!(call, $dir $ty, args.$arg); )*
            let mut ended = None;
            $( retire!(call, $dir $arg, ended); )*
            // SAFETY: handles are live, addresses lie in the window, results have room on this
            // stack, and everything else is a plain number that the driver checks itself.
            let status = unsafe { function($(pass!($dir $arg)),*) };
            if let Err(error) = call.result(status) {
                if let Some((kind, handle, entry)) = ended {
                    call.worker.live.enter(kind, handle, entry);
                }
                return Err(error);
            }
            $( settle!(call, $dir $arg); )*
            call.reply(&wire::$name::Reply { $($arg: field!($dir $arg)),* })?;
            rules::after(call)
        }
    };
    ($other:ident $name:ident ($($args:tt)*)) => {};
}

fn kind_of<T: Handle>(_: T) -> crate::live::Kind {
    T::KIND
}

macro_rules! generate {
    ($($number:literal $class:ident / $place:ident / $capture:tt $shim:ident / $backend:ident
       $name:ident @ $since:literal $(| $twin:ident @ $twin_since:literal)?
       ($($arg:ident : $dir:ident $ty:ty),*);)*) => {
        mod automatic {
            use super::*;
            $( automatic_body!($backend $name ($($arg : $dir $ty),*)); )*
        }

        /// Executes the record's call.
        ///
        /// # Errors
        /// What the client gets; `NOT_SUPPORTED` for numbers that are not served.
        #[inline]
        pub fn dispatch(call: &mut Call<'_>) -> Outcome {
            match call.number() {
                $( $number => body!($backend call $name ($($arg : $dir $ty),*)), )*
                _ => hand::internal(call),
            }
        }
    };
}
cuda_calls!(generate);
