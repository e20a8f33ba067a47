//! `cuGetExportTable`: the private tables NVIDIA's own libraries ask the driver for
//! (`cuda-driver-facts.md` §1, §2, §14).
//!
//! A table is an array of words; word 0 is its size in bytes (but for CLS). Tables have static
//! storage because callers keep the pointers and INTEG hashes two of the addresses. Unknown tables
//! are refused and named in the log: a table of dummies turns into crashes or wrong results.

mod cls;
mod integrity;
mod slots;

pub use cls::context_died;

use crate::log;
use core::ffi::c_void;
use vgpu_protocol::cuda::{CUresult, CUuuid};

/// A private table: words that are function addresses, size first.
#[repr(transparent)]
#[derive(Debug)]
pub struct Table<const WORDS: usize>([*const c_void; WORDS]);

// SAFETY: the words are addresses of functions and a number; nothing is ever written.
unsafe impl<const WORDS: usize> Sync for Table<WORDS> {}

impl<const WORDS: usize> Table<WORDS> {
    /// A table whose every slot refuses, with the size in word 0.
    const fn refusing() -> Self {
        let mut words = [slots::refuse as *const c_void; WORDS];
        words[0] = core::ptr::without_provenance(WORDS * 8);
        Self(words)
    }

    const fn with(mut self, slot: usize, function: *const c_void) -> Self {
        self.0[slot] = function;
        self
    }

    /// Where the table lies.
    pub fn address(&self) -> u64 {
        self.0.as_ptr() as u64
    }
}

static CUDART: Table<13> = Table::refusing()
    .with(1, slots::load_fatbin as *const c_void)
    .with(2, slots::primary_context as *const c_void)
    .with(6, slots::load_fatbin_options as *const c_void)
    .with(7, slots::module_destroyed as *const c_void)
    .with(8, slots::load_fatbin_header as *const c_void)
    .with(12, slots::load_compilers as *const c_void);

static HOOKS: Table<7> = Table::refusing()
    .with(1, slots::nothing as *const c_void)
    .with(2, slots::runtime_callback_flags as *const c_void)
    .with(3, slots::nothing as *const c_void)
    .with(4, slots::nothing as *const c_void)
    .with(5, slots::nothing as *const c_void)
    .with(6, slots::runtime_event_flags as *const c_void);

static TLS: Table<4> = Table::refusing().with(2, slots::current_context as *const c_void);

static CLS: Table<4> = Table::refusing()
    .with(0, cls::put as *const c_void)
    .with(1, cls::delete as *const c_void)
    .with(2, cls::get as *const c_void)
    .with(3, core::ptr::null());

static CTXCHECK: Table<15> = Table::refusing()
    .with(2, slots::check_context as *const c_void)
    .with(3, slots::zero as *const c_void);

static INTEGRITY: Table<3> = Table::refusing().with(1, integrity::check as *const c_void);

static TOOLS_CONTEXT: Table<93> = Table::refusing()
    .with(4, slots::context_id as *const c_void)
    .with(39, slots::stream_id as *const c_void)
    .with(51, slots::stream_token as *const c_void);

static TOOLS_MODULE: Table<99> =
    Table::refusing().with(7, slots::enumerate_functions as *const c_void);

static T1734: Table<64> = Table::refusing();

const fn uuid(text: u128) -> [u8; 16] {
    text.to_be_bytes()
}

/// `cuGetExportTable`.
///
/// # Safety
/// `table` and `id` are null or valid.
pub unsafe fn cuGetExportTable(
    table: *mut *const c_void,
    id: *const CUuuid,
) -> Result<(), CUresult> {
    if table.is_null() || id.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: checked for null; the caller gives a UUID.
    let bytes = unsafe { (*id).bytes };
    let found: *const c_void = match bytes {
        id if id == uuid(0x6bd5fb6c_5bf4_e74a_8987_d93912fd9df9) => CUDART.0.as_ptr().cast(),
        id if id == uuid(0xa094798c_2e74_2e74_93f2_0800200c0a66) => HOOKS.0.as_ptr().cast(),
        id if id == uuid(0x42d85a81_23f6_cb47_8298_f6e78a3aecdc) => TLS.0.as_ptr().cast(),
        id if id == uuid(0xc693336e_1121_df11_a8c3_68f355d89593) => CLS.0.as_ptr().cast(),
        id if id == uuid(0x263e8860_7cd2_6143_92f6_bbd5006dfa7e) => CTXCHECK.0.as_ptr().cast(),
        id if id == uuid(0xd4082055_bde6_704b_8d34_ba123c66e1f2) => INTEGRITY.0.as_ptr().cast(),
        id if id == uuid(0x21318c60_9714_3248_8ca6_41ff7324c8f2) => TOOLS_CONTEXT.0.as_ptr().cast(),
        id if id == uuid(0x6e163fbe_b958_444d_835c_e182aff1991e) => TOOLS_MODULE.0.as_ptr().cast(),
        id if id == uuid(0x1734dc26_800d_4745_8726_c0f1e7dd8bca) => T1734.0.as_ptr().cast(),
        _ => core::ptr::null(),
    };
    // SAFETY: checked for null.
    unsafe { *table = found };
    if found.is_null() {
        log::line(format_args!("refused private table {}", Hex(&bytes)));
        return Err(CUresult::INVALID_VALUE);
    }
    Ok(())
}

struct Hex<'a>(&'a [u8]);

impl core::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
