//! Recursive-descent parser for PTX. Every instruction has the shape `[@[!]p] op operands;`, so
//! opcodes this engine does not know still parse; lowering refuses them.

mod body;
mod declare;

use std::collections::HashMap;

use crate::ast::{Ast, Function, Variable};
use crate::error::ParseError;
use crate::lexer::{Lexer, Token};

/// Deepest nesting of `{}` scopes, initialisers and operands accepted.
const MAX_NESTING: u32 = 64;

type Result<T> = std::result::Result<T, ParseError>;

/// Parses a whole module.
pub(crate) fn parse(text: &str) -> Result<Ast> {
    let mut parser = Parser::new(text)?;
    parser.module()
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    token: Token<'a>,
    line: u32,
    /// Where a name declared so far is in the module.
    variables: HashMap<String, usize>,
    functions: HashMap<String, usize>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Result<Self> {
        let mut lexer = Lexer::new(text);
        let (token, line) = lexer.next()?;
        Ok(Parser {
            lexer,
            token,
            line,
            variables: HashMap::new(),
            functions: HashMap::new(),
        })
    }

    fn advance(&mut self) -> Result<Token<'a>> {
        let (token, line) = self.lexer.next()?;
        self.line = line;
        Ok(std::mem::replace(&mut self.token, token))
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(ParseError {
            line: self.line,
            message: message.into(),
        })
    }

    fn is(&self, c: char) -> bool {
        self.token == Token::Punct(c)
    }

    fn eat(&mut self, c: char) -> Result<bool> {
        let found = self.is(c);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn expect(&mut self, c: char) -> Result<()> {
        if self.eat(c)? {
            Ok(())
        } else {
            self.error(format!("expected '{c}', found {}", self.token))
        }
    }

    fn word(&mut self, what: &str) -> Result<&'a str> {
        if let Token::Word(w) = self.token {
            self.advance()?;
            Ok(w)
        } else {
            self.error(format!("expected {what}, found {}", self.token))
        }
    }

    fn int(&mut self, what: &str) -> Result<u64> {
        let negative = self.eat('-')?;
        if let Token::Int(v) = self.token {
            self.advance()?;
            Ok(if negative { v.wrapping_neg() } else { v })
        } else {
            self.error(format!("expected {what}, found {}", self.token))
        }
    }

    fn small(&mut self, what: &str) -> Result<u32> {
        let value = self.int(what)?;
        match u32::try_from(value) {
            Ok(v) => Ok(v),
            Err(_) => self.error(format!("{what} {value} is too large")),
        }
    }

    /// Skips the rest of the line the current token stands on; for `.file` and `.loc`.
    fn skip_line(&mut self) -> Result<()> {
        let line = self.line;
        self.lexer.skip_line();
        while self.line == line && self.token != Token::End {
            self.advance()?;
        }
        Ok(())
    }

    fn skip_to_semicolon(&mut self) -> Result<()> {
        while !self.is(';') {
            if self.token == Token::End {
                return self.error("expected ';', found the end of the text");
            }
            self.advance()?;
        }
        self.advance()?;
        Ok(())
    }

    fn skip_braces(&mut self) -> Result<()> {
        self.expect('{')?;
        let mut depth = 1u32;
        while depth > 0 {
            match self.token {
                Token::Punct('{') => depth = depth.saturating_add(1),
                Token::Punct('}') => depth -= 1,
                Token::End => return self.error("expected '}', found the end of the text"),
                _ => {}
            }
            self.advance()?;
        }
        Ok(())
    }

    fn module(&mut self) -> Result<Ast> {
        let mut ast = Ast::default();
        let mut versioned = false;
        loop {
            match self.token {
                Token::End => break,
                Token::Punct(';') => {
                    self.advance()?;
                }
                Token::Punct('@') => self.skip_line()?,
                Token::Word(".version") => {
                    self.advance()?;
                    ast.version = self.version()?;
                    versioned = true;
                }
                Token::Word(".target") => {
                    self.advance()?;
                    let name = self.word("a target")?;
                    let digits: String = name
                        .strip_prefix("sm_")
                        .unwrap_or("0")
                        .chars()
                        .take_while(char::is_ascii_digit)
                        .collect();
                    ast.target = digits.parse().unwrap_or(0);
                    while self.eat(',')? {
                        self.word("a target option")?;
                    }
                }
                Token::Word(".address_size") => {
                    self.advance()?;
                    if self.int("an address size")? != 64 {
                        return self.error("only 64-bit addresses exist here");
                    }
                }
                Token::Word(".file" | ".loc") => self.skip_line()?,
                Token::Word(".section") => {
                    self.advance()?;
                    self.word("a section name")?;
                    self.skip_braces()?;
                }
                Token::Word(".pragma" | ".alias") => self.skip_to_semicolon()?,
                Token::Word(w) if w.starts_with('.') => self.declaration(&mut ast)?,
                _ => return self.error(format!("expected a directive, found {}", self.token)),
            }
        }
        if !versioned {
            return self.error("no .version directive");
        }
        Ok(ast)
    }

    fn version(&mut self) -> Result<(u32, u32)> {
        if let Token::F64(bits) = self.token {
            self.advance()?;
            let tenths = (f64::from_bits(bits) * 10.0).round();
            if (10.0..1000.0).contains(&tenths) {
                let tenths = tenths as u32;
                return Ok((tenths / 10, tenths % 10));
            }
        }
        self.error("expected a version such as 7.0")
    }

    /// A module-scope variable or function, with its linkage.
    fn declaration(&mut self, ast: &mut Ast) -> Result<()> {
        let mut is_extern = false;
        loop {
            match self.token {
                Token::Word(".extern") => is_extern = true,
                Token::Word(".visible" | ".weak" | ".common") => {}
                _ => break,
            }
            self.advance()?;
        }
        match self.token {
            Token::Word(".entry") => {
                let function = self.function(true)?;
                self.add_function(ast, function);
            }
            Token::Word(".func") => {
                let function = self.function(false)?;
                self.add_function(ast, function);
            }
            Token::Word(".global" | ".const" | ".shared") => {
                for variable in self.declared(is_extern)? {
                    self.add_variable(ast, variable);
                }
            }
            _ => return self.error(format!("unknown directive {}", self.token)),
        }
        Ok(())
    }

    /// A definition replaces an earlier extern declaration, and is not replaced by a later one.
    fn add_variable(&mut self, ast: &mut Ast, variable: Variable) {
        let known = self.variables.get(&variable.name).copied();
        match known.and_then(|at| ast.variables.get_mut(at)) {
            Some(old) if old.is_extern => *old = variable,
            Some(_) if variable.is_extern => {}
            _ => {
                self.variables
                    .insert(variable.name.clone(), ast.variables.len());
                ast.variables.push(variable);
            }
        }
    }

    /// A definition replaces an earlier declaration.
    fn add_function(&mut self, ast: &mut Ast, function: Function) {
        let known = self.functions.get(&function.name).copied();
        match known.and_then(|at| ast.functions.get_mut(at)) {
            Some(old) if old.body.is_none() => *old = function,
            Some(_) if function.body.is_none() => {}
            _ => {
                self.functions
                    .insert(function.name.clone(), ast.functions.len());
                ast.functions.push(function);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)] // an index out of range is a failed test
mod tests;
