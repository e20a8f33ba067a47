//! Calls: of functions, through pointers, and of the few system functions there are.

use super::function::{Binding, Lower};
use super::map::{Out, op};
use super::{Lowered, invalid, unsupported};
use crate::ast::{Instruction, Operand};
use crate::exec::{Call, Fault, FaultKind, Intent, Kind, LANES, MemSpace, Target, lanes_of};
use crate::printf;

/// Longest string read for a message, in bytes.
const MAX_MESSAGE: usize = 4096;

impl<'a> Lower<'_, 'a> {
    /// `call (ret), f, (args);` with any of the groups missing, and a prototype behind.
    pub(super) fn call(&mut self, i: &Instruction) -> Out {
        let mut operands = i.operands.iter().peekable();
        let returns = match operands.peek() {
            Some(Operand::Group(items)) => {
                operands.next();
                self.places(items)?
            }
            _ => Vec::new(),
        };
        let Some(Operand::Name(target)) = operands.next() else {
            return invalid("no function to call");
        };
        let args = match operands.peek() {
            Some(Operand::Group(items)) => self.places(items)?,
            _ => Vec::new(),
        };
        if let Some((Binding::Register(_), _)) = self.lookup(target) {
            let address = self.src::<u64>(&Operand::Name(target.clone()))?;
            let target = Target::Indirect(address);
            return Ok(Some(Kind::Call(Box::new(Call {
                target,
                args,
                returns,
            }))));
        }
        match target.as_str() {
            "vprintf" => return self.vprintf(&args, &returns),
            "__assertfail" => return self.assertion(&args),
            _ => {}
        }
        match self.program.place(target, true) {
            Some(index) => {
                let Some(callee) = self.program.function_named(target) else {
                    return invalid("no function");
                };
                if callee.is_kernel
                    || callee.params.len() != args.len()
                    || callee.returns.len() < returns.len()
                {
                    return invalid(format!(
                        "'{target}' is called with {} parameters",
                        args.len()
                    ));
                }
                Ok(Some(Kind::Call(Box::new(Call {
                    target: Target::Direct(index),
                    args,
                    returns,
                }))))
            }
            None => unsupported(format!(
                "function '{target}' has no body: not supported by the software device"
            )),
        }
    }

    /// Offset and size of parameter variables.
    fn places(&mut self, items: &[Operand]) -> Lowered<Vec<(u32, u32)>> {
        let mut out = Vec::new();
        for item in items {
            match item {
                Operand::Name(name) => match self.lookup(name) {
                    Some((Binding::Local(at, size), _)) => out.push((at, size)),
                    Some((Binding::Register(_), _)) => {
                        return unsupported(
                            "parameters in registers: not supported by the software device",
                        );
                    }
                    _ => return invalid(format!("'{name}' is no parameter")),
                },
                _ => {
                    return unsupported(
                        "a constant as parameter: not supported by the software device",
                    );
                }
            }
        }
        Ok(out)
    }

    fn vprintf(&mut self, args: &[(u32, u32)], returns: &[(u32, u32)]) -> Out {
        self.program.uses_printf = true;
        let [(format, 8), (values, 8)] = *args else {
            return invalid("vprintf takes two pointers");
        };
        let result = match *returns {
            [(at, 4)] => Some(at),
            [] => None,
            _ => return invalid("vprintf gives one 32-bit number"),
        };
        op(Box::new(move |cx, mask| {
            let base = u64::from(cx.local_base);
            let read = |at: u32| [base + u64::from(at); LANES];
            let formats = cx.places(MemSpace::Local, &read(format), mask, 8, Intent::Read)?;
            let lists = cx.places(MemSpace::Local, &read(values), mask, 8, Intent::Read)?;
            for lane in lanes_of(mask) {
                let (format, list) = (formats.load::<u64>(lane, 0), lists.load::<u64>(lane, 0));
                let (text, count) = printf::format(cx, lane, format, list)?;
                (cx.launch.printf)(&text);
                if let Some(at) = result {
                    let place =
                        cx.places(MemSpace::Local, &read(at), 1 << lane, 4, Intent::Write)?;
                    place.store(lane, 0, count);
                }
            }
            Ok(())
        }))
    }

    /// `__assertfail(message, file, line, function, char_size)`
    fn assertion(&mut self, args: &[(u32, u32)]) -> Out {
        let [(message, 8), (file, 8), (line, 4), (function, 8), _] = *args else {
            return invalid("__assertfail takes five parameters");
        };
        op(Box::new(move |cx, mask| {
            let Some(lane) = lanes_of(mask).next() else {
                return Ok(());
            };
            let base = u64::from(cx.local_base);
            let read = |cx: &mut crate::exec::Cx<'_>, at: u32, size: u32| -> Result<u64, Fault> {
                let places = cx.places(
                    MemSpace::Local,
                    &[base + u64::from(at); LANES],
                    1 << lane,
                    size,
                    Intent::Read,
                )?;
                Ok(if size == 4 {
                    u64::from(places.load::<u32>(lane, 0))
                } else {
                    places.load::<u64>(lane, 0)
                })
            };
            let mut texts = Vec::new();
            for at in [file, function, message] {
                let address = read(cx, at, 8)?;
                let bytes = if address == 0 {
                    Vec::new()
                } else {
                    cx.string(lane, address, MAX_MESSAGE)?
                };
                texts.push(String::from_utf8_lossy(&bytes).into_owned());
            }
            let line = read(cx, line, 4)?;
            let thread = cx.warp * 32 + lane as u32;
            Err(Fault::new(
                FaultKind::Assert,
                match texts.as_slice() {
                    [file, function, message] => format!(
                        "{file}:{line}: {function}: `{message}` failed in thread {thread} of its block,"
                    ),
                    _ => String::new(),
                },
            ))
        }))
    }
}
