//! What the parser makes of the text, before any instruction is understood.

/// A scalar type of PTX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[rustfmt::skip]
pub(crate) enum Type {
    U8, U16, U32, U64, S8, S16, S32, S64, B8, B16, B32, B64, B128,
    F16, F16x2, Bf16, Bf16x2, F32, F64, Pred,
    /// Texture, sampler and surface references: declared, never usable.
    Opaque,
}

impl Type {
    /// The type named by `word`, with or without its leading dot.
    pub(crate) fn parse(word: &str) -> Option<Type> {
        Some(match word.strip_prefix('.').unwrap_or(word) {
            "u8" => Type::U8,
            "u16" => Type::U16,
            "u32" => Type::U32,
            "u64" => Type::U64,
            "s8" => Type::S8,
            "s16" => Type::S16,
            "s32" => Type::S32,
            "s64" => Type::S64,
            "b8" => Type::B8,
            "b16" => Type::B16,
            "b32" => Type::B32,
            "b64" => Type::B64,
            "b128" => Type::B128,
            "f16" => Type::F16,
            "f16x2" => Type::F16x2,
            "bf16" => Type::Bf16,
            "bf16x2" => Type::Bf16x2,
            "f32" => Type::F32,
            "f64" => Type::F64,
            "pred" => Type::Pred,
            "texref" | "samplerref" | "surfref" => Type::Opaque,
            _ => return None,
        })
    }

    /// Bytes in memory; 1 for a predicate, which has no place in memory.
    pub(crate) fn size(self) -> u32 {
        match self {
            Type::U8 | Type::S8 | Type::B8 | Type::Pred => 1,
            Type::U16 | Type::S16 | Type::B16 | Type::F16 | Type::Bf16 => 2,
            Type::U32 | Type::S32 | Type::B32 | Type::F32 | Type::F16x2 | Type::Bf16x2 => 4,
            Type::U64 | Type::S64 | Type::B64 | Type::F64 | Type::Opaque => 8,
            Type::B128 => 16,
        }
    }

    /// True for the integer types that sign-extend.
    pub(crate) fn is_signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }

    /// True for the types `cvt` and arithmetic treat as floating point.
    pub(crate) fn is_float(self) -> bool {
        matches!(
            self,
            Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2 | Type::F32 | Type::F64
        )
    }
}

/// Where a variable lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// A declared variable outside the registers.
#[derive(Debug, Clone)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) space: Space,
    /// Bytes; 0 for an array without a length (dynamic shared memory).
    pub(crate) size: u64,
    /// Power of two.
    pub(crate) align: u64,
    pub(crate) is_extern: bool,
    pub(crate) opaque: bool,
    pub(crate) managed: bool,
    /// Initial bytes, shorter than `size` when zeros follow.
    pub(crate) init: Vec<u8>,
    pub(crate) relocations: Vec<crate::module::Relocation>,
}

/// A register declaration: one register, or `count` registers `name0`, `name1`, ….
#[derive(Debug, Clone)]
pub(crate) struct Registers {
    pub(crate) name: String,
    pub(crate) ty: Type,
    /// `Some(n)` for `name<n>`.
    pub(crate) count: Option<u32>,
}

/// One operand of an instruction, not yet understood.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand {
    /// Register, variable, label, function or special register.
    Name(String),
    /// Integer, in two's complement.
    Int(u64),
    /// Bits of a single.
    F32(u32),
    /// Bits of a double.
    F64(u64),
    /// `!p`
    Not(String),
    /// `p|q`; `_` for a sink.
    Pair(String, String),
    /// `name+offset` outside brackets.
    Sum(String, i64),
    /// `[base+offset]`; `base` is `None` for an absolute address.
    Address(Option<String>, i64),
    /// `{a, b}`
    Vector(Vec<Operand>),
    /// `(a, b)`
    Group(Vec<Operand>),
    /// Well-formed operands of instructions that are not executed (textures).
    Other,
}

/// One instruction: `@!p op operands;`
#[derive(Debug, Clone)]
pub(crate) struct Instruction {
    /// Guard predicate and whether it is negated.
    pub(crate) guard: Option<(String, bool)>,
    /// Opcode with all its suffixes.
    pub(crate) op: String,
    pub(crate) operands: Vec<Operand>,
    pub(crate) line: u32,
}

/// One statement of a function body.
#[derive(Debug, Clone)]
pub(crate) enum Statement {
    Label(String),
    Instruction(Instruction),
    Registers(Registers),
    Variable(Variable, u32),
    /// `name: .branchtargets a, b;`
    Targets(String, Vec<String>),
    /// `name: .callprototype …;`
    Prototype(String),
    Enter,
    Leave,
}

/// A function or kernel.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) is_kernel: bool,
    pub(crate) line: u32,
    pub(crate) returns: Vec<Variable>,
    pub(crate) params: Vec<Variable>,
    /// A parameter or result is passed in registers, which is not supported.
    pub(crate) register_abi: bool,
    /// `.maxntid`, as a product; 0 when absent.
    pub(crate) max_threads: u32,
    /// `.reqntid`.
    pub(crate) required_block: Option<[u32; 3]>,
    /// `.reqnctapercluster` or `.explicitcluster`.
    pub(crate) cluster: bool,
    /// `None` for a declaration.
    pub(crate) body: Option<Vec<Statement>>,
}

/// A parsed module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ast {
    /// Module-scope `.global`, `.const` and `.shared` variables.
    pub(crate) variables: Vec<Variable>,
    pub(crate) functions: Vec<Function>,
    /// `.target` architecture, e.g. 75.
    pub(crate) target: u32,
    /// `.version` as (major, minor).
    pub(crate) version: (u32, u32),
}
