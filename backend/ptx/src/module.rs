//! Modules: what the text declares, and the same bound to addresses.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::ast::{Ast, Space};
use crate::error::{LinkError, LowerError, ParseError};
use crate::exec::FUNCTION_BASE;
use crate::lower::{self, Kernel};
use crate::parser;

/// Where a module variable lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GlobalSpace {
    /// `__device__`
    Global,
    /// `__constant__`
    Const,
    /// `__managed__`
    Managed,
}

/// A place in a variable's initial bytes that holds (part of) the address of a symbol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relocation {
    /// Byte offset in the variable.
    pub offset: u64,
    /// Bytes to store, 1 to 8.
    pub size: u8,
    /// Bits the address is shifted right before its low bytes are stored.
    pub shift: u32,
    /// The variable or function named.
    pub symbol: String,
    /// Added to the address.
    pub addend: i64,
}

/// A variable of a module that needs device memory.
#[derive(Debug, Clone)]
pub struct Global {
    /// Name as in the text (mangled for C++).
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Alignment in bytes, a power of two.
    pub align: u64,
    /// State space.
    pub space: GlobalSpace,
    /// First initial bytes; zeros follow up to `size`. Relocations are not applied.
    pub init: Vec<u8>,
    /// Addresses to store into the initial bytes.
    pub relocations: Vec<Relocation>,
}

/// A parsed module.
#[derive(Debug)]
pub struct Module {
    ast: Ast,
    globals: Vec<Global>,
}

impl Module {
    /// Parses PTX text.
    ///
    /// # Errors
    ///
    /// [`ParseError`] where the text is not PTX. Instructions are not looked at here: a module with
    /// an unsupported kernel still loads and its other kernels run.
    pub fn parse(text: &str) -> Result<Module, ParseError> {
        let ast = parser::parse(text)?;
        let globals = ast
            .variables
            .iter()
            .filter(|v| !v.is_extern && !v.opaque)
            .filter_map(|v| {
                let space = match v.space {
                    Space::Global if v.managed => GlobalSpace::Managed,
                    Space::Global => GlobalSpace::Global,
                    Space::Const => GlobalSpace::Const,
                    _ => return None,
                };
                Some(Global {
                    name: v.name.clone(),
                    size: v.size,
                    align: v.align,
                    space,
                    init: v.init.clone(),
                    relocations: v.relocations.clone(),
                })
            })
            .collect();
        Ok(Module { ast, globals })
    }

    /// The variables that need device memory, in the order of the text.
    pub fn globals(&self) -> &[Global] {
        &self.globals
    }

    /// Names of the kernels, in the order of the text.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.ast
            .functions
            .iter()
            .filter(|f| f.is_kernel && f.body.is_some())
            .map(|f| f.name.as_str())
    }

    /// The `.version` of the text, e.g. `(8, 7)`.
    pub fn ptx_version(&self) -> (u32, u32) {
        self.ast.version
    }

    /// The `.target` of the text, e.g. 75 for `sm_75`; 0 when it names none.
    pub fn target(&self) -> u32 {
        self.ast.target
    }

    /// Binds each of [`globals`](Self::globals) to the address at the same index.
    ///
    /// # Errors
    ///
    /// [`LinkError::AddressCount`] when the numbers differ, [`LinkError::Unresolved`] when an
    /// initialiser names a symbol the module does not define.
    pub fn link(self, addresses: &[u64]) -> Result<LinkedModule, LinkError> {
        if addresses.len() != self.globals.len() {
            return Err(LinkError::AddressCount {
                given: addresses.len(),
                needed: self.globals.len(),
            });
        }
        let mut symbols: HashMap<String, u64> = self
            .globals
            .iter()
            .map(|g| g.name.clone())
            .zip(addresses.iter().copied())
            .collect();
        for (index, function) in self.ast.functions.iter().enumerate() {
            symbols
                .entry(function.name.clone())
                .or_insert(FUNCTION_BASE + index as u64 * 16);
        }
        for global in &self.globals {
            for relocation in &global.relocations {
                if !symbols.contains_key(&relocation.symbol) {
                    return Err(LinkError::Unresolved(relocation.symbol.clone()));
                }
            }
        }
        Ok(LinkedModule {
            module: self,
            symbols,
            kernels: Mutex::new(HashMap::new()),
        })
    }
}

/// A module whose variables have addresses.
#[derive(Debug)]
pub struct LinkedModule {
    module: Module,
    /// Addresses of variables, and tagged addresses of functions.
    symbols: HashMap<String, u64>,
    kernels: Mutex<HashMap<String, Arc<Kernel>>>,
}

impl LinkedModule {
    /// The module as parsed.
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// Address of a variable, or `None` when the module has none of that name.
    pub fn address_of(&self, global: &str) -> Option<u64> {
        self.symbols
            .get(global)
            .copied()
            .filter(|a| *a < FUNCTION_BASE)
    }

    /// The first initial bytes of `globals()[index]` with addresses filled in; zeros follow up to
    /// the variable's size. Empty for an unknown index.
    pub fn initial_bytes(&self, index: usize) -> Vec<u8> {
        let Some(global) = self.module.globals.get(index) else {
            return Vec::new();
        };
        let mut bytes = global.init.clone();
        for r in &global.relocations {
            let address = self
                .symbols
                .get(&r.symbol)
                .copied()
                .unwrap_or(0)
                .wrapping_add(r.addend as u64);
            let value = (address >> r.shift.min(63)).to_le_bytes();
            let start = usize::try_from(r.offset).unwrap_or(usize::MAX);
            if let Some(place) = bytes.get_mut(start..start.saturating_add(usize::from(r.size))) {
                for (to, from) in place.iter_mut().zip(value) {
                    *to = from;
                }
            }
        }
        bytes
    }

    /// A kernel ready to launch; lowered at first use and kept.
    ///
    /// # Errors
    ///
    /// [`LowerError`] when there is no such kernel, or it cannot be executed.
    pub fn kernel(&self, name: &str) -> Result<Arc<Kernel>, LowerError> {
        let known = |map: &HashMap<String, Arc<Kernel>>| map.get(name).cloned();
        if let Some(kernel) = self.kernels.lock().ok().as_deref().and_then(known) {
            return Ok(kernel);
        }
        let kernel = Arc::new(lower::lower(&self.module.ast, &self.symbols, name)?);
        if let Ok(mut map) = self.kernels.lock() {
            map.insert(name.to_string(), Arc::clone(&kernel));
        }
        Ok(kernel)
    }
}
