//! Variables with their initialisers, and function headers.

use super::{MAX_NESTING, Parser, Result};
use crate::ast::{Function, Registers, Space, Type, Variable};
use crate::lexer::Token;
use crate::module::Relocation;

/// Largest variable accepted, in bytes.
const MAX_VARIABLE_BYTES: u64 = 1 << 40;

/// Most bytes of initialiser one variable may expand to.
const MAX_INIT_BYTES: u64 = 64 << 20;

struct Shape {
    ty: Type,
    /// Elements of one vector: `.v2` is 2.
    width: u64,
    align: u64,
    managed: bool,
}

impl<'a> Parser<'a> {
    /// `.space [.align n] [.vN] .type name[dims] [= init], …;`
    pub(super) fn declared(&mut self, is_extern: bool) -> Result<Vec<Variable>> {
        let space = match self.word("a state space")? {
            ".global" => Space::Global,
            ".const" => Space::Const,
            ".shared" => Space::Shared,
            ".local" => Space::Local,
            ".param" => Space::Param,
            other => return self.error(format!("'{other}' is no state space")),
        };
        let shape = self.shape()?;
        let mut out = Vec::new();
        loop {
            let name = self.word("a name")?.to_string();
            // `name<n>` declares several variables only for parameters of calls; none use it.
            let variable = self.variable(name, space, &shape, is_extern)?;
            out.push(variable);
            if !self.eat(',')? {
                break;
            }
        }
        self.expect(';')?;
        Ok(out)
    }

    fn shape(&mut self) -> Result<Shape> {
        let mut width = 1;
        let mut align = None;
        let mut managed = false;
        loop {
            match self.word("a type")? {
                ".align" => {
                    let value = self.int("an alignment")?;
                    if !value.is_power_of_two() || value > 4096 {
                        return self
                            .error(format!("alignment {value} is no power of two up to 4096"));
                    }
                    align = Some(value);
                }
                ".attribute" => {
                    self.expect('(')?;
                    while !self.is(')') {
                        if let Token::Word(".managed") = self.token {
                            managed = true;
                        }
                        if self.token == Token::End {
                            return self.error("expected ')', found the end of the text");
                        }
                        self.advance()?;
                    }
                    self.expect(')')?;
                }
                ".v2" => width = 2,
                ".v4" => width = 4,
                ".v8" => width = 8,
                // Pointer attributes of kernel parameters say nothing about the layout.
                ".ptr" | ".global" | ".const" | ".shared" | ".local" | ".param" | ".noalias" => {}
                word => match Type::parse(word) {
                    Some(ty) => {
                        let natural = u64::from(ty.size()) * width;
                        // `.ptr .align n` after the type speaks of the pointee.
                        if let Token::Word(".ptr") = self.token {
                            self.pointer_attributes()?;
                        }
                        return Ok(Shape {
                            ty,
                            width,
                            align: align.unwrap_or(natural),
                            managed,
                        });
                    }
                    None => return self.error(format!("'{word}' is no type")),
                },
            }
        }
    }

    fn pointer_attributes(&mut self) -> Result<()> {
        while let Token::Word(w) = self.token {
            if !w.starts_with('.') {
                break;
            }
            self.advance()?;
            if w == ".align" {
                self.int("an alignment")?;
            }
        }
        Ok(())
    }

    fn variable(
        &mut self,
        name: String,
        space: Space,
        shape: &Shape,
        is_extern: bool,
    ) -> Result<Variable> {
        let element = u64::from(shape.ty.size()) * shape.width;
        let mut dims: Vec<u64> = Vec::new();
        let mut open = false;
        while self.eat('[')? {
            if self.is(']') {
                open = true;
                dims.push(0);
            } else {
                dims.push(self.int("an array length")?);
            }
            self.expect(']')?;
            if dims.len() > 16 {
                return self.error("more than 16 array dimensions");
            }
        }
        let mut init = Init::default();
        if self.eat('=')? {
            let inner = dims.get(1..).unwrap_or(&[]).to_vec();
            let scalar = u64::from(shape.ty.size());
            let total = if dims.is_empty() && shape.width == 1 {
                None
            } else {
                Some(inner)
            };
            self.initialiser(&mut init, shape, scalar, total.as_deref(), 0)?;
        }
        if open && let Some(first) = dims.first_mut() {
            // `name[] = {…}`: the length comes from the initialiser; without one it is dynamic.
            let row = element.saturating_mul(1).max(1);
            *first = (init.bytes.len() as u64).div_ceil(row);
        }
        let size = dims
            .iter()
            .try_fold(element, |n, d| n.checked_mul(*d))
            .filter(|n| *n <= MAX_VARIABLE_BYTES);
        let Some(size) = size else {
            return self.error(format!("variable '{name}' is too large"));
        };
        if init.bytes.len() as u64 > size {
            return self.error(format!(
                "initialiser of '{name}' is longer than the variable"
            ));
        }
        if init
            .relocations
            .iter()
            .any(|r| r.offset.saturating_add(u64::from(r.size)) > size)
        {
            return self.error(format!(
                "initialiser of '{name}' is longer than the variable"
            ));
        }
        Ok(Variable {
            name,
            space,
            size,
            align: shape.align,
            is_extern,
            opaque: shape.ty == Type::Opaque,
            managed: shape.managed,
            init: init.bytes,
            relocations: init.relocations,
        })
    }

