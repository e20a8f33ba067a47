//! Permanent call numbers and what the table says about each call.

/// How a call travels; see the columns of [the table](crate::table).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Answered in the guest, without context, stream, memory or event.
    Lookup,
    /// Answered in the guest.
    Local,
    /// Fire and forget.
    Post,
    /// Needs an answer.
    Call,
    /// Names something of the guest's own; handled there, or by a token of the daemon's.
    Host,
}

impl Class {
    /// Whether calls of this class may be made inside a host function (`semantics.md` 24). All others are
    /// `NOT_PERMITTED` there.
    pub const fn in_host_function(self) -> bool {
        matches!(self, Class::Lookup)
    }
}

/// Who executes a call in the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nobody: the guest does.
    Guest,
    /// The issuer, in ring order; the call cannot block.
    Issuer,
    /// The calling guest thread's lane; the call may block.
    Lane,
}

/// One row of the table, as data.
#[derive(Clone, Copy, Debug)]
pub struct CallInfo {
    /// Permanent number.
    pub number: u16,
    /// Exported name.
    pub name: &'static str,
    /// CUDA version in which this ABI appeared, as `cuGetProcAddress` counts (12040 is 12.4).
    pub since: u32,
    /// The per-thread default stream export and its version, if there is one.
    pub twin: Option<(&'static str, u32)>,
    /// How it travels.
    pub class: Class,
    /// Who executes it.
    pub place: Place,
    /// Whether an active capture may prohibit it.
    pub unsafe_in_capture: bool,
}

/// The [`Class`] of the table's class column.
#[macro_export]
macro_rules! call_class {
    (lookup) => {
        $crate::number::Class::Lookup
    };
    (local) => {
        $crate::number::Class::Local
    };
    (post) => {
        $crate::number::Class::Post
    };
    (call) => {
        $crate::number::Class::Call
    };
    (host) => {
        $crate::number::Class::Host
    };
}
macro_rules! place {
    (guest) => {
        Place::Guest
    };
    (issuer) => {
        Place::Issuer
    };
    (lane) => {
        Place::Lane
    };
}
macro_rules! capture {
    (safe) => {
        false
    };
    (unsafe) => {
        true
    };
}
macro_rules! optional {
    () => {
        None
    };
    ($twin:ident $since:literal) => {
        Some((stringify!($twin), $since))
    };
}

macro_rules! collect_calls {
    ($($number:literal $class:ident / $place:ident / $capture:tt $shim:ident / $backend:ident
       $name:ident @ $since:literal $(| $twin:ident @ $twin_since:literal)?
       ($($arg:ident : $dir:ident $ty:ty),*);)*) => {
        /// Every call of the table, in its order.
        pub const CALLS: &[CallInfo] = &[$(CallInfo {
            number: $number,
            name: stringify!($name),
            since: $since,
            twin: optional!($($twin $twin_since)?),
            class: call_class!($class),
            place: place!($place),
            unsafe_in_capture: capture!($capture),
        }),*];

        /// The number of each call, by its exported name.
        #[allow(non_upper_case_globals, missing_docs)]
        pub mod call {
            $(pub const $name: u16 = $number;)*
        }
    };
}
cuda_calls!(collect_calls);

macro_rules! collect_aliases {
    ($($name:ident @ $since:literal = $target:ident;)*) => {
        /// Old names with an unchanged ABI: name, version, the export that serves them.
        pub const ALIASES: &[(&str, u32, &str)] = &[$((stringify!($name), $since, stringify!($target))),*];
    };
}
cuda_aliases!(collect_aliases);

macro_rules! collect_stubs {
    ($($name:ident @ $since:literal;)*) => {
        /// Symbols that are exported but not implemented, with the version of their ABI, or 0 for
        /// those `cuGetProcAddress` does not know.
        pub const STUBS: &[(&str, u32)] = &[$((stringify!($name), $since)),*];
    };
}
cuda_stubs!(collect_stubs);

/// Numbers of records that are no CUDA call. They start above every call of the table.
pub mod internal {
    /// Write the timeline word of the stream in the payload; see [`crate::wire::Flush`].
    pub const FLUSH: u16 = 0x8001;
    /// The posting guest thread ends: its lane ends too. No payload, no reply.
    pub const THREAD_EXIT: u16 = 0x8002;
    /// Parameter layout of a function or kernel; see [`crate::wire::ParamLayout`].
    pub const PARAM_LAYOUT: u16 = 0x8003;
    /// Do nothing and reply: measures the channel, and orders a thread behind the ring.
    pub const PING: u16 = 0x8004;
    /// Deliver what device `printf` has written so far, then reply.
    pub const DRAIN_OUTPUT: u16 = 0x8006;
    /// What the worker has counted for this client; answered with [`crate::wire::Counters`]. No payload.
    pub const COUNTERS: u16 = 0x8007;
}

/// The row of a call number, or `None` for numbers this version does not know.
pub fn info(number: u16) -> Option<&'static CallInfo> {
    static INDEX: std::sync::LazyLock<Vec<Option<&'static CallInfo>>> =
        std::sync::LazyLock::new(|| {
            let top = CALLS.iter().map(|call| call.number).max().unwrap_or(0);
            let mut index = vec![None; usize::from(top) + 1];
            for call in CALLS {
                if let Some(entry) = index.get_mut(usize::from(call.number)) {
                    *entry = Some(call);
                }
            }
            index
        });
    INDEX.get(usize::from(number)).copied().flatten()
}

