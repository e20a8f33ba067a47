//! Splits PTX text into tokens.
//!
//! A word keeps everything that belongs together in PTX: `ld.global.L1::no_allocate.f32`, `.b32`,
//! `%tid.x` and `$L__BB0_2` are one token each.

use crate::error::ParseError;

/// One token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Token<'a> {
    /// Identifier, register, directive or opcode with its suffixes.
    Word(&'a str),
    /// Integer literal (sign is a separate token).
    Int(u64),
    /// `0f…`: bits of a single.
    F32(u32),
    /// `0d…` or a decimal literal: bits of a double.
    F64(u64),
    /// Contents of a string literal, escapes untouched.
    Str(&'a str),
    /// Any other single character.
    Punct(char),
    /// End of the text.
    End,
}

impl std::fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Token::Word(w) => write!(f, "'{}'", w.chars().take(60).collect::<String>()),
            Token::Int(v) => write!(f, "'{v}'"),
            Token::F32(b) => write!(f, "'0f{b:08X}'"),
            Token::F64(b) => write!(f, "'0d{b:016X}'"),
            Token::Str(_) => f.write_str("a string"),
            Token::Punct(c) => write!(f, "'{c}'"),
            Token::End => f.write_str("the end of the text"),
        }
    }
}

/// Reads tokens one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

fn starts_word(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%' | b'.') || c >= 0x80
}

fn continues_word(c: u8) -> bool {
    starts_word(c) || c.is_ascii_digit()
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Lexer {
            text,
            at: 0,
            line: 1,
        }
    }

    fn byte(&self, ahead: usize) -> Option<u8> {
        self.text
            .as_bytes()
            .get(self.at.checked_add(ahead)?)
            .copied()
    }

    fn slice(&self, from: usize, to: usize) -> &'a str {
        self.text.get(from..to).unwrap_or("")
    }

    fn error(&self, message: impl Into<String>) -> ParseError {
        ParseError {
            line: self.line,
            message: message.into(),
        }
    }

    fn bump(&mut self) {
        if self.byte(0) == Some(b'\n') {
            self.line = self.line.saturating_add(1);
        }
        self.at = self.at.saturating_add(1);
    }

    fn skip_blank(&mut self) -> Result<(), ParseError> {
        while let Some(c) = self.byte(0) {
            if c.is_ascii_whitespace() || c == 0x0b {
                self.bump();
            } else if c == b'/' && self.byte(1) == Some(b'/') {
                while self.byte(0).is_some_and(|c| c != b'\n') {
                    self.bump();
                }
            } else if c == b'/' && self.byte(1) == Some(b'*') {
                let start = self.error("comment without end");
                self.at = self.at.saturating_add(2);
                while !(self.byte(0) == Some(b'*') && self.byte(1) == Some(b'/')) {
                    if self.byte(0).is_none() {
                        return Err(start);
                    }
                    self.bump();
                }
                self.at = self.at.saturating_add(2);
            } else {
                break;
            }
        }
        Ok(())
    }

    /// Skips the rest of the current line; for directives that end without a semicolon.
    pub(crate) fn skip_line(&mut self) {
        while self.byte(0).is_some_and(|c| c != b'\n') {
            self.bump();
        }
    }

    /// The next token and the line it stands on.
    pub(crate) fn next(&mut self) -> Result<(Token<'a>, u32), ParseError> {
        self.skip_blank()?;
        let line = self.line;
        let Some(c) = self.byte(0) else {
            return Ok((Token::End, line));
        };
        let token = if starts_word(c) {
            self.word()
        } else if c.is_ascii_digit() {
            self.number()?
        } else if c == b'"' {
            self.string()?
        } else {
            self.bump();
            Token::Punct(c as char)
        };
        Ok((token, line))
    }

    fn word(&mut self) -> Token<'a> {
        let from = self.at;
        // Directives may be glued together (`.reg.b32`); opcodes keep their suffixes.
        let directive = self.byte(0) == Some(b'.');
        self.at += 1;
        loop {
            match self.byte(0) {
                Some(b'.') if directive => break,
                Some(c) if continues_word(c) => self.at += 1,
                Some(b':') if self.byte(1) == Some(b':') => self.at += 2,
                _ => break,
            }
        }
        Token::Word(self.slice(from, self.at))
    }

    fn string(&mut self) -> Result<Token<'a>, ParseError> {
        self.at += 1;
        let from = self.at;
        loop {
            match self.byte(0) {
                None | Some(b'\n') => return Err(self.error("string without end")),
                Some(b'"') => break,
                Some(b'\\') if self.byte(1).is_some_and(|c| c != b'\n') => self.at += 2,
                Some(_) => self.at += 1,
            }
        }
        let text = self.slice(from, self.at);
        self.at += 1;
        Ok(Token::Str(text))
    }

    fn number(&mut self) -> Result<Token<'a>, ParseError> {
        let from = self.at;
        while self.byte(0).is_some_and(|c| c.is_ascii_alphanumeric()) {
            self.at += 1;
        }
        let word = self.slice(from, self.at);
        if let Some(hex) = word.strip_prefix("0f").or_else(|| word.strip_prefix("0F")) {
            return match (hex.len(), u32::from_str_radix(hex, 16)) {
                (8, Ok(bits)) => Ok(Token::F32(bits)),
                _ => Err(self.error(format!("'{word}' is no single (0f and 8 hex digits)"))),
            };
        }
        if let Some(hex) = word.strip_prefix("0d").or_else(|| word.strip_prefix("0D")) {
            return match (hex.len(), u64::from_str_radix(hex, 16)) {
                (16, Ok(bits)) => Ok(Token::F64(bits)),
                _ => Err(self.error(format!("'{word}' is no double (0d and 16 hex digits)"))),
            };
        }
        if let Some(value) = integer(word)
            && self.byte(0) != Some(b'.')
        {
            return Ok(Token::Int(value));
        }
        self.decimal(from)
    }

    fn decimal(&mut self, from: usize) -> Result<Token<'a>, ParseError> {
        self.at = from;
        let digits = |l: &mut Self| {
            while l.byte(0).is_some_and(|c| c.is_ascii_digit()) {
                l.at += 1;
            }
        };
        digits(self);
        if self.byte(0) == Some(b'.') {
            self.at += 1;
            digits(self);
        }
        if matches!(self.byte(0), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.byte(0), Some(b'+' | b'-')) {
                self.at += 1;
            }
            digits(self);
        }
        let text = self.slice(from, self.at);
        match text.parse::<f64>() {
            Ok(v) if !self.byte(0).is_some_and(continues_word) => Ok(Token::F64(v.to_bits())),
            _ => Err(self.error(format!("'{text}' is no number"))),
        }
    }
}