    /// One initialiser; `dims` are the dimensions below this level, `None` for a scalar.
    fn initialiser(
        &mut self,
        init: &mut Init,
        shape: &Shape,
        scalar: u64,
        dims: Option<&[u64]>,
        depth: u32,
    ) -> Result<()> {
        if depth > MAX_NESTING {
            return self.error("initialiser nested too deeply");
        }
        if !self.eat('{')? {
            return self.element(init, shape.ty);
        }
        let row = dims
            .unwrap_or(&[])
            .iter()
            .try_fold(scalar.wrapping_mul(shape.width), |n, d| n.checked_mul(*d));
        while !self.is('}') {
            if self.is('{') {
                let start = init.bytes.len() as u64;
                let inner = dims.and_then(|d| d.get(1..)).unwrap_or(&[]);
                self.initialiser(init, shape, scalar, Some(inner), depth + 1)?;
                // A short inner list leaves zeros up to the next row.
                let end = row
                    .and_then(|r| start.checked_add(r))
                    .filter(|e| *e <= MAX_INIT_BYTES);
                let Some(end) = end else {
                    return self.error("initialiser is too large");
                };
                if (init.bytes.len() as u64) < end && dims.is_some_and(|d| !d.is_empty()) {
                    init.bytes.resize(end as usize, 0);
                }
            } else {
                self.element(init, shape.ty)?;
            }
            if init.bytes.len() as u64 > MAX_INIT_BYTES {
                return self.error("initialiser is too large");
            }
            if !self.eat(',')? {
                break;
            }
        }
        self.expect('}')
    }

    fn element(&mut self, init: &mut Init, ty: Type) -> Result<()> {
        let size = ty.size() as usize;
        let negative = self.eat('-')?;
        let bits = match self.token {
            Token::Int(value) => {
                self.advance()?;
                if self.is('(') {
                    return self.masked_symbol(init, value, size);
                }
                let value = if negative {
                    value.wrapping_neg()
                } else {
                    value
                };
                match ty {
                    Type::F32 => u64::from((value as i64 as f32).to_bits()),
                    Type::F64 => (value as i64 as f64).to_bits(),
                    _ => value,
                }
            }
            Token::F32(bits) => {
                self.advance()?;
                let sign = u32::from(negative) << 31;
                match ty {
                    Type::F64 => f64::from(f32::from_bits(bits ^ sign)).to_bits(),
                    _ => u64::from(bits ^ sign),
                }
            }
            Token::F64(bits) => {
                self.advance()?;
                let value = f64::from_bits(bits ^ (u64::from(negative) << 63));
                match ty {
                    Type::F32 => u64::from((value as f32).to_bits()),
                    _ => value.to_bits(),
                }
            }
            Token::Word("generic") => {
                self.advance()?;
                self.expect('(')?;
                let symbol = self.word("a symbol")?;
                self.expect(')')?;
                return self.symbol(init, symbol, size);
            }
            Token::Word(symbol) => {
                self.advance()?;
                return self.symbol(init, symbol, size);
            }
            _ => return self.error(format!("expected a value, found {}", self.token)),
        };
        let bytes = u128::from(bits).to_le_bytes();
        init.bytes.extend(bytes.iter().take(size));
        Ok(())
    }

    fn symbol(&mut self, init: &mut Init, symbol: &str, size: usize) -> Result<()> {
        let addend = self.addend()?;
        init.relocate(symbol, size, 0, addend);
        Ok(())
    }

    /// `0xFF00(symbol+8)`: one byte of an address, chosen by the mask.
    fn masked_symbol(&mut self, init: &mut Init, mask: u64, size: usize) -> Result<()> {
        self.expect('(')?;
        let mut symbol = self.word("a symbol")?;
        let generic = symbol == "generic" && self.eat('(')?;
        if generic {
            symbol = self.word("a symbol")?;
            self.expect(')')?;
        }
        let addend = self.addend()?;
        self.expect(')')?;
        let shift = if mask == 0 { 0 } else { mask.trailing_zeros() };
        if mask >> shift != 0xff || shift % 8 != 0 {
            return self.error(format!("address mask {mask:#x} does not choose one byte"));
        }
        init.relocate(symbol, size.min(1), shift, addend);
        init.bytes
            .resize(init.bytes.len() + size.saturating_sub(1), 0);
        Ok(())
    }

    /// `+n`, `-n` or nothing.
    pub(super) fn addend(&mut self) -> Result<i64> {
        let mut sum = 0i64;
        while self.is('+') || self.is('-') {
            // `int` takes a minus itself.
            self.eat('+')?;
            sum = sum.wrapping_add(self.int("an offset")? as i64);
        }
        Ok(sum)
    }

