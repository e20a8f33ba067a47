//! Functions and kernels: what was learnt with the handle (parameter layout, name) and what is
//! remembered of answers (attributes, occupancy), so that a launch asks nobody.
//!
//! Handles are recycled by the driver, so everything is dropped when a module or library goes.

mod attributes;
mod occupancy;

pub use attributes::*;
pub use occupancy::*;

use crate::client::Client;
use crate::{call, context};
use core::mem::ManuallyDrop;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, RwLock};
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::internal;
use vgpu_protocol::wire::{self, FunctionReply, Param, read_prefix};
use zerocopy::IntoBytes;

/// Largest number of parameters asked for: 32,764 bytes of single bytes.
const MAX_PARAMS: u32 = 32_764;

/// A function or kernel.
#[derive(Debug)]
pub struct Info {
    /// The handle, as the worker gave it.
    pub handle: u64,
    /// Whether it is a `CUkernel`.
    pub is_kernel: bool,
    /// The kernel it was made from, or null.
    pub kernel: CUkernel,
    /// Module or library it came from.
    pub container: u64,
    /// Its name, if it was looked up by name.
    pub name: Option<CString>,
    /// Its parameters, once the driver could tell them: see [`Info::parameters`].
    parameters: OnceLock<Parameters>,
    /// Attribute values asked for before.
    attributes: Mutex<HashMap<(i32, i32), i32>>,
    /// Occupancy answers, by block size, dynamic shared memory and flags.
    occupancy: Mutex<HashMap<(i32, usize, u32), i32>>,
}

/// The parameters of a function.
#[derive(Debug, Default)]
pub struct Parameters {
    /// Offset and size of each.
    pub list: Box<[Param]>,
    /// Bytes of the buffer that they are packed into.
    pub len: u32,
}

impl Info {
    /// The parameters. The driver tells those of a kernel only where a context is current, which need not be so where it was
    /// looked up: then it is asked again.
    ///
    /// # Errors
    /// `INVALID_CONTEXT` where none is current, `NOT_SUPPORTED` when the driver cannot tell.
    pub fn parameters(&self, client: &Client) -> Result<&Parameters, CUresult> {
        match self.parameters.get() {
            Some(known) => Ok(known),
            None => self.ask(client),
        }
    }

    #[cold]
    fn ask(&self, client: &Client) -> Result<&Parameters, CUresult> {
        if context::current().is_null() {
            return Err(CUresult::INVALID_CONTEXT);
        }
        let mut reply = [0; vgpu_channel::reply::PAYLOAD_BYTES];
        let len = ask_for(client, self.handle, self.is_kernel, 0, &mut reply)?;
        let (head, rest) = read_prefix::<FunctionReply>(&reply[..len]).ok_or(CUresult::UNKNOWN)?;
        let parameters =
            parameters(client, &head, rest, self.is_kernel)?.ok_or(CUresult::NOT_SUPPORTED)?;
        Ok(self.parameters.get_or_init(|| parameters))
    }
}

static FUNCTIONS: LazyLock<RwLock<HashMap<u64, Arc<Info>>>> = LazyLock::new(RwLock::default);

/// Moves whenever remembered launches or functions may be wrong.
static GENERATION: AtomicU64 = AtomicU64::new(1);

/// Now-valid generation of everything threads remember of functions.
#[inline]
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Acquire)
}

/// Makes threads forget which launches have succeeded (`semantics.md` 10).
pub fn forget_signatures() {
    GENERATION.fetch_add(1, Ordering::Release);
}

/// A remembered look-up: the generation it holds for, and what was found.
type Remembered = Option<(u64, Arc<Info>)>;

thread_local! {
    /// The last functions of this thread, by a few bits of the handle.
    static RECENT: ManuallyDrop<RefCell<[Remembered; 16]>> =
        const { ManuallyDrop::new(RefCell::new([const { None }; 16])) };
}

/// Forgets what the calling thread remembers, when it ends.
pub fn forget_recent() {
    RECENT.with(|recent| recent.borrow_mut().fill(None));
}

/// A function or kernel by its handle.
///
/// # Errors
/// `INVALID_HANDLE` for what is neither.
pub fn find(handle: u64) -> Result<Arc<Info>, CUresult> {
    let generation = generation();
    RECENT.with(|recent| {
        let mut recent = recent.borrow_mut();
        let place = &mut recent[(handle >> 4 ^ handle >> 10) as usize % 16];
        if let Some((at, info)) = place
            && *at == generation
            && info.handle == handle
        {
            return Ok(info.clone());
        }
        let functions = FUNCTIONS.read().unwrap_or_else(PoisonError::into_inner);
        let info = functions
            .get(&handle)
            .cloned()
            .ok_or(CUresult::INVALID_HANDLE)?;
        *place = Some((generation, info.clone()));
        Ok(info)
    })
}

