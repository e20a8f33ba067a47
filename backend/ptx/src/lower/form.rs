//! An opcode taken apart: base, modifiers, types.

use super::{Lowered, invalid, unsupported};
use crate::ast::Type;

/// `ld.global.v2.f32` is base `ld`, modifiers `global` and `v2`, types `[F32]`.
#[derive(Debug)]
pub(crate) struct Form<'a> {
    pub(crate) base: &'a str,
    pub(crate) mods: Vec<&'a str>,
    pub(crate) types: Vec<Type>,
}

impl<'a> Form<'a> {
    pub(crate) fn parse(op: &'a str) -> Form<'a> {
        let mut parts = op.split('.');
        let base = parts.next().unwrap_or("");
        let mut mods = Vec::new();
        let mut types = Vec::new();
        for part in parts {
            match Type::parse(part) {
                Some(ty) if part != "b1" => types.push(ty),
                _ => mods.push(part),
            }
        }
        Form { base, mods, types }
    }

    pub(crate) fn has(&self, modifier: &str) -> bool {
        self.mods.contains(&modifier)
    }

    /// The modifier out of `choices` that is present.
    pub(crate) fn one_of<'c>(&self, choices: &[&'c str]) -> Option<&'c str> {
        choices.iter().copied().find(|c| self.has(c))
    }

    /// The first type.
    pub(crate) fn ty(&self) -> Lowered<Type> {
        match self.types.first() {
            Some(ty) => Ok(*ty),
            None => invalid("no type"),
        }
    }

    /// The second type, or the first when there is one only.
    pub(crate) fn second(&self) -> Lowered<Type> {
        match self.types.get(1) {
            Some(ty) => Ok(*ty),
            None => self.ty(),
        }
    }

    /// Refuses modifiers other than these.
    pub(crate) fn only(&self, allowed: &[&str]) -> Lowered<()> {
        match self.mods.iter().find(|m| !allowed.contains(m)) {
            Some(_) => not_supported(),
            None => Ok(()),
        }
    }
}

/// The instruction is none we execute.
pub(crate) fn not_supported<T>() -> Lowered<T> {
    unsupported("not supported by the software device")
}
