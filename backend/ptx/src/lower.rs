//! Lowering: from a kernel's text to closures over register slots.
//!
//! One file per family of instructions; each has one function that takes an instruction and either
//! gives what to execute or says why it cannot be.

mod atomic;
mod bits;
mod call;
mod compare;
mod convert;
mod dispatch;
mod float;
mod form;
mod function;
mod half;
mod integer;
mod layout;
mod map;
mod memory;
mod moves;
mod operand;
mod warp;

use std::collections::HashMap;

use crate::ast::{Ast, Space};
use crate::error::{LaunchError, LowerError};
use crate::exec::{self, FUNCTION_BASE, Function};
use crate::launch::Launch;
use crate::{MAX_BLOCK_THREADS, MAX_PARAM_BYTES, MAX_SHARED_BYTES};
use layout::Layout;

/// One parameter of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param {
    /// Byte offset in the parameter block.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
    /// Alignment in bytes.
    pub align: u32,
}

/// A kernel that can be launched.
#[derive(Debug)]
pub struct Kernel {
    name: String,
    params: Vec<Param>,
    param_bytes: u32,
    static_shared: u32,
    max_threads: u32,
    required_block: Option<[u32; 3]>,
    registers: u32,
    uses_printf: bool,
    /// The kernel itself is first.
    pub(crate) functions: Vec<Function>,
    /// Where a function of the module (by index in its text) is in `functions`.
    placed: HashMap<usize, usize>,
}

impl Kernel {
    /// Name as in the text.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The parameters, in order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Bytes of the parameter block.
    pub fn param_bytes(&self) -> u32 {
        self.param_bytes
    }

    /// Bytes of statically declared shared memory.
    pub fn static_shared_bytes(&self) -> u32 {
        self.static_shared
    }

    /// Bytes of local memory of one thread in the kernel itself, without what it calls.
    pub fn local_bytes(&self) -> u32 {
        self.functions.first().map_or(0, |f| f.local_bytes)
    }

    /// Most threads per block: `.maxntid` or `.reqntid` when given, else 1024.
    pub fn max_threads(&self) -> u32 {
        self.max_threads
    }

    /// The block shape `.reqntid` demands.
    pub fn required_block(&self) -> Option<[u32; 3]> {
        self.required_block
    }

    /// A made-up but stable number of registers per thread, 16 to 255: what the text declares and
    /// uses, since no real allocation takes place.
    pub fn registers(&self) -> u32 {
        self.registers
    }

    /// Whether the kernel or a function it may call uses `printf`.
    pub fn uses_printf(&self) -> bool {
        self.uses_printf
    }

    /// Executes a grid and returns when it has ended.
    ///
    /// A block is executed by one CPU thread from beginning to end, blocks start in the order of
    /// their index, and only [`Launch::threads`] are in flight at once: a block may wait for an
    /// earlier one, never for a later one (grid-wide barriers do not work).
    ///
    /// # Errors
    ///
    /// [`LaunchError`]; after any but `InvalidConfiguration` part of the grid has run.
    pub fn launch(&self, launch: &Launch<'_>) -> Result<(), LaunchError> {
        exec::run(self, launch)
    }

    /// The function at a tagged address.
    pub(crate) fn function_at(&self, address: u64) -> Option<usize> {
        let offset = address.checked_sub(FUNCTION_BASE)?;
        if offset % 16 != 0 {
            return None;
        }
        self.placed
            .get(&usize::try_from(offset / 16).ok()?)
            .copied()
    }
}

/// Why an instruction or function cannot be lowered.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// PTX, but beyond this engine.
    Unsupported(String),
    /// Not PTX.
    Invalid(String),
}

pub(crate) type Lowered<T> = Result<T, Refusal>;

pub(crate) fn unsupported<T>(why: impl Into<String>) -> Lowered<T> {
    Err(Refusal::Unsupported(why.into()))
}

pub(crate) fn invalid<T>(why: impl Into<String>) -> Lowered<T> {
    Err(Refusal::Invalid(why.into()))
}

/// What the functions of one kernel share while they are lowered.
pub(crate) struct Program<'a> {
    pub(crate) ast: &'a Ast,
    pub(crate) symbols: &'a HashMap<String, u64>,
    functions_by_name: HashMap<&'a str, usize>,
    /// Functions to lower: index in the text, and whether called by name.
    pending: Vec<(usize, bool)>,
    placed: HashMap<usize, usize>,
    pub(crate) shared: Layout,
    /// Module-scope and function-scope shared variables, by unique name.
    shared_offsets: HashMap<String, u32>,
    /// Module-scope shared variables by name.
    pub(crate) shared_variables: HashMap<&'a str, &'a crate::ast::Variable>,
    pub(crate) dynamic_shared_align: u32,
    pub(crate) uses_printf: bool,
    pub(crate) kernel_params: Vec<Param>,
}

impl<'a> Program<'a> {
    /// Index a call of function `name` will find it at, scheduling it for lowering.
    pub(crate) fn place(&mut self, name: &str, called: bool) -> Option<usize> {
        let index = *self.functions_by_name.get(name)?;
        self.place_index(index, called)
    }

