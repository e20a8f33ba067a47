//! Options of the just-in-time compiler: arrays of ids and of values that are numbers or pointers
//! to the program's own buffers.

use crate::call::Block;
use crate::client::Client;
use core::ffi::c_void;
use vgpu_protocol::cuda::CUresult;
use vgpu_protocol::wire::{Blob, JitOption, LoadReply};

/// `CUjit_option`s with a meaning here.
mod option {
    pub const MAX_REGISTERS: u32 = 0;
    pub const THREADS_PER_BLOCK: u32 = 1;
    pub const WALL_TIME: u32 = 2;
    pub const INFO_LOG_BUFFER: u32 = 3;
    pub const INFO_LOG_BUFFER_SIZE: u32 = 4;
    pub const ERROR_LOG_BUFFER: u32 = 5;
    pub const ERROR_LOG_BUFFER_SIZE: u32 = 6;
    pub const OPTIMIZATION_LEVEL: u32 = 7;
    pub const TARGET_FROM_CONTEXT: u32 = 8;
    pub const TARGET: u32 = 9;
    pub const FALLBACK_STRATEGY: u32 = 10;
    pub const GENERATE_DEBUG_INFO: u32 = 11;
    pub const LOG_VERBOSE: u32 = 12;
    pub const GENERATE_LINE_INFO: u32 = 13;
    pub const CACHE_MODE: u32 = 14;
    pub const FAST_COMPILE: u32 = 16;
    pub const POSITION_INDEPENDENT_CODE: u32 = 30;
    pub const MIN_CTA_PER_SM: u32 = 31;
    pub const MAX_THREADS_PER_BLOCK: u32 = 32;
    pub const OVERRIDE_DIRECTIVE_VALUES: u32 = 33;
}

/// Longest log that is brought back, in bytes.
const MAX_LOG: usize = 1 << 20;

/// A log buffer of the program.
#[derive(Debug, Default)]
struct Log {
    buffer: usize,
    size: usize,
    /// Index of the size option, whose value becomes the bytes written.
    size_at: Option<usize>,
}

/// The options of one call.
#[derive(Debug, Default)]
pub struct Options {
    /// Options with integer values, to be sent.
    pub plain: Vec<JitOption>,
    info: Log,
    error: Log,
    values: usize,
}

impl Options {
    /// Reads option arrays.
    ///
    /// # Errors
    /// `INVALID_VALUE` for missing arrays, `NOT_SUPPORTED` for options that cannot be remoted.
    ///
    /// # Safety
    /// `ids` and `values` are null or have `count` entries.
    pub unsafe fn read(
        count: u32,
        ids: *const u32,
        values: *mut *mut c_void,
    ) -> Result<Self, CUresult> {
        let mut options = Self {
            values: values as usize,
            ..Self::default()
        };
        if count == 0 {
            return Ok(options);
        }
        if ids.is_null() || values.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        for at in 0..count as usize {
            // SAFETY: the caller's contract.
            let (id, value) = unsafe { (*ids.add(at), *values.add(at) as usize) };
            match id {
                option::INFO_LOG_BUFFER => options.info.buffer = value,
                option::INFO_LOG_BUFFER_SIZE => {
                    (options.info.size, options.info.size_at) = (value as u32 as usize, Some(at));
                }
                option::ERROR_LOG_BUFFER => options.error.buffer = value,
                option::ERROR_LOG_BUFFER_SIZE => {
                    (options.error.size, options.error.size_at) = (value as u32 as usize, Some(at));
                }
                // The time the compilation took; not known here, so left as it is.
                option::WALL_TIME => {}
                option::MAX_REGISTERS
                | option::THREADS_PER_BLOCK
                | option::OPTIMIZATION_LEVEL
                | option::TARGET_FROM_CONTEXT
                | option::TARGET
                | option::FALLBACK_STRATEGY
                | option::GENERATE_DEBUG_INFO
                | option::LOG_VERBOSE
                | option::GENERATE_LINE_INFO
                | option::CACHE_MODE
                | option::FAST_COMPILE
                | option::POSITION_INDEPENDENT_CODE
                | option::MIN_CTA_PER_SM
                | option::MAX_THREADS_PER_BLOCK
                | option::OVERRIDE_DIRECTIVE_VALUES => {
                    options.plain.push(JitOption {
                        option: id,
                        pad: 0,
                        value: value as u64,
                    });
                }
                _ => return Err(CUresult::NOT_SUPPORTED),
            }
        }
        Ok(options)
    }

    /// Blocks for the logs the program asked for.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`.
    pub fn logs<'a>(&self, client: &'a Client) -> Result<Logs<'a>, CUresult> {
        let block = |log: &Log| {
            (log.buffer != 0 && log.size > 0)
                .then(|| Block::new(client, log.size.min(MAX_LOG)))
                .transpose()
        };
        Ok(Logs {
            info: block(&self.info)?,
            error: block(&self.error)?,
        })
    }

    /// Brings the logs into the program's buffers.
    ///
    /// # Safety
    /// The arrays given to [`Options::read`] and the buffers named there are still valid.
    pub unsafe fn deliver(&self, logs: &Logs<'_>, reply: &LoadReply) -> Result<(), CUresult> {
        for (log, block, len) in [
            (&self.info, &logs.info, reply.info_len),
            (&self.error, &logs.error, reply.error_len),
        ] {
            let Some(block) = block else { continue };
            let len = (len as usize).min(log.size).min(MAX_LOG);
            let mut text = vec![0; len];
            block.read(&mut text)?;
            // SAFETY: the caller's contract: the buffer has the size that came with it.
            unsafe {
                core::ptr::copy_nonoverlapping(text.as_ptr(), log.buffer as *mut u8, len);
                if len < log.size {
                    (log.buffer as *mut u8).add(len).write(0);
                }
                if let Some(at) = log.size_at {
                    (self.values as *mut *mut c_void)
                        .add(at)
                        .write(len as *mut c_void);
                }
            }
        }
        Ok(())
    }
}

/// Shared memory in which the worker leaves the logs.
#[derive(Debug)]
pub struct Logs<'a> {
    info: Option<Block<'a>>,
    error: Option<Block<'a>>,
}

impl Logs<'_> {
    /// Where the info log goes.
    pub fn info(&self) -> Blob {
        self.info.as_ref().map(Block::blob).unwrap_or_default()
    }

    /// Where the error log goes.
    pub fn error(&self) -> Blob {
        self.error.as_ref().map(Block::blob).unwrap_or_default()
    }
}
