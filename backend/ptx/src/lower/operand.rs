//! Operands: registers, constants, special registers and addresses, all as register slots.

use std::collections::HashMap;

use super::function::{Binding, Lower};
use super::{Lowered, invalid, unsupported};
use crate::ast::{Instruction, Operand, Type};
use crate::exec::{
    FUNCTION_BASE, Kind, LANES, LOCAL_BASE, Lane, MemSpace, Op, PARAM_BASE, Pred, PredSrc, Slot,
    Special,
};

/// Most bytes of registers of one function: 32768 64-bit ones.
const MAX_FRAME_BYTES: u32 = 8 << 20;

/// The registers of a function under construction.
#[derive(Debug)]
pub(super) struct Registers {
    /// Bytes so far. Slots are aligned to 8.
    size: u32,
    named: HashMap<(u32, String), (Type, u32)>,
    constants: HashMap<(u32, u64), u32>,
    specials: HashMap<(Special, bool), u32>,
    /// Constants for predicates.
    truths: [Option<u32>; 2],
}

/// A constant part of the image and the specials to fill in.
pub(super) type Image = (Vec<u64>, Vec<(u32, bool, Special)>);

/// Bytes a value of `ty` takes in a register.
fn register_bytes(ty: Type) -> u32 {
    match ty {
        // Registers of 8 bits are kept in 16.
        Type::U8 | Type::S8 | Type::B8 => 2,
        other => other.size(),
    }
}

impl Registers {
    pub(super) fn new() -> Self {
        Registers {
            size: 0,
            named: HashMap::new(),
            constants: HashMap::new(),
            specials: HashMap::new(),
            truths: [None; 2],
        }
    }

    fn reserve(&mut self, bytes: u32) -> Lowered<u32> {
        let at = self.size;
        self.size = at + bytes.next_multiple_of(8);
        if self.size > MAX_FRAME_BYTES {
            return unsupported(format!(
                "more than {MAX_FRAME_BYTES} bytes of registers per warp"
            ));
        }
        Ok(at)
    }

    fn lanes(&mut self, bytes: u32) -> Lowered<u32> {
        self.reserve(bytes * LANES as u32)
    }

    pub(super) fn finish(&self) -> Image {
        let mut image = vec![0u64; self.size as usize / 8];
        for ((bytes, bits), at) in &self.constants {
            let word = match bytes {
                2 => (bits & 0xffff).wrapping_mul(0x0001_0001_0001_0001),
                4 => (bits & 0xffff_ffff).wrapping_mul(0x0000_0001_0000_0001),
                _ => *bits,
            };
            let from = *at as usize / 8;
            if let Some(lanes) = image.get_mut(from..from + *bytes as usize * LANES / 8) {
                lanes.fill(word);
            }
        }
        if let Some(place) = self.truths[1].and_then(|at| image.get_mut(at as usize / 8)) {
            *place = u64::from(u32::MAX);
        }
        let mut specials: Vec<_> = self
            .specials
            .iter()
            .map(|((s, wide), at)| (*at, *wide, *s))
            .collect();
        specials.sort_by_key(|s| s.0);
        (image, specials)
    }
}

/// Where an access goes: `[base + offset]`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Base {
    Wide(Slot<u64>),
    Narrow(Slot<u32>),
}

/// A memory operand: space, base register and constant offset.
#[derive(Debug, Clone, Copy)]
pub(super) struct Address {
    pub(super) space: MemSpace,
    base: Base,
    offset: u64,
}

impl Address {
    /// The address in each lane.
    #[inline(always)]
    pub(super) fn lanes(&self, frame: &crate::exec::Frame) -> [u64; LANES] {
        match self.base {
            Base::Wide(slot) => frame.read(slot).map(|a| a.wrapping_add(self.offset)),
            Base::Narrow(slot) => frame
                .read(slot)
                .map(|a| u64::from(a.wrapping_add(self.offset as u32))),
        }
    }
}

