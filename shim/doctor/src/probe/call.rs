//! Calling a function of a stranger's library by its name, and what its answer comes to.

/// Stands for the code of a call of a function that is not there; the name of the call says so.
pub const MISSING: u32 = u32::MAX;

/// A call that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its name, or that it is missing.
    call: String,
    /// Its code, or [`MISSING`].
    code: u32,
}

impl From<Failure> for (String, u32) {
    fn from(failure: Failure) -> Self {
        (failure.call, failure.code)
    }
}

/// With the name that CUDA's driver has for the code.
impl From<Failure> for String {
    fn from(failure: Failure) -> Self {
        match failure.code {
            MISSING => failure.call,
            code => format!("{}: {}", failure.call, crate::codes::name(code)),
        }
    }
}

/// Whether a call, or what there is instead of it, succeeded.
///
/// # Errors
/// [`Failure`].
pub fn checked(name: &str, result: Result<u32, String>) -> Result<(), Failure> {
    match result {
        Ok(0) => Ok(()),
        Ok(code) => Err(Failure {
            call: name.to_owned(),
            code,
        }),
        Err(call) => Err(Failure {
            call,
            code: MISSING,
        }),
    }
}

/// A function of the library, called with the arguments that its C declaration has.
macro_rules! call {
    ($library:expr, $name:literal, ($($kind:ty),*), ($($argument:expr),*)) => {{
        $crate::probe::step($name);
        // SAFETY: the name belongs to this signature in CUDA's (NVML's, ggml's) published headers, and all pointers
        // passed are to locals that outlive the call.
        unsafe {
            $library
                .get::<unsafe extern "C" fn($($kind),*) -> u32>(concat!($name, "\0").as_bytes())
                .map(|function| function($($argument),*))
                .map_err(|_| concat!($name, " is missing").to_owned())
        }
    }};
}

/// As `call!`, for one that must succeed.
macro_rules! must {
    ($library:expr, $name:literal, ($($kind:ty),*), ($($argument:expr),*)) => {
        $crate::probe::call::checked(
            $name,
            $crate::probe::call::call!($library, $name, ($($kind),*), ($($argument),*)),
        )
    };
}

pub(super) use {call, must};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_call_and_its_code() {
        assert_eq!(checked("cuInit", Ok(0)), Ok(()));
        let failed = checked("cuInit", Ok(100)).unwrap_err();
        assert_eq!(
            <(String, u32)>::from(failed.clone()),
            ("cuInit".to_owned(), 100)
        );
        assert!(String::from(failed).starts_with("cuInit: "));
        let missing = checked("cuInit", Err("cuInit is missing".to_owned())).unwrap_err();
        assert_eq!(String::from(missing), "cuInit is missing");
    }
}