/// A digest of the table, for diagnosis only: equal tables have equal digests.
pub fn fingerprint() -> u64 {
    // FNV-1a over numbers and names.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for call in CALLS {
        for byte in call
            .number
            .to_le_bytes()
            .into_iter()
            .chain(call.name.bytes())
        {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_and_names_are_unique() {
        let mut numbers = HashSet::new();
        let mut names = HashSet::new();
        for call in CALLS {
            assert!(call.number > 0 && call.number < 0x8000);
            assert!(numbers.insert(call.number), "number {} twice", call.number);
            assert!(names.insert(call.name), "{} twice", call.name);
            if let Some((twin, _)) = call.twin {
                assert!(names.insert(twin), "{twin} twice");
            }
        }
        for name in ALIASES
            .iter()
            .map(|row| row.0)
            .chain(STUBS.iter().map(|row| row.0))
        {
            assert!(names.insert(name), "{name} twice");
        }
        assert!(
            names.len() >= 707,
            "the 580-series driver exports 707 symbols"
        );
    }

    macro_rules! collect_rows {
        ($($number:literal $class:ident / $place:ident / $capture:tt $shim:ident / $backend:ident
           $name:ident @ $since:literal $(| $twin:ident @ $twin_since:literal)?
           ($($arg:ident : $dir:ident $ty:ty),*);)*) => {
            const ROWS: &[(u16, &str, &[&str])] =
                &[$(($number, stringify!($name), &[$(stringify!($dir $ty)),*])),*];
        };
    }
    cuda_calls!(collect_rows);

    /// Numbers and arguments are permanent (`isolation.md` 9): `permanent.tsv` holds those that were ever committed. A new
    /// row is appended to it by running this test with `VGPU_APPEND_NUMBERS=1`; a line of it never changes.
    #[test]
    fn numbers_and_arguments_never_change() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/permanent.tsv");
        let mut permanent = std::fs::read_to_string(path).unwrap_or_default();
        let line = |(number, name, arguments): &(u16, &str, &[&str])| {
            format!("{number}\t{name}\t{}", arguments.join(", "))
        };
        let today: HashSet<String> = ROWS.iter().map(line).collect();
        for line in permanent.lines() {
            assert!(
                today.contains(line),
                "a permanent row changed or is gone: {line}"
            );
        }
        let known: HashSet<String> = permanent.lines().map(str::to_owned).collect();
        let new: Vec<String> = ROWS
            .iter()
            .map(line)
            .filter(|line| !known.contains(line))
            .collect();
        if std::env::var_os("VGPU_APPEND_NUMBERS").is_some() {
            for line in &new {
                permanent.push_str(line);
                permanent.push('\n');
            }
            std::fs::write(path, permanent).expect("permanent.tsv can be written");
        } else {
            assert!(
                new.is_empty(),
                "rows that permanent.tsv does not hold yet: {new:?}"
            );
        }
    }

    /// The closed list (`semantics.md` 9). The synchronous forms of copies and fills are executed as their asynchronous
    /// ones. The shim knows a bad event itself; destroying a stream is a call.
    #[test]
    fn only_the_closed_list_is_posted() {
        const LIST: &[&str] = &[
            "cuEventDestroy_v2",
            "cuEventRecord",
            "cuEventRecordWithFlags",
            "cuGraphLaunch",
            "cuLaunchKernel",
            "cuLaunchKernelEx",
            "cuMemFreeAsync",
            "cuMemcpy",
            "cuMemcpy3DAsync_v2",
            "cuMemcpyAsync",
            "cuMemcpyDtoDAsync_v2",
            "cuMemcpyDtoD_v2",
            "cuMemcpyDtoHAsync_v2",
            "cuMemcpyHtoDAsync_v2",
            "cuMemcpyHtoD_v2",
            "cuMemcpyPeer",
            "cuMemcpyPeerAsync",
            "cuMemsetD16Async",
            "cuMemsetD16_v2",
            "cuMemsetD2D16Async",
            "cuMemsetD2D16_v2",
            "cuMemsetD2D32Async",
            "cuMemsetD2D32_v2",
            "cuMemsetD2D8Async",
            "cuMemsetD2D8_v2",
            "cuMemsetD32Async",
            "cuMemsetD32_v2",
            "cuMemsetD8Async",
            "cuMemsetD8_v2",
            "cuStreamWaitEvent",
            "cuStreamWaitValue32_v2",
            "cuStreamWaitValue64_v2",
            "cuStreamWriteValue32_v2",
            "cuStreamWriteValue64_v2",
        ];
        let mut posted: Vec<&str> = CALLS
            .iter()
            .filter(|call| call.class == Class::Post)
            .map(|call| call.name)
            .collect();
        posted.sort_unstable();
        assert_eq!(posted, LIST);
    }

    #[test]
    fn look_ups_name_no_object_of_a_context() {
        let objects = [
            "Ctx", "Stream", "Event", "Mem", "Pointer", "Graph", "Func", "Kernel",
        ];
        for call in CALLS.iter().filter(|call| call.class == Class::Lookup) {
            // Memory as a figure of the device is no memory.
            let name = call.name.replace("TotalMem", "Total");
            assert!(
                !objects.iter().any(|object| name.contains(object)),
                "{name}"
            );
        }
    }

    #[test]
    fn every_alias_names_a_call() {
        for (alias, _, target) in ALIASES {
            assert!(
                CALLS.iter().any(|call| call.name == *target),
                "{alias} = {target}"
            );
        }
    }

    #[test]
    fn info_finds_every_call_and_nothing_else() {
        for call in CALLS {
            assert_eq!(info(call.number).map(|found| found.name), Some(call.name));
        }
        assert!(info(0).is_none());
        assert!(info(u16::MAX).is_none());
    }

    #[test]
    fn guest_calls_and_only_they_stay_in_the_guest() {
        // What names something of the guest's own stays there, or goes through tokens: then it may wait for the daemon.
        for call in CALLS {
            let local = matches!(call.class, Class::Lookup | Class::Local);
            match call.class {
                Class::Host => assert_ne!(call.place, Place::Issuer, "{}", call.name),
                _ => assert_eq!(local, call.place == Place::Guest, "{}", call.name),
            }
        }
    }
}
