//! From an opcode to the family that knows it.

use super::form::{Form, not_supported};
use super::function::Lower;
use super::map::Out;
use super::{invalid, unsupported};
use crate::ast::{Instruction, Operand, Type};
use crate::exec::{Fault, FaultKind, Kind};

use super::function::Binding;

impl<'a> Lower<'_, 'a> {
    /// What `i` does, or `None` when it does nothing here.
    pub(super) fn dispatch(&mut self, i: &'a Instruction) -> Out {
        let form = Form::parse(&i.op);
        match form.base {
            "add" | "sub" | "mul" | "mad" | "fma" | "div" | "rem" | "abs" | "neg" | "min"
            | "max" => match form.ty()? {
                Type::F32 => self.float32(&form, i),
                Type::F64 => self.float64(&form, i),
                Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2 => self.half(&form, i),
                _ => self.integer(&form, i),
            },
            "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" | "copysign"
            | "testp" => match form.ty()? {
                Type::F32 => self.float32(&form, i),
                Type::F64 => self.float64(&form, i),
                _ => self.half(&form, i),
            },
            "mul24" | "mad24" | "sad" | "addc" | "subc" | "madc" | "dp4a" | "dp2a" => {
                self.integer(&form, i)
            }
            "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" | "shf" | "lop3" | "prmt"
            | "bfe" | "bfi" | "bfind" | "brev" | "popc" | "clz" | "bmsk" | "szext" | "fns" => {
                self.bits(&form, i)
            }
            "setp" | "set" | "selp" | "slct" => self.compare(&form, i),
            "cvt" => self.convert(&form, i),
            "mov" | "cvta" | "isspacep" => self.moves(&form, i),
            "ld" | "ldu" | "st" | "cp" => self.memory(&form, i),
            "prefetch" | "prefetchu" | "applypriority" | "discard" => Ok(None),
            "atom" | "red" => self.atomic(&form, i),
            "membar" | "fence" => {
                form.only(&[
                    "gl", "cta", "sys", "gpu", "sc", "acq_rel", "acquire", "release", "proxy",
                    "alias", "cluster",
                ])?;
                super::map::op(Box::new(|_, _| {
                    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
                    Ok(())
                }))
            }
            "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" | "bar" | "barrier" => {
                self.warp_wide(&form, i)
            }
            "bra" => {
                let Operand::Name(label) = self.operand(i, 0)? else {
                    return invalid("the target is no label");
                };
                self.branch_later(vec![label.clone()]);
                Ok(Some(Kind::Branch(0)))
            }
            "brx" => {
                let index = self.src(self.operand(i, 0)?)?;
                let Operand::Name(table) = self.operand(i, 1)? else {
                    return invalid("no branch targets");
                };
                let Some((Binding::Targets(targets), _)) = self.lookup(table) else {
                    return invalid(format!("'{table}' is no list of branch targets"));
                };
                self.branch_later(targets);
                Ok(Some(Kind::BranchIndexed(index, Box::default())))
            }
            "ret" => Ok(Some(Kind::Return)),
            "exit" => Ok(Some(Kind::Exit)),
            "call" => self.call(i),
            "trap" | "brkpt" => super::map::op(Box::new(|_, _| {
                Err(Fault::new(FaultKind::Trap, "the kernel gave up"))
            })),
            "nanosleep" => Ok(None),
            "griddepcontrol" | "pmevent" => Ok(None),
            _ => {
                if form
                    .base
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '_')
                {
                    not_supported()
                } else {
                    unsupported("no instruction")
                }
            }
        }
    }
}
