//! Code: modules in a context, libraries for every context, their functions and variables.
//!
//! A library keeps its PTX and is instantiated as a module in each context that uses it. One more
//! instance without memory, the prototype, answers what does not depend on a context.

use crate::context::Context;
use crate::device;
use crate::foreign::Outcome;
use crate::memory::{Origin, Range};
use crate::raw;
use crate::table::{Kind, Table};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::{Arc, Weak};
use vgpu_protocol::cuda::{CUfunction, CUkernel, CUlibrary, CUmodule, CUresult};
use vgpu_ptx::{ImageError, LinkedModule, LowerError};

/// Why code cannot be loaded or found: the code for the caller and the text for its log.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: CUresult,
    pub(crate) text: String,
}

impl Refusal {
    fn new(code: CUresult, text: impl ToString) -> Self {
        let text = text.to_string();
        tracing::warn!(%code, "{text}");
        Self { code, text }
    }
}

impl From<Refusal> for CUresult {
    fn from(refusal: Refusal) -> Self {
        refusal.code
    }
}

/// Attributes of a function that can be set; shared by all instances of a library's kernel.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// `MAX_DYNAMIC_SHARED_SIZE_BYTES`, once set.
    pub(crate) max_dynamic_shared: Option<u32>,
    /// `PREFERRED_SHARED_MEMORY_CARVEOUT`, once set.
    pub(crate) carveout: Option<i32>,
}

/// A kernel in a module.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) handle: CUfunction,
    pub(crate) name: CString,
    pub(crate) kernel: Arc<vgpu_ptx::Kernel>,
    pub(crate) module: CUmodule,
    /// [`Core::id`](crate::context::Core) of the context.
    pub(crate) owner: u64,
    pub(crate) settings: Arc<Mutex<Settings>>,
}

/// A module in a context.
pub(crate) struct Module {
    pub(crate) handle: CUmodule,
    owner: u64,
    linked: LinkedModule,
    variables: BTreeMap<String, Range>,
    functions: Mutex<BTreeMap<String, Arc<Function>>>,
    library: Weak<Library>,
}

/// A kernel of a library.
pub(crate) struct Kernel {
    pub(crate) handle: CUkernel,
    pub(crate) name: CString,
    pub(crate) library: CUlibrary,
    /// The prototype's: has parameters and attributes, is not to be launched.
    pub(crate) kernel: Arc<vgpu_ptx::Kernel>,
    pub(crate) settings: Arc<Mutex<Settings>>,
}

/// A library.
pub(crate) struct Library {
    pub(crate) handle: CUlibrary,
    text: String,
    prototype: LinkedModule,
    /// The module in each context, by [`Core::id`](crate::context::Core).
    modules: Mutex<BTreeMap<u64, Arc<Module>>>,
    kernels: Mutex<BTreeMap<String, Arc<Kernel>>>,
}

static MODULES: Table<Module> = Table::new(Kind::Module);
static FUNCTIONS: Table<Function> = Table::new(Kind::Function);
static LIBRARIES: Table<Library> = Table::new(Kind::Library);
static KERNELS: Table<Kernel> = Table::new(Kind::Kernel);

/// The highest architecture whose PTX the device takes.
const MAX_SM: u32 = (device::CAPABILITY.0 * 10 + device::CAPABILITY.1) as u32;

/// Takes the PTX out of an image.
pub(crate) fn ptx_of(image: &[u8]) -> Result<String, Refusal> {
    vgpu_ptx::fatbin::select_ptx(image, MAX_SM).map_err(|error| {
        let code = match error {
            ImageError::NoBinary(_) => CUresult::NO_BINARY_FOR_GPU,
            _ => CUresult::INVALID_IMAGE,
        };
        Refusal::new(code, error)
    })
}

fn parse(text: &str) -> Result<vgpu_ptx::Module, Refusal> {
    vgpu_ptx::Module::parse(text).map_err(|error| Refusal::new(CUresult::INVALID_PTX, error))
}

/// Checks that a text is PTX.
pub(crate) fn check_text(text: &str) -> Result<(), Refusal> {
    parse(text).map(drop)
}

fn kernel_of(linked: &LinkedModule, name: &str) -> Result<Arc<vgpu_ptx::Kernel>, Refusal> {
    linked.kernel(name).map_err(|error| {
        let code = match error {
            // Looking for what may not be there is ordinary: not worth a log line.
            LowerError::NotFound(_) => {
                return Refusal {
                    code: CUresult::NOT_FOUND,
                    text: error.to_string(),
                };
            }
            LowerError::Unsupported { .. } => CUresult::NOT_SUPPORTED,
            _ => CUresult::INVALID_PTX,
        };
        Refusal::new(code, error)
    })
}