/// A register of any width.
#[derive(Debug, Clone, Copy)]
pub(super) enum Any {
    B16(Slot<u16>),
    B32(Slot<u32>),
    B64(Slot<u64>),
}

impl<'a> Lower<'_, 'a> {
    pub(super) fn operand<'i>(&self, i: &'i Instruction, n: usize) -> Lowered<&'i Operand> {
        match i.operands.get(n) {
            Some(o) => Ok(o),
            None => invalid(format!("operand {} is missing", n + 1)),
        }
    }

    /// A register by name: its type and place.
    fn register(&mut self, name: &str) -> Lowered<(Type, u32)> {
        let Some((Binding::Register(ty), scope)) = self.lookup(name) else {
            return invalid(format!("'{name}' is no register"));
        };
        let key = (scope, name.to_string());
        if let Some(found) = self.registers.named.get(&key) {
            return Ok(*found);
        }
        if matches!(ty, Type::B128 | Type::Opaque) {
            return unsupported("128-bit registers: not supported by the software device");
        }
        let at = match ty {
            Type::Pred => self.registers.reserve(8)?,
            _ => self.registers.lanes(register_bytes(ty))?,
        };
        self.registers.named.insert(key, (ty, at));
        Ok((ty, at))
    }

    pub(super) fn pred_register(&mut self, name: &str) -> Lowered<Slot<Pred>> {
        match self.register(name)? {
            (Type::Pred, at) => Ok(Slot::at(at)),
            _ => invalid(format!("'{name}' is no predicate")),
        }
    }

    /// A fresh register that no name reaches.
    pub(super) fn scratch<T: Lane>(&mut self) -> Lowered<Slot<T>> {
        Ok(Slot::at(self.registers.lanes(T::BYTES)?))
    }

    pub(super) fn constant<T: Lane>(&mut self, bits: u64) -> Lowered<Slot<T>> {
        let key = (T::BYTES, bits);
        if let Some(at) = self.registers.constants.get(&key) {
            return Ok(Slot::at(*at));
        }
        let slot = self.scratch::<T>()?;
        self.registers.constants.insert(key, slot.offset());
        Ok(slot)
    }

    pub(super) fn truth(&mut self, value: bool) -> Lowered<PredSrc> {
        let index = usize::from(value);
        let at = match self.registers.truths.get(index).copied().flatten() {
            Some(at) => at,
            None => {
                let at = self.registers.reserve(8)?;
                if let Some(place) = self.registers.truths.get_mut(index) {
                    *place = Some(at);
                }
                at
            }
        };
        Ok(PredSrc {
            slot: Slot::at(at),
            negated: false,
        })
    }

    fn special_slot<T: Lane>(&mut self, special: Special) -> Lowered<Slot<T>> {
        let key = (special, T::BYTES == 8);
        if let Some(at) = self.registers.specials.get(&key) {
            return Ok(Slot::at(*at));
        }
        let slot = self.scratch::<T>()?;
        self.registers.specials.insert(key, slot.offset());
        Ok(slot)
    }

    /// A destination register of exactly `T`'s width; `_` gives one nobody reads.
    pub(super) fn dst<T: Lane>(&mut self, operand: &Operand) -> Lowered<Slot<T>> {
        match operand {
            Operand::Name(name) if name == "_" => self.scratch(),
            Operand::Name(name) => self.typed_register(name),
            _ => invalid("the destination is no register"),
        }
    }

    fn typed_register<T: Lane>(&mut self, name: &str) -> Lowered<Slot<T>> {
        let (ty, at) = self.register(name)?;
        if ty == Type::Pred || register_bytes(ty) != T::BYTES {
            return invalid(format!(
                "register '{name}' is not {} bits wide",
                T::BYTES * 8
            ));
        }
        Ok(Slot::at(at))
    }

    pub(super) fn dst_pred(&mut self, operand: &Operand) -> Lowered<Slot<Pred>> {
        match operand {
            Operand::Name(name) if name == "_" => Ok(Slot::at(self.registers.reserve(8)?)),
            Operand::Name(name) => self.pred_register(name),
            _ => invalid("the destination is no predicate"),
        }
    }

    /// A source predicate, perhaps negated, perhaps constant.
    pub(super) fn src_pred(&mut self, operand: &Operand) -> Lowered<PredSrc> {
        match operand {
            Operand::Name(name) => Ok(PredSrc {
                slot: self.pred_register(name)?,
                negated: false,
            }),
            Operand::Not(name) => Ok(PredSrc {
                slot: self.pred_register(name)?,
                negated: true,
            }),
            Operand::Int(v) => self.truth(*v != 0),
            _ => invalid("no predicate"),
        }
    }

    /// A source of type `T`: register, literal, special register or address.
    pub(super) fn src<T: Lane>(&mut self, operand: &Operand) -> Lowered<Slot<T>> {
        match operand {
            Operand::Name(name) => match self.lookup(name) {
                Some((Binding::Register(_), _)) => self.typed_register(name),
                _ => self.symbol(name, 0),
            },
            Operand::Sum(name, offset) => self.symbol(name, *offset as u64),
            Operand::Int(v) => self.constant(literal_int::<T>(*v)),
            Operand::F32(bits) => self.constant(literal_float::<T>(
                f64::from(f32::from_bits(*bits)),
                u64::from(*bits),
            )),
            Operand::F64(bits) => self.constant(literal_float::<T>(f64::from_bits(*bits), *bits)),
            _ => invalid("operand of a kind not allowed here"),
        }
    }

    /// A source register of whatever width, or a literal of `bytes`.
    pub(super) fn src_any(&mut self, operand: &Operand, bytes: u32) -> Lowered<Any> {
        let width = match operand {
            Operand::Name(name) => match self.lookup(name) {
                Some((Binding::Register(_), _)) => register_bytes(self.register(name)?.0),
                _ => bytes,
            },
            _ => bytes,
        };
        Ok(match width {
            0..=2 => Any::B16(self.src(operand)?),
            4 => Any::B32(self.src(operand)?),
            _ => Any::B64(self.src(operand)?),
        })
    }

    /// A destination register of whatever width, at least `bytes`.
    pub(super) fn dst_any(&mut self, operand: &Operand, bytes: u32) -> Lowered<Any> {
        let width = match operand {
            Operand::Name(name) if name != "_" => register_bytes(self.register(name)?.0),
            _ => bytes,
        };
        if width < bytes {
            return invalid("the destination register is too narrow");
        }
        Ok(match width {
            0..=2 => Any::B16(self.dst(operand)?),
            4 => Any::B32(self.dst(operand)?),
            _ => Any::B64(self.dst(operand)?),
        })
    }

    /// The value of a name that is no register.
    fn symbol<T: Lane>(&mut self, name: &str, offset: u64) -> Lowered<Slot<T>> {
        if name.starts_with('%') && offset == 0 {
            return self.special(name);
        }
        if T::BYTES < 4 {
            return invalid(format!("'{name}' is no 16-bit value"));
        }
        let binding = self.lookup(name).map(|(b, _)| b);
        let binding = match binding {
            Some(b) => Some(b),
            None => self.module_shared(name)?,
        };
        match binding {
            Some(Binding::Shared(at)) => self.constant(u64::from(at).wrapping_add(offset)),
            Some(Binding::DynamicShared) => self.dynamic_shared(offset),
            Some(Binding::KernelParam(at, _)) => {
                self.constant((PARAM_BASE + u64::from(at)).wrapping_add(offset))
            }
            Some(Binding::Local(at, _)) => {
                // Parameters of a function are addressed generically, `.local` variables by offset;
                // local accesses drop the tag, so the tag alone does no harm to them.
                let at = u32::try_from(u64::from(at).wrapping_add(offset));
                match at {
                    Ok(at) => self.special_slot(Special::LocalAddress(at, 0)),
                    Err(_) => invalid(format!("'{name}{offset:+}' is outside the variable")),
                }
            }
            Some(Binding::Symbol) | None => {
                let Some(address) = self.program.symbols.get(name).copied() else {
                    return invalid(format!("unknown name '{name}'"));
                };
                if address >= FUNCTION_BASE && self.program.place(name, false).is_none() {
                    return unsupported(format!("address of '{name}', which has no body"));
                }
                if T::BYTES < 8 {
                    return invalid(format!("the address of '{name}' does not fit"));
                }
                self.constant(address.wrapping_add(offset))
            }
            Some(_) => invalid(format!("'{name}' is no value")),
        }
    }

    /// Dynamic shared memory begins where static ends, which is known when everything is lowered:
    /// the launch says how large both are together.
    fn dynamic_shared<T: Lane>(&mut self, offset: u64) -> Lowered<Slot<T>> {
        let total = self.special_slot::<u32>(Special::TotalShared)?;
        let dynamic = self.special_slot::<u32>(Special::DynamicShared)?;
        let to = self.scratch::<T>()?;
        let op: Op = Box::new(move |cx, mask| {
            let (total, dynamic) = (cx.frame.read(total), cx.frame.read(dynamic));
            let values: [T; LANES] = std::array::from_fn(|l| {
                T::from_bits(u64::from(total[l].wrapping_sub(dynamic[l])).wrapping_add(offset))
            });
            cx.frame.write(to, &values, mask);
            Ok(())
        });
        self.prelude.push(Kind::Op(op));
        Ok(to)
    }

    fn special<T: Lane>(&mut self, name: &str) -> Lowered<Slot<T>> {
        let special = match name {
            "%tid.x" | "%tid" => Special::TidX,
            "%tid.y" => Special::TidY,
            "%tid.z" => Special::TidZ,
            "%ntid.x" | "%ntid" => Special::NtidX,
            "%ntid.y" => Special::NtidY,
            "%ntid.z" => Special::NtidZ,
            "%ctaid.x" | "%ctaid" => Special::CtaidX,
            "%ctaid.y" => Special::CtaidY,
            "%ctaid.z" => Special::CtaidZ,
            "%nctaid.x" | "%nctaid" => Special::NctaidX,
            "%nctaid.y" => Special::NctaidY,
            "%nctaid.z" => Special::NctaidZ,
            "%laneid" => Special::LaneId,
            "%warpid" => Special::WarpId,
            "%nwarpid" => Special::NWarpId,
            "%lanemask_eq" => Special::LaneMaskEq,
            "%lanemask_le" => Special::LaneMaskLe,
            "%lanemask_lt" => Special::LaneMaskLt,
            "%lanemask_ge" => Special::LaneMaskGe,
            "%lanemask_gt" => Special::LaneMaskGt,
            "%dynamic_smem_size" => Special::DynamicShared,
            "%total_smem_size" => Special::TotalShared,
            "WARP_SZ" => return self.constant(32),
            "%smid" | "%gridid" => return self.constant(0),
            "%nsmid" => return self.constant(1),
            "%tid.w" | "%ctaid.w" => return self.constant(0),
            "%ntid.w" | "%nctaid.w" => return self.constant(1),
            "%clock" | "%clock64" => return self.changing(|cx| cx.clock),
            "%clock_hi" => return self.changing(|cx| cx.clock >> 32),
            "%globaltimer" | "%globaltimer_lo" => return self.changing(|_| wall_clock()),
            "%globaltimer_hi" => return self.changing(|_| wall_clock() >> 32),
            _ => return unsupported(format!("special register or name '{name}' is unknown")),
        };
        if T::BYTES == 2 {
            // Reading the low half of a special register is an old but legal form.
            let wide = self.special_slot::<u32>(special)?;
            let to = self.scratch::<T>()?;
            self.prelude.push(Kind::Op(Box::new(move |cx, mask| {
                let values = cx.frame.read(wide).map(|v| T::from_bits(u64::from(v)));
                cx.frame.write(to, &values, mask);
                Ok(())
            })));
            return Ok(to);
        }
        self.special_slot(special)
    }

    /// A special register with another value at each read.
    fn changing<T: Lane>(
        &mut self,
        f: impl Fn(&crate::exec::Cx<'_>) -> u64 + Send + Sync + 'static,
    ) -> Lowered<Slot<T>> {
        let to = self.scratch::<T>()?;
        self.prelude.push(Kind::Op(Box::new(move |cx, mask| {
            let value = T::from_bits(f(cx));
            cx.frame.write(to, &[value; LANES], mask);
            Ok(())
        })));
        Ok(to)
    }

    /// A memory operand, in the space the instruction names.
    pub(super) fn address(&mut self, operand: &Operand, space: MemSpace) -> Lowered<Address> {
        match operand {
            Operand::Address(None, at) => Ok(Address {
                space,
                base: Base::Wide(self.constant(*at as u64)?),
                offset: 0,
            }),
            Operand::Address(Some(name), offset) => {
                if let Some((Binding::Register(_), _)) = self.lookup(name) {
                    let base = match register_bytes(self.register(name)?.0) {
                        8 => Base::Wide(self.typed_register(name)?),
                        4 => Base::Narrow(self.typed_register(name)?),
                        _ => {
                            return invalid(format!(
                                "register '{name}' is too narrow for an address"
                            ));
                        }
                    };
                    return Ok(Address {
                        space,
                        base,
                        offset: *offset as u64,
                    });
                }
                let shared = match self.lookup(name) {
                    Some((Binding::Shared(_) | Binding::DynamicShared, _)) => true,
                    Some((Binding::Local(..), _)) => {
                        let base = Base::Wide(self.symbol::<u64>(name, 0)?);
                        return Ok(Address {
                            space: MemSpace::Local,
                            base,
                            offset: *offset as u64,
                        });
                    }
                    Some(_) => false,
                    None => self.module_shared(name)?.is_some(),
                };
                let base = Base::Wide(self.symbol::<u64>(name, 0)?);
                let space = if shared { MemSpace::Shared } else { space };
                Ok(Address {
                    space,
                    base,
                    offset: *offset as u64,
                })
            }
            _ => invalid("no memory operand"),
        }
    }

    /// Generic address of a named local variable or parameter, for `mov`.
    pub(super) fn param_address(&mut self, name: &str, offset: i64) -> Lowered<Option<Slot<u64>>> {
        let is_param = self
            .function
            .params
            .iter()
            .chain(&self.function.returns)
            .any(|p| p.name == name);
        match self.lookup(name) {
            Some((Binding::Local(at, _), _)) if is_param => {
                let Ok(at) = u32::try_from(i64::from(at).wrapping_add(offset)) else {
                    return invalid("address outside the parameter");
                };
                Ok(Some(
                    self.special_slot(Special::LocalAddress(at, LOCAL_BASE))?,
                ))
            }
            _ => Ok(None),
        }
    }
}

/// Nanoseconds since 1970.
fn wall_clock() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| d.as_nanos() as u64)
}

/// Bits of an integer literal as a `T`; in the place of a float it is a number, not bits.
fn literal_int<T: Lane>(value: u64) -> u64 {
    T::from_bits(value).to_bits()
}

/// Bits of a float literal as a `T`: `value` rounded to a 32- or 64-bit register.
fn literal_float<T: Lane>(value: f64, bits: u64) -> u64 {
    match T::BYTES {
        8 => value.to_bits(),
        4 if value.is_nan() && bits <= u64::from(u32::MAX) => bits,
        4 => u64::from((value as f32).to_bits()),
        _ => bits & 0xffff,
    }
}

impl Lower<'_, '_> {
    /// The carry flag of `add.cc` and its kin: a predicate without a name.
    pub(super) fn carry_slot(&mut self) -> Lowered<Slot<Pred>> {
        let key = (u32::MAX, String::new());
        if let Some((_, at)) = self.registers.named.get(&key) {
            return Ok(Slot::at(*at));
        }
        let at = self.registers.reserve(8)?;
        self.registers.named.insert(key, (Type::Pred, at));
        Ok(Slot::at(at))
    }
}