    fn place_index(&mut self, index: usize, called: bool) -> Option<usize> {
        let function = self.ast.functions.get(index)?;
        function.body.as_ref()?;
        if let Some(at) = self.placed.get(&index) {
            return Some(*at);
        }
        let at = self.placed.len();
        self.placed.insert(index, at);
        self.pending.push((index, called));
        Some(at)
    }

    pub(crate) fn function_named(&self, name: &str) -> Option<&'a crate::ast::Function> {
        self.ast.functions.get(*self.functions_by_name.get(name)?)
    }

    /// Offset of a shared variable, laid out at first use. `key` is unique in the module.
    pub(crate) fn shared_offset(&mut self, key: &str, size: u64, align: u64) -> Lowered<u32> {
        if let Some(at) = self.shared_offsets.get(key) {
            return Ok(*at);
        }
        let at = self.shared.add(size, align, MAX_SHARED_BYTES)?;
        self.shared_offsets.insert(key.to_string(), at);
        Ok(at)
    }
}

/// Lowers kernel `name` with every function it may call.
pub(crate) fn lower(
    ast: &Ast,
    symbols: &HashMap<String, u64>,
    name: &str,
) -> Result<Kernel, LowerError> {
    let mut functions_by_name = HashMap::new();
    for (index, function) in ast.functions.iter().enumerate() {
        functions_by_name.insert(function.name.as_str(), index);
    }
    let missing = || LowerError::NotFound(name.to_string());
    let index = *functions_by_name.get(name).ok_or_else(missing)?;
    let entry = ast
        .functions
        .get(index)
        .filter(|f| f.is_kernel && f.body.is_some())
        .ok_or_else(missing)?;

    let name_it = |refusal: Refusal| match refusal {
        Refusal::Unsupported(why) => LowerError::Unsupported {
            message: format!("kernel '{name}': {why}"),
        },
        Refusal::Invalid(why) => LowerError::Invalid {
            message: format!("kernel '{name}': {why}"),
        },
    };
    if entry.cluster {
        return Err(name_it(Refusal::Unsupported(
            "thread block clusters: not supported by the software device".into(),
        )));
    }
    let mut layout = Layout::default();
    let mut params = Vec::new();
    for p in &entry.params {
        let offset = layout
            .add(p.size, p.align, MAX_PARAM_BYTES)
            .map_err(name_it)?;
        params.push(Param {
            offset,
            size: p.size as u32,
            align: p.align as u32,
        });
    }
    let param_bytes = layout.size();
    let mut program = Program {
        ast,
        symbols,
        functions_by_name,
        pending: Vec::new(),
        placed: HashMap::new(),
        shared: Layout::default(),
        shared_offsets: HashMap::new(),
        shared_variables: ast
            .variables
            .iter()
            .filter(|v| v.space == Space::Shared)
            .map(|v| (v.name.as_str(), v))
            .collect(),
        dynamic_shared_align: 16,
        uses_printf: false,
        kernel_params: params,
    };
    program.place_index(index, true);
    let mut functions: Vec<Option<Function>> = Vec::new();
    let mut addresses_seen = false;
    loop {
        while let Some((index, called)) = program.pending.pop() {
            let Some(function) = ast.functions.get(index) else {
                continue;
            };
            let at = program.placed.get(&index).copied().unwrap_or(0);
            let lowered = match function::lower(&mut program, function) {
                Ok(f) => f,
                // A function reached by address only may never be called: it is refused when it is.
                Err(Refusal::Unsupported(why) | Refusal::Invalid(why)) if !called => {
                    Function::refused(&function.name, why)
                }
                Err(refusal) => return Err(name_it(refusal)),
            };
            if functions.len() <= at {
                functions.resize_with(at + 1, || None);
            }
            if let Some(place) = functions.get_mut(at) {
                *place = Some(lowered);
            }
        }
        // Functions whose addresses lie in variables (tables of virtual functions) may be called
        // wherever there is a call through a pointer.
        let indirect = functions.iter().flatten().any(Function::calls_indirectly);
        if !indirect || addresses_seen {
            break;
        }
        addresses_seen = true;
        for variable in ast
            .variables
            .iter()
            .filter(|v| matches!(v.space, Space::Global | Space::Const))
        {
            for relocation in &variable.relocations {
                program.place(&relocation.symbol, false);
            }
        }
    }
    let functions: Vec<Function> = functions.into_iter().flatten().collect();
    let static_shared = program.shared.end_aligned(program.dynamic_shared_align);
    let limit = entry.required_block.map_or(entry.max_threads, |b| {
        b.iter().fold(1u32, |n, d| n.saturating_mul(*d))
    });
    let registers = functions
        .first()
        .map_or(16, |f| (f.image.len() / 32).clamp(16, 255) as u32);
    Ok(Kernel {
        name: name.to_string(),
        params: program.kernel_params,
        param_bytes,
        static_shared,
        max_threads: if limit == 0 {
            MAX_BLOCK_THREADS
        } else {
            limit.min(MAX_BLOCK_THREADS)
        },
        required_block: entry.required_block,
        registers,
        uses_printf: program.uses_printf,
        functions,
        placed: program.placed,
    })
}