/// Memory for a module's variables, given back unless the module comes to be.
struct Variables(Vec<Range>);

impl Drop for Variables {
    fn drop(&mut self) {
        for range in self.0.drain(..) {
            device::memory().end(range.start, |now| now.id == range.id);
        }
    }
}

/// Instantiates PTX in a context.
fn instantiate(
    text: &str,
    owner: u64,
    library: Weak<Library>,
) -> Result<impl FnOnce(u64) -> Module, Refusal> {
    let parsed = parse(text)?;
    let memory = device::memory();
    let mut ranges = Variables(Vec::new());
    for global in parsed.globals() {
        // A variable without bytes still has an address.
        let range = memory
            .allocate(global.size.max(1), global.align, Origin::Variable, owner)
            .map_err(|code| Refusal::new(code, format!("no memory for '{}'", global.name)))?;
        ranges.0.push(range);
    }
    let addresses: Vec<u64> = ranges.0.iter().map(|range| range.start).collect();
    let linked = parsed
        .link(&addresses)
        .map_err(|error| Refusal::new(CUresult::INVALID_PTX, error))?;
    let mut variables = BTreeMap::new();
    for (index, range) in std::mem::take(&mut ranges.0).into_iter().enumerate() {
        let bytes = linked.initial_bytes(index);
        let len = (bytes.len() as u64).min(range.size);
        let _ticket = memory.enter();
        // SAFETY: the range was just allocated for this module and nobody else knows it; `len`
        // exceeds neither it nor the bytes.
        unsafe { raw::copy(range.start, bytes.as_ptr() as u64, len) };
        if let Some(global) = linked.module().globals().get(index) {
            variables.insert(global.name.clone(), range);
        }
    }
    Ok(move |handle| Module {
        handle: CUmodule(handle),
        owner,
        linked,
        variables,
        functions: Mutex::new(BTreeMap::new()),
        library,
    })
}

/// Loads PTX into a context.
pub(crate) fn load(context: &Context, text: &str) -> Result<Arc<Module>, Refusal> {
    let make = instantiate(text, context.core.id, Weak::new())?;
    Ok(MODULES.insert_with(make))
}

/// The live module of a handle.
pub(crate) fn get(handle: CUmodule) -> Outcome<Arc<Module>> {
    MODULES.get(handle.0).ok_or(CUresult::INVALID_HANDLE)
}

/// Unloads a module that was loaded as such.
pub(crate) fn unload(handle: CUmodule) -> Outcome {
    let module = get(handle)?;
    if module.library.strong_count() > 0 {
        return Err(CUresult::INVALID_HANDLE);
    }
    crate::context::synchronize_owner(module.owner)?;
    let module = MODULES.remove(handle.0).ok_or(CUresult::INVALID_HANDLE)?;
    module.end();
    Ok(())
}

/// The live function of a handle; a kernel of a library is found under its own handle, as an
/// instance in `context`.
pub(crate) fn function(handle: CUfunction, context: &Context) -> Outcome<Arc<Function>> {
    if let Some(function) = FUNCTIONS.get(handle.0) {
        return Ok(function);
    }
    let kernel = kernel(CUkernel(handle.0))?;
    kernel_in(&kernel, context)
}

/// The live function of a handle, which is not a kernel's.
pub(crate) fn plain_function(handle: CUfunction) -> Outcome<Arc<Function>> {
    FUNCTIONS.get(handle.0).ok_or(CUresult::INVALID_HANDLE)
}

/// A library's kernel in a context.
pub(crate) fn kernel_in(kernel: &Kernel, context: &Context) -> Outcome<Arc<Function>> {
    let library = library(kernel.library)?;
    let name = kernel.name.to_string_lossy();
    Ok(library.module_in(context)?.function(&name)?)
}

/// Loads a library.
pub(crate) fn load_library(text: String) -> Result<Arc<Library>, Refusal> {
    let parsed = parse(&text)?;
    // Addresses that satisfy every alignment. The prototype is never executed.
    let addresses: Vec<u64> = (1..=parsed.globals().len() as u64)
        .map(|number| number << 20)
        .collect();
    let prototype = parsed
        .link(&addresses)
        .map_err(|error| Refusal::new(CUresult::INVALID_PTX, error))?;
    Ok(LIBRARIES.insert_with(|handle| Library {
        handle: CUlibrary(handle),
        text,
        prototype,
        modules: Mutex::new(BTreeMap::new()),
        kernels: Mutex::new(BTreeMap::new()),
    }))
}