/// Enters a function from the worker's reply to a look-up.
///
/// # Errors
/// When more of the layout must be asked for and that fails.
pub fn enter(
    client: &Client,
    reply: &[u8],
    is_kernel: bool,
    container: u64,
    name: Option<CString>,
) -> Result<u64, CUresult> {
    enter_from(
        client,
        reply,
        if is_kernel {
            Origin::Kernel
        } else {
            Origin::Module
        },
        container,
        name,
    )
}

/// Where a function comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A module: a `CUfunction`.
    Module,
    /// A library: it is a `CUkernel` itself.
    Kernel,
    /// A `CUfunction` made from this kernel.
    Made(CUkernel),
}

/// As [`enter`], for every origin.
///
/// # Errors
/// As [`enter`].
pub fn enter_from(
    client: &Client,
    reply: &[u8],
    origin: Origin,
    container: u64,
    name: Option<CString>,
) -> Result<u64, CUresult> {
    let is_kernel = origin == Origin::Kernel;
    let (head, rest) = read_prefix::<FunctionReply>(reply).ok_or(CUresult::UNKNOWN)?;
    if let Some(known) = FUNCTIONS
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&head.handle)
        && known.container == container
        && known.is_kernel == is_kernel
        && (known.name.is_some() || name.is_none())
    {
        return Ok(head.handle);
    }
    let parameters = match parameters(client, &head, rest, is_kernel)? {
        Some(known) => OnceLock::from(known),
        None => OnceLock::new(),
    };
    let info = Arc::new(Info {
        handle: head.handle,
        is_kernel,
        kernel: match origin {
            Origin::Made(kernel) => kernel,
            Origin::Module | Origin::Kernel => CUkernel::NULL,
        },
        container,
        name,
        parameters,
        attributes: Mutex::default(),
        occupancy: Mutex::default(),
    });
    FUNCTIONS
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(head.handle, info);
    forget_signatures();
    Ok(head.handle)
}

/// Asks the worker for the parameters of a function from the `first` on.
fn ask_for(
    client: &Client,
    function: u64,
    is_kernel: bool,
    first: u32,
    reply: &mut [u8],
) -> Result<usize, CUresult> {
    let args = wire::ParamLayout {
        function,
        first,
        flags: u32::from(is_kernel),
    };
    call::call_variable(client, internal::PARAM_LAYOUT, &[args.as_bytes()], reply)
}

/// The parameters that a worker's reply begins with; asks for the rest. `None` when the driver could not tell them.
fn parameters(
    client: &Client,
    head: &FunctionReply,
    mut rest: &[u8],
    is_kernel: bool,
) -> Result<Option<Parameters>, CUresult> {
    if head.flags & 1 != 0 || head.param_count > MAX_PARAMS {
        return Ok(None);
    }
    let mut params = Vec::new();
    take_params(&mut params, head.present, &mut rest);
    while params.len() < head.param_count as usize {
        let before = params.len();
        let mut more = [0; vgpu_channel::reply::PAYLOAD_BYTES];
        let len = ask_for(client, head.handle, is_kernel, before as u32, &mut more)?;
        let (head, mut rest) =
            read_prefix::<FunctionReply>(&more[..len]).ok_or(CUresult::UNKNOWN)?;
        take_params(&mut params, head.present, &mut rest);
        if params.len() == before {
            return Err(CUresult::UNKNOWN);
        }
    }
    let fits = params.iter().all(|param| {
        param
            .offset
            .checked_add(param.size)
            .is_some_and(|end| end <= head.params_len)
    });
    Ok(fits.then(|| Parameters {
        list: params.into_boxed_slice(),
        len: head.params_len,
    }))
}

fn take_params(params: &mut Vec<Param>, present: u32, rest: &mut &[u8]) {
    for _ in 0..present {
        let Some((param, tail)) = read_prefix::<Param>(rest) else {
            return;
        };
        params.push(param);
        *rest = tail;
    }
}

/// Forgets the functions of a module or library that is gone.
pub fn container_gone(container: u64) {
    FUNCTIONS
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .retain(|_, info| info.container != container);
    forget_signatures();
}
