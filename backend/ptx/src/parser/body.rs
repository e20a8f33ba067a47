//! Function bodies: scopes, labels, declarations, instructions and their operands.

use super::{MAX_NESTING, Parser, Result};
use crate::ast::{Instruction, Operand, Statement};
use crate::error::ParseError;
use crate::lexer::Token;

impl<'a> Parser<'a> {
    /// A body, from its opening brace to the closing one.
    pub(super) fn body(&mut self) -> Result<Vec<Statement>> {
        self.expect('{')?;
        let mut depth = 0u32;
        let mut out = Vec::new();
        loop {
            match self.token {
                Token::End => return self.error("expected '}', found the end of the text"),
                Token::Punct('}') => {
                    self.advance()?;
                    if depth == 0 {
                        return Ok(out);
                    }
                    depth -= 1;
                    out.push(Statement::Leave);
                }
                Token::Punct('{') => {
                    self.advance()?;
                    depth += 1;
                    if depth > MAX_NESTING {
                        return self.error("scopes nested too deeply");
                    }
                    out.push(Statement::Enter);
                }
                Token::Punct(';') => {
                    self.advance()?;
                }
                Token::Punct('@') => {
                    self.advance()?;
                    let negated = self.eat('!')?;
                    let guard = self.word("a predicate")?.to_string();
                    let op = self.word("an instruction")?;
                    let instruction = self.instruction(op, Some((guard, negated)))?;
                    out.push(Statement::Instruction(instruction));
                }
                Token::Word(word) => self.statement(word, &mut out)?,
                _ => return self.error(format!("expected a statement, found {}", self.token)),
            }
        }
    }

    fn statement(&mut self, word: &'a str, out: &mut Vec<Statement>) -> Result<()> {
        match word {
            ".reg" => out.extend(self.registers()?.into_iter().map(Statement::Registers)),
            ".loc" | ".file" => self.skip_line()?,
            ".pragma" => self.skip_to_semicolon()?,
            ".extern" => {
                self.advance()?;
                self.local_variables(true, out)?;
            }
            ".global" | ".const" | ".shared" | ".local" | ".param" => {
                self.local_variables(false, out)?
            }
            _ if word.starts_with('.') => return self.error(format!("unknown directive '{word}'")),
            _ => {
                self.advance()?;
                if self.eat(':')? {
                    self.after_label(word, out)?;
                } else {
                    out.push(Statement::Instruction(self.instruction(word, None)?));
                }
            }
        }
        Ok(())
    }

    fn local_variables(&mut self, is_extern: bool, out: &mut Vec<Statement>) -> Result<()> {
        let line = self.line;
        out.extend(
            self.declared(is_extern)?
                .into_iter()
                .map(|v| Statement::Variable(v, line)),
        );
        Ok(())
    }

    fn after_label(&mut self, name: &str, out: &mut Vec<Statement>) -> Result<()> {
        match self.token {
            Token::Word(".branchtargets" | ".calltargets") => {
                self.advance()?;
                let mut targets = Vec::new();
                loop {
                    targets.push(self.word("a target")?.to_string());
                    if !self.eat(',')? {
                        break;
                    }
                }
                self.expect(';')?;
                out.push(Statement::Targets(name.to_string(), targets));
            }
            Token::Word(".callprototype") => {
                self.skip_to_semicolon()?;
                out.push(Statement::Prototype(name.to_string()));
            }
            _ => out.push(Statement::Label(name.to_string())),
        }
        Ok(())
    }

    fn instruction(&mut self, op: &str, guard: Option<(String, bool)>) -> Result<Instruction> {
        let line = self.line;
        let mut operands = Vec::new();
        if !self.is(';') {
            loop {
                operands.push(self.operand(0).map_err(|e| within(op, e))?);
                if self.eat(',')? {
                    continue;
                }
                if self.is(';') {
                    break;
                }
                return Err(within(
                    op,
                    ParseError {
                        line: self.line,
                        message: format!("expected ',' or ';', found {}", self.token),
                    },
                ));
            }
        }
        self.expect(';')?;
        Ok(Instruction {
            guard,
            op: op.to_string(),
            operands,
            line,
        })
    }

    fn operand(&mut self, depth: u32) -> Result<Operand> {
        if depth > MAX_NESTING {
            return self.error("operands nested too deeply");
        }
        match self.token {
            Token::Punct('{') => {
                self.advance()?;
                let items = self.operands_until('}', depth)?;
                Ok(Operand::Vector(items))
            }
            Token::Punct('(') => {
                self.advance()?;
                let items = self.operands_until(')', depth)?;
                Ok(Operand::Group(items))
            }
            Token::Punct('[') => {
                self.advance()?;
                self.address(depth)
            }
            Token::Punct('!') => {
                self.advance()?;
                Ok(Operand::Not(self.word("a predicate")?.to_string()))
            }
            Token::Punct('-') => {
                self.advance()?;
                match self.advance()? {
                    Token::Int(v) => Ok(Operand::Int(v.wrapping_neg())),
                    Token::F32(b) => Ok(Operand::F32(b ^ 0x8000_0000)),
                    Token::F64(b) => Ok(Operand::F64(b ^ (1 << 63))),
                    other => self.error(format!("expected a number, found {other}")),
                }
            }
            Token::Int(v) => {
                self.advance()?;
                let sum = self.addend()?;
                Ok(Operand::Int(v.wrapping_add(sum as u64)))
            }
            Token::F32(b) => {
                self.advance()?;
                Ok(Operand::F32(b))
            }
            Token::F64(b) => {
                self.advance()?;
                Ok(Operand::F64(b))
            }
            Token::Word(name) => {
                self.advance()?;
                if self.eat('|')? {
                    let second = self.word("a predicate")?.to_string();
                    return Ok(Operand::Pair(name.to_string(), second));
                }
                if name == "generic" && self.is('(') {
                    self.advance()?;
                    let symbol = self.word("a symbol")?.to_string();
                    self.expect(')')?;
                    let offset = self.addend()?;
                    return Ok(Operand::Sum(symbol, offset));
                }
                if self.is('+') || self.is('-') {
                    let offset = self.addend()?;
                    return Ok(Operand::Sum(name.to_string(), offset));
                }
                Ok(Operand::Name(name.to_string()))
            }
            _ => self.error(format!("expected an operand, found {}", self.token)),
        }
    }

    fn operands_until(&mut self, end: char, depth: u32) -> Result<Vec<Operand>> {
        let mut items = Vec::new();
        while !self.is(end) {
            items.push(self.operand(depth + 1)?);
            if !self.eat(',')? {
                break;
            }
        }
        self.expect(end)?;
        Ok(items)
    }

    /// The inside of `[...]`, the bracket already taken.
    fn address(&mut self, depth: u32) -> Result<Operand> {
        let base = match self.token {
            Token::Word(name) => {
                self.advance()?;
                Some(name.to_string())
            }
            _ => None,
        };
        let offset = if base.is_some() {
            self.addend()?
        } else {
            self.int("an address")? as i64
        };
        if self.eat(',')? {
            // Coordinates of texture and tensor instructions.
            self.operands_until(']', depth)?;
            return Ok(Operand::Other);
        }
        self.expect(']')?;
        Ok(Operand::Address(base, offset))
    }
}

fn within(op: &str, error: ParseError) -> ParseError {
    let op: String = op.chars().take(60).collect();
    ParseError {
        message: format!("in '{op}': {}", error.message),
        ..error
    }
}