/// The live library of a handle.
pub(crate) fn library(handle: CUlibrary) -> Outcome<Arc<Library>> {
    LIBRARIES.get(handle.0).ok_or(CUresult::INVALID_HANDLE)
}

/// The live kernel of a handle.
pub(crate) fn kernel(handle: CUkernel) -> Outcome<Arc<Kernel>> {
    KERNELS.get(handle.0).ok_or(CUresult::INVALID_HANDLE)
}

/// Unloads a library from every context.
pub(crate) fn unload_library(handle: CUlibrary) -> Outcome {
    let library = LIBRARIES.remove(handle.0).ok_or(CUresult::INVALID_HANDLE)?;
    let modules = std::mem::take(&mut *library.modules.lock());
    for (owner, module) in modules {
        // A failed context's memory is not in use either: its streams are drained.
        let _ = crate::context::synchronize_owner(owner);
        MODULES.remove(module.handle.0);
        module.end();
    }
    for kernel in library.kernels.lock().values() {
        KERNELS.remove(kernel.handle.0);
    }
    Ok(())
}

/// Forgets the modules of a context that ends.
pub(crate) fn forget(owner: u64) {
    for module in MODULES.remove_if(|module| module.owner == owner) {
        module.end();
        if let Some(library) = module.library.upgrade() {
            library.modules.lock().remove(&owner);
        }
    }
}

impl Module {
    /// A function by name; the same handle every time.
    pub(crate) fn function(&self, name: &str) -> Result<Arc<Function>, Refusal> {
        let mut functions = self.functions.lock();
        if let Some(function) = functions.get(name) {
            return Ok(Arc::clone(function));
        }
        let kernel = kernel_of(&self.linked, name)?;
        let settings = match self.library.upgrade() {
            Some(library) => Arc::clone(&library.kernel(name)?.settings),
            None => Arc::default(),
        };
        let function = FUNCTIONS.insert_with(|handle| Function {
            handle: CUfunction(handle),
            name: CString::new(name).unwrap_or_default(),
            kernel,
            module: self.handle,
            owner: self.owner,
            settings,
        });
        functions.insert(name.to_owned(), Arc::clone(&function));
        Ok(function)
    }

    /// Names of all functions.
    pub(crate) fn function_names(&self) -> Vec<String> {
        let names = self.linked.module().kernels();
        names.map(str::to_owned).collect()
    }

    /// A variable by name.
    pub(crate) fn variable(&self, name: &str) -> Outcome<Range> {
        let range = self.variables.get(name).copied();
        range.ok_or(CUresult::NOT_FOUND)
    }

    fn end(&self) {
        for (_, function) in std::mem::take(&mut *self.functions.lock()) {
            FUNCTIONS.remove(function.handle.0);
        }
        for range in self.variables.values() {
            device::memory().end(range.start, |now| now.id == range.id);
        }
    }
}

impl Library {
    /// The module of this library in a context, made when it is first needed.
    pub(crate) fn module_in(self: &Arc<Self>, context: &Context) -> Result<Arc<Module>, Refusal> {
        let owner = context.core.id;
        let mut modules = self.modules.lock();
        if let Some(module) = modules.get(&owner) {
            return Ok(Arc::clone(module));
        }
        let make = instantiate(&self.text, owner, Arc::downgrade(self))?;
        let module = MODULES.insert_with(make);
        modules.insert(owner, Arc::clone(&module));
        Ok(module)
    }

    /// A kernel by name; the same handle every time.
    pub(crate) fn kernel(&self, name: &str) -> Result<Arc<Kernel>, Refusal> {
        let mut kernels = self.kernels.lock();
        if let Some(kernel) = kernels.get(name) {
            return Ok(Arc::clone(kernel));
        }
        let lowered = kernel_of(&self.prototype, name)?;
        let kernel = KERNELS.insert_with(|handle| Kernel {
            handle: CUkernel(handle),
            name: CString::new(name).unwrap_or_default(),
            library: self.handle,
            kernel: lowered,
            settings: Arc::default(),
        });
        kernels.insert(name.to_owned(), Arc::clone(&kernel));
        Ok(kernel)
    }

    /// Names of all kernels.
    pub(crate) fn kernel_names(&self) -> Vec<String> {
        let names = self.prototype.module().kernels();
        names.map(str::to_owned).collect()
    }
}
