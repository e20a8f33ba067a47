//! A device of nothing but memory: what the tests need around the engine.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use vgpu_ptx::{Launch, LaunchError, LinkedModule, Memory, Module};

/// A plain number that lies in memory without padding.
pub trait Plain: Copy + Default {}

macro_rules! plain {
    ($($t:ty)*) => {$(impl Plain for $t {})*};
}
plain!(u8 u16 u32 u64 i8 i16 i32 i64 f32 f64);

type Allocation = (Range<u64>, Box<[u128]>);

/// Memory that kernels and tests see under the same address.
#[derive(Default)]
pub struct Device {
    allocations: Mutex<Vec<Allocation>>,
    pub printed: Mutex<Vec<Vec<u8>>>,
    pub cancel: AtomicBool,
    pub budget: Option<u64>,
}

// SAFETY: allocations are freed only with the device, and their bytes are reached through raw
// pointers alone while a launch may run.
unsafe impl Memory for Device {
    fn range_of(&self, addr: u64) -> Option<Range<u64>> {
        self.allocations
            .lock()
            .unwrap()
            .iter()
            .map(|a| a.0.clone())
            .find(|r| r.contains(&addr))
    }
}

impl Device {
    pub fn alloc(&self, bytes: usize) -> u64 {
        let mut words = vec![0u128; bytes.div_ceil(16)].into_boxed_slice();
        let start = words.as_mut_ptr().expose_provenance() as u64;
        self.allocations
            .lock()
            .unwrap()
            .push((start..start + bytes as u64, words));
        start
    }

    pub fn write<T: Plain>(&self, to: u64, values: &[T]) {
        let range = self.range_of(to).unwrap();
        assert!(to + size_of_val(values) as u64 <= range.end);
        // SAFETY: the target was just checked to lie in an allocation; no launch runs meanwhile.
        unsafe {
            let at = std::ptr::with_exposed_provenance_mut::<u8>(to as usize);
            at.copy_from_nonoverlapping(values.as_ptr().cast(), size_of_val(values));
        }
    }

    pub fn upload<T: Plain>(&self, values: &[T]) -> u64 {
        let to = self.alloc(size_of_val(values).max(1));
        self.write(to, values);
        to
    }

    pub fn zeros<T: Plain>(&self, count: usize) -> u64 {
        self.alloc(count * size_of::<T>())
    }

    pub fn read<T: Plain>(&self, from: u64, count: usize) -> Vec<T> {
        let range = self.range_of(from).unwrap();
        let mut out = vec![T::default(); count];
        assert!(from + size_of_val(out.as_slice()) as u64 <= range.end);
        // SAFETY: the source was just checked to lie in an allocation; no launch runs meanwhile.
        unsafe {
            let at = std::ptr::with_exposed_provenance::<u8>(from as usize);
            at.copy_to_nonoverlapping(out.as_mut_ptr().cast(), size_of_val(out.as_slice()));
        }
        out
    }

    pub fn load(&self, text: &str) -> LinkedModule {
        self.try_load(Module::parse(text).unwrap()).unwrap()
    }

    /// `None` when the module does not link.
    pub fn try_load(&self, module: Module) -> Option<LinkedModule> {
        let addresses: Vec<u64> = module
            .globals()
            .iter()
            .map(|g| self.alloc(g.size.max(1) as usize))
            .collect();
        let linked = module.link(&addresses).ok()?;
        for (index, address) in addresses.iter().enumerate() {
            let bytes = linked.initial_bytes(index);
            self.write(*address, &bytes);
        }
        Some(linked)
    }

    pub fn try_launch(
        &self,
        module: &LinkedModule,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        args: &[Arg<'_>],
    ) -> Result<(), LaunchError> {
        let kernel = module.kernel(kernel).unwrap();
        let mut params = Vec::new();
        assert_eq!(args.len(), kernel.params().len());
        for (arg, param) in args.iter().zip(kernel.params()) {
            params.resize(param.offset as usize, 0);
            params.extend(arg.bytes());
        }
        params.resize(kernel.param_bytes() as usize, 0);
        let print = |bytes: &[u8]| self.printed.lock().unwrap().push(bytes.to_vec());
        kernel.launch(&Launch {
            grid,
            block,
            dynamic_shared: shared,
            params: &params,
            memory: self,
            printf: &print,
            cancel: &self.cancel,
            threads: 2,
            instruction_budget: self.budget,
        })
    }

    /// Launches a line of blocks.
    pub fn run(
        &self,
        module: &LinkedModule,
        kernel: &str,
        grid: u32,
        block: u32,
        args: &[Arg<'_>],
    ) {
        self.try_launch(module, kernel, [grid, 1, 1], [block, 1, 1], 0, args)
            .unwrap();
    }
}

/// One kernel argument.
pub enum Arg<'a> {
    Pointer(u64),
    Int(i32),
    Float(f32),
    Bytes(&'a [u8]),
}

impl Arg<'_> {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Arg::Pointer(p) => p.to_le_bytes().to_vec(),
            Arg::Int(v) => v.to_le_bytes().to_vec(),
            Arg::Float(v) => v.to_le_bytes().to_vec(),
            Arg::Bytes(b) => b.to_vec(),
        }
    }
}

/// Numbers that look random and are the same in every run.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let v = self.0 ^ self.0 >> 29;
        v.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ v >> 32
    }

    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }
}