fn integer(word: &str) -> Option<u64> {
    let word = word.strip_suffix(['u', 'U']).unwrap_or(word);
    let radix = |prefix: [&str; 2], radix: u32| {
        prefix
            .iter()
            .find_map(|p| word.strip_prefix(p))
            .map(|digits| u64::from_str_radix(digits, radix).ok())
    };
    if let Some(v) = radix(["0x", "0X"], 16).or_else(|| radix(["0b", "0B"], 2)) {
        return v;
    }
    if word.len() > 1 && word.starts_with('0') && word.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
        return u64::from_str_radix(word, 8).ok();
    }
    word.parse().ok()
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)] // an index out of range is a failed test
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<Token<'_>> {
        let mut lexer = Lexer::new(text);
        let mut out = Vec::new();
        loop {
            match lexer.next().unwrap().0 {
                Token::End => return out,
                t => out.push(t),
            }
        }
    }

    #[test]
    fn words_keep_suffixes() {
        assert_eq!(
            all("@%p1 ld.global.L1::no_allocate.f32 %f1, [%rd2+-4];")[..4],
            [
                Token::Punct('@'),
                Token::Word("%p1"),
                Token::Word("ld.global.L1::no_allocate.f32"),
                Token::Word("%f1"),
            ]
        );
        assert_eq!(
            all(".reg.b32")[..],
            [Token::Word(".reg"), Token::Word(".b32")]
        );
        assert_eq!(all("L1:")[..], [Token::Word("L1"), Token::Punct(':')]);
    }

    #[test]
    fn numbers() {
        assert_eq!(
            all("0x1F 017 12U 0b101 0f3F800000 0d3FF0000000000000 1.5 2e3 18446744073709551615"),
            [
                Token::Int(31),
                Token::Int(15),
                Token::Int(12),
                Token::Int(5),
                Token::F32(0x3f80_0000),
                Token::F64(1f64.to_bits()),
                Token::F64(1.5f64.to_bits()),
                Token::F64(2000f64.to_bits()),
                Token::Int(u64::MAX),
            ]
        );
    }

    #[test]
    fn comments_and_lines() {
        let mut lexer = Lexer::new("// a\n/* b\n c */ x");
        assert_eq!(lexer.next().unwrap(), (Token::Word("x"), 3));
        assert!(Lexer::new("/* open").next().is_err());
        assert!(Lexer::new("\"open").next().is_err());
    }
}