    /// `.reg .type name<n>, name, …;`
    pub(super) fn registers(&mut self) -> Result<Vec<Registers>> {
        self.advance()?;
        let shape = self.shape()?;
        if shape.width != 1 {
            return self.error("vector registers are not supported");
        }
        let mut out = Vec::new();
        loop {
            let name = self.word("a register")?.to_string();
            let count = if self.eat('<')? {
                let n = self.small("a register count")?;
                self.expect('>')?;
                Some(n)
            } else {
                None
            };
            out.push(Registers {
                name,
                ty: shape.ty,
                count,
            });
            if !self.eat(',')? {
                break;
            }
        }
        self.expect(';')?;
        Ok(out)
    }

    /// A function or kernel, from `.func`/`.entry` on.
    pub(super) fn function(&mut self, is_kernel: bool) -> Result<Function> {
        let line = self.line;
        self.advance()?;
        let mut register_abi = false;
        let mut cluster = false;
        let attributes = |p: &mut Self| -> Result<()> {
            while let Token::Word(".attribute") = p.token {
                p.advance()?;
                p.skip_group()?;
            }
            Ok(())
        };
        attributes(self)?;
        let returns = if self.is('(') {
            self.parameters(&mut register_abi)?
        } else {
            Vec::new()
        };
        let name = self.word("a function name")?.to_string();
        let params = if self.is('(') {
            self.parameters(&mut register_abi)?
        } else {
            Vec::new()
        };
        let mut max_threads = 0;
        let mut required_block = None;
        loop {
            match self.token {
                Token::Word(".maxntid") => {
                    self.advance()?;
                    max_threads = self.dims()?.iter().fold(1u32, |n, d| n.saturating_mul(*d));
                }
                Token::Word(".reqntid") => {
                    self.advance()?;
                    required_block = Some(self.dims()?);
                }
                Token::Word(".reqnctapercluster" | ".explicitcluster" | ".maxclusterrank") => {
                    cluster |= self.token != Token::Word(".maxclusterrank");
                    self.advance()?;
                    if matches!(self.token, Token::Int(_)) {
                        self.dims()?;
                    }
                }
                Token::Word(
                    ".maxnreg"
                    | ".minnctapersm"
                    | ".maxnctapersm"
                    | ".abi_preserve"
                    | ".abi_preserve_control",
                ) => {
                    self.advance()?;
                    self.int("a number")?;
                }
                Token::Word(".noreturn" | ".blocksareclusters") => {
                    self.advance()?;
                }
                Token::Word(".pragma") => self.skip_to_semicolon()?,
                Token::Word(".attribute") => attributes(self)?,
                Token::Punct('{') | Token::Punct(';') => break,
                _ => return self.error(format!("expected a function body, found {}", self.token)),
            }
        }
        let body = if self.eat(';')? {
            None
        } else {
            Some(self.body()?)
        };
        Ok(Function {
            name,
            is_kernel,
            line,
            returns,
            params,
            register_abi,
            max_threads,
            required_block,
            cluster,
            body,
        })
    }

    fn dims(&mut self) -> Result<[u32; 3]> {
        let x = self.small("a block size")?;
        let y = if self.eat(',')? {
            self.small("a block size")?
        } else {
            1
        };
        let z = if self.eat(',')? {
            self.small("a block size")?
        } else {
            1
        };
        Ok([x, y, z])
    }

    /// Skips a parenthesised group.
    pub(super) fn skip_group(&mut self) -> Result<()> {
        self.expect('(')?;
        let mut depth = 1u32;
        while depth > 0 {
            match self.token {
                Token::Punct('(') => depth = depth.saturating_add(1),
                Token::Punct(')') => depth -= 1,
                Token::End => return self.error("expected ')', found the end of the text"),
                _ => {}
            }
            self.advance()?;
        }
        Ok(())
    }

    fn parameters(&mut self, register_abi: &mut bool) -> Result<Vec<Variable>> {
        self.expect('(')?;
        let mut out = Vec::new();
        while !self.is(')') {
            match self.word("a parameter")? {
                ".param" => {}
                ".reg" => *register_abi = true,
                other => return self.error(format!("expected a parameter, found '{other}'")),
            }
            let shape = self.shape()?;
            let name = self.word("a parameter name")?.to_string();
            out.push(self.variable(name, Space::Param, &shape, false)?);
            if !self.eat(',')? {
                break;
            }
        }
        self.expect(')')?;
        Ok(out)
    }
}

#[derive(Default)]
struct Init {
    bytes: Vec<u8>,
    relocations: Vec<Relocation>,
}

impl Init {
    fn relocate(&mut self, symbol: &str, size: usize, shift: u32, addend: i64) {
        self.relocations.push(Relocation {
            offset: self.bytes.len() as u64,
            size: size.min(8) as u8,
            shift,
            symbol: symbol.to_string(),
            addend,
        });
        self.bytes.resize(self.bytes.len() + size, 0);
    }
}
