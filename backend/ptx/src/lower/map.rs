//! Helpers that make a closure over lanes out of a function over values.

use super::Lowered;
use super::function::Lower;
use crate::ast::Instruction;
use crate::exec::{Kind, LANES, Lane, Op, Slot};

/// What lowering an instruction gives: `None` when there is nothing to execute.
pub(super) type Out = Lowered<Option<Kind>>;

pub(super) fn op(op: Op) -> Out {
    Ok(Some(Kind::Op(op)))
}

/// `d = f(a)` in every lane. `f` must be cheap and total: it also runs in lanes that are off.
pub(super) fn map1<A: Lane, D: Lane>(
    d: Slot<D>,
    a: Slot<A>,
    f: impl Fn(A) -> D + Send + Sync + 'static,
) -> Op {
    Box::new(move |cx, mask| {
        let a = cx.frame.read(a);
        let r: [D; LANES] = std::array::from_fn(|l| f(a[l]));
        cx.frame.write(d, &r, mask);
        Ok(())
    })
}

/// `d = f(a, b)` in every lane.
pub(super) fn map2<A: Lane, B: Lane, D: Lane>(
    d: Slot<D>,
    a: Slot<A>,
    b: Slot<B>,
    f: impl Fn(A, B) -> D + Send + Sync + 'static,
) -> Op {
    Box::new(move |cx, mask| {
        let (a, b) = (cx.frame.read(a), cx.frame.read(b));
        let r: [D; LANES] = std::array::from_fn(|l| f(a[l], b[l]));
        cx.frame.write(d, &r, mask);
        Ok(())
    })
}

/// `d = f(a, b, c)` in every lane.
pub(super) fn map3<A: Lane, B: Lane, C: Lane, D: Lane>(
    d: Slot<D>,
    a: Slot<A>,
    b: Slot<B>,
    c: Slot<C>,
    f: impl Fn(A, B, C) -> D + Send + Sync + 'static,
) -> Op {
    Box::new(move |cx, mask| {
        let (a, b, c) = (cx.frame.read(a), cx.frame.read(b), cx.frame.read(c));
        let r: [D; LANES] = std::array::from_fn(|l| f(a[l], b[l], c[l]));
        cx.frame.write(d, &r, mask);
        Ok(())
    })
}

impl Lower<'_, '_> {
    pub(super) fn unary<A: Lane, D: Lane>(
        &mut self,
        i: &Instruction,
        f: impl Fn(A) -> D + Send + Sync + 'static,
    ) -> Out {
        let d = self.dst::<D>(self.operand(i, 0)?)?;
        let a = self.src::<A>(self.operand(i, 1)?)?;
        op(map1(d, a, f))
    }

    pub(super) fn binary<A: Lane, B: Lane, D: Lane>(
        &mut self,
        i: &Instruction,
        f: impl Fn(A, B) -> D + Send + Sync + 'static,
    ) -> Out {
        let d = self.dst::<D>(self.operand(i, 0)?)?;
        let a = self.src::<A>(self.operand(i, 1)?)?;
        let b = self.src::<B>(self.operand(i, 2)?)?;
        op(map2(d, a, b, f))
    }

    pub(super) fn ternary<A: Lane, B: Lane, C: Lane, D: Lane>(
        &mut self,
        i: &Instruction,
        f: impl Fn(A, B, C) -> D + Send + Sync + 'static,
    ) -> Out {
        let d = self.dst::<D>(self.operand(i, 0)?)?;
        let a = self.src::<A>(self.operand(i, 1)?)?;
        let b = self.src::<B>(self.operand(i, 2)?)?;
        let c = self.src::<C>(self.operand(i, 3)?)?;
        op(map3(d, a, b, c, f))
    }
}

/// Expands its body with `T` as the unsigned type of the operand's width.
macro_rules! by_width {
    ($ty:expr, $t:ident => $body:expr) => {
        match $ty.size() {
            2 if $ty != $crate::ast::Type::Bf16x2 => {
                type $t = u16;
                $body
            }
            4 => {
                type $t = u32;
                $body
            }
            8 => {
                type $t = u64;
                $body
            }
            _ => $crate::lower::form::not_supported(),
        }
    };
}

/// Expands its body with `T` as the integer type, sign included.
macro_rules! by_int {
    ($ty:expr, $t:ident => $body:expr) => {
        match $ty {
            $crate::ast::Type::U16 | $crate::ast::Type::B16 => {
                type $t = u16;
                $body
            }
            $crate::ast::Type::S16 => {
                type $t = i16;
                $body
            }
            $crate::ast::Type::U32 | $crate::ast::Type::B32 => {
                type $t = u32;
                $body
            }
            $crate::ast::Type::S32 => {
                type $t = i32;
                $body
            }
            $crate::ast::Type::U64 | $crate::ast::Type::B64 => {
                type $t = u64;
                $body
            }
            $crate::ast::Type::S64 => {
                type $t = i64;
                $body
            }
            _ => $crate::lower::form::not_supported(),
        }
    };
}

pub(super) use {by_int, by_width};
