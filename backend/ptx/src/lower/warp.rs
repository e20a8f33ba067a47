//! Instructions that look at other lanes or other warps: shuffles, votes, matches, barriers.

use super::form::{Form, not_supported};
use super::function::Lower;
use super::map::{Out, op};
use super::{Lowered, invalid};
use crate::ast::{Instruction, Operand, Type};
use crate::exec::{BarrierKind, BarrierOp, Kind, LANES, Lane, Op, PredSrc, Slot, lanes_of};

impl<'a> Lower<'_, 'a> {
    pub(super) fn warp_wide(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        match form.base {
            "shfl" => self.shuffle(form, i),
            "vote" => self.vote(form, i),
            "match" => self.matching(form, i),
            "redux" => self.redux(form, i),
            "elect" => self.elect(form, i),
            "activemask" => {
                let d = self.dst::<u32>(self.operand(i, 0)?)?;
                op(Box::new(move |cx, mask| {
                    cx.frame.write(d, &[mask; LANES], mask);
                    Ok(())
                }))
            }
            _ => self.barrier(form, i),
        }
    }

    /// Old forms without `.sync` act on the lanes that happen to be together.
    fn synced(&mut self, form: &Form<'_>, i: &Instruction, member: usize, f: Op) -> Out {
        if form.has("sync") {
            let member = self.src::<u32>(self.operand(i, member)?)?;
            Ok(Some(Kind::Sync(member, Some(f))))
        } else {
            op(f)
        }
    }

    fn shuffle(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        form.only(&["sync", "up", "down", "bfly", "idx"])?;
        if form.ty()?.size() != 4 {
            return not_supported();
        }
        let (d, p) = match self.operand(i, 0)? {
            Operand::Pair(d, p) => (
                self.dst::<u32>(&Operand::Name(d.clone()))?,
                if p == "_" {
                    None
                } else {
                    Some(self.pred_register(p)?)
                },
            ),
            other => (self.dst::<u32>(other)?, None),
        };
        let a = self.src::<u32>(self.operand(i, 1)?)?;
        let b = self.src::<u32>(self.operand(i, 2)?)?;
        let c = self.src::<u32>(self.operand(i, 3)?)?;
        let Some(mode) = form.one_of(&["up", "down", "bfly", "idx"]) else {
            return invalid("no shuffle mode");
        };
        let f: Op = Box::new(move |cx, mask| {
            let (a, b, c) = (cx.frame.read(a), cx.frame.read(b), cx.frame.read(c));
            let mut out = [0u32; LANES];
            let mut inside = 0u32;
            for lane in lanes_of(mask) {
                let (from, good) = source_lane(mode, lane as u32, b[lane], c[lane]);
                out[lane] = a[from as usize & 31];
                inside |= u32::from(good) << lane;
            }
            cx.frame.write(d, &out, mask);
            if let Some(p) = p {
                cx.frame.set_pred(p, inside, mask);
            }
            Ok(())
        });
        self.synced(form, i, 4, f)
    }

    fn vote(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        form.only(&["sync", "all", "any", "uni", "ballot"])?;
        let a = self.src_pred(self.operand(i, 1)?)?;
        let sync = form.has("sync");
        let member = if sync {
            Some(self.src::<u32>(self.operand(i, 2)?)?)
        } else {
            None
        };
        // Groups of lanes with different member masks vote apart.
        let members = move |cx: &crate::exec::Cx<'_>, mask: u32| match member {
            None => [mask; LANES],
            Some(m) => cx.frame.read(m).map(|m| m & mask),
        };
        if form.has("ballot") {
            let d = self.dst::<u32>(self.operand(i, 0)?)?;
            let f: Op = Box::new(move |cx, mask| {
                let yes = cx.frame.pred_src(a);
                let r = members(cx, mask).map(|m| m & yes);
                cx.frame.write(d, &r, mask);
                Ok(())
            });
            return self.synced(form, i, 2, f);
        }
        let d = self.dst_pred(self.operand(i, 0)?)?;
        let test: fn(u32, u32) -> bool = match form.one_of(&["all", "any", "uni"]) {
            Some("all") => |m, yes| yes == m,
            Some("any") => |_, yes| yes != 0,
            Some(_) => |m, yes| yes == 0 || yes == m,
            None => return invalid("no vote mode"),
        };
        let f: Op = Box::new(move |cx, mask| {
            let yes = cx.frame.pred_src(a);
            let groups = members(cx, mask);
            let out = (0..LANES).fold(0, |o, l| {
                o | u32::from(test(groups[l], groups[l] & yes)) << l
            });
            cx.frame.set_pred(d, out, mask);
            Ok(())
        });
        self.synced(form, i, 2, f)
    }

    fn matching(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        form.only(&["sync", "any", "all"])?;
        match form.ty()?.size() {
            4 => self.matching_of::<u32>(form, i),
            8 => self.matching_of::<u64>(form, i),
            _ => not_supported(),
        }
    }

    fn matching_of<T: Lane + PartialEq>(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        let (d, p) = match self.operand(i, 0)? {
            Operand::Pair(d, p) => (
                self.dst::<u32>(&Operand::Name(d.clone()))?,
                if p == "_" {
                    None
                } else {
                    Some(self.pred_register(p)?)
                },
            ),
            other => (self.dst::<u32>(other)?, None),
        };
        let a = self.src::<T>(self.operand(i, 1)?)?;
        let member = self.src::<u32>(self.operand(i, 2)?)?;
        let all = form.has("all");
        let f: Op = Box::new(move |cx, mask| {
            let (a, members) = (cx.frame.read(a), cx.frame.read(member));
            let mut out = [0u32; LANES];
            let mut found = 0;
            for lane in lanes_of(mask) {
                let group = members[lane] & mask;
                let same = lanes_of(group)
                    .filter(|l| a[*l] == a[lane])
                    .fold(0, |m, l| m | 1u32 << l);
                let every = same == group;
                out[lane] = if all && !every { 0 } else { same };
                found |= u32::from(every) << lane;
            }
            cx.frame.write(d, &out, mask);
            if let Some(p) = p {
                cx.frame.set_pred(p, found, mask);
            }
            Ok(())
        });
        self.synced(form, i, 2, f)
    }

    fn redux(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        form.only(&["sync", "add", "min", "max", "and", "or", "xor"])?;
        let Some(name) = form.one_of(&["add", "min", "max", "and", "or", "xor"]) else {
            return not_supported();
        };
        let f: fn(u32, u32) -> u32 = match (name, form.ty()?) {
            ("add", Type::U32 | Type::S32) => |a, b| a.wrapping_add(b),
            ("min", Type::U32) => u32::min,
            ("max", Type::U32) => u32::max,
            ("min", Type::S32) => |a, b| (a as i32).min(b as i32) as u32,
            ("max", Type::S32) => |a, b| (a as i32).max(b as i32) as u32,
            ("and", Type::B32) => |a, b| a & b,
            ("or", Type::B32) => |a, b| a | b,
            ("xor", Type::B32) => |a, b| a ^ b,
            _ => return not_supported(),
        };
        let d = self.dst::<u32>(self.operand(i, 0)?)?;
        let a = self.src::<u32>(self.operand(i, 1)?)?;
        let member = self.src::<u32>(self.operand(i, 2)?)?;
        let run: Op = Box::new(move |cx, mask| {
            let (a, members) = (cx.frame.read(a), cx.frame.read(member));
            let mut out = [0u32; LANES];
            for lane in lanes_of(mask) {
                let group = members[lane] & mask;
                out[lane] = lanes_of(group).map(|l| a[l]).reduce(f).unwrap_or(a[lane]);
            }
            cx.frame.write(d, &out, mask);
            Ok(())
        });
        self.synced(form, i, 2, run)
    }

    fn elect(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        form.only(&["sync"])?;
        let Operand::Pair(d, p) = self.operand(i, 0)? else {
            return invalid("elect gives a register and a predicate");
        };
        let d = self.dst::<u32>(&Operand::Name(d.clone()))?;
        let p = self.pred_register(p)?;
        let member = self.src::<u32>(self.operand(i, 1)?)?;
        let f: Op = Box::new(move |cx, mask| {
            let leaders = cx.frame.read(member).map(|m| (m & mask).trailing_zeros());
            let won = lanes_of(mask)
                .filter(|l| leaders[*l] == *l as u32)
                .fold(0, |m, l| m | 1 << l);
            cx.frame.write(d, &leaders, mask);
            cx.frame.set_pred(p, won, mask);
            Ok(())
        });
        self.synced(form, i, 1, f)
    }

    fn barrier(&mut self, form: &Form<'_>, i: &Instruction) -> Out {
        if form.has("warp") {
            form.only(&["warp", "sync"])?;
            let member = self.src::<u32>(self.operand(i, 0)?)?;
            return Ok(Some(Kind::Sync(member, None)));
        }
        form.only(&[
            "sync", "arrive", "red", "popc", "and", "or", "aligned", "cta",
        ])?;
        let count = |lower: &mut Self, n: usize| -> Lowered<Option<Slot<u32>>> {
            match i.operands.get(n) {
                Some(operand) => Ok(Some(lower.src::<u32>(operand)?)),
                None => Ok(None),
            }
        };
        if !form.has("red") {
            let id = self.src::<u32>(self.operand(i, 0)?)?;
            let count = count(self, 1)?;
            let kind = if form.has("arrive") {
                BarrierKind::Arrive
            } else {
                BarrierKind::Sync
            };
            return Ok(Some(Kind::Barrier(Box::new(BarrierOp { kind, id, count }))));
        }
        // `bar.red d, id{, count}, p`
        let id = self.src::<u32>(self.operand(i, 1)?)?;
        let last = i.operands.len().saturating_sub(1);
        let p: PredSrc = self.src_pred(self.operand(i, last)?)?;
        let count = if last > 2 { count(self, 2)? } else { None };
        let to = self.operand(i, 0)?;
        let kind = match form.one_of(&["popc", "and", "or"]) {
            Some("popc") => BarrierKind::Count(self.dst(to)?, p),
            Some("and") => BarrierKind::All(self.dst_pred(to)?, p),
            Some(_) => BarrierKind::Any(self.dst_pred(to)?, p),
            None => return not_supported(),
        };
        Ok(Some(Kind::Barrier(Box::new(BarrierOp { kind, id, count }))))
    }
}

/// Which lane a shuffle reads from, and whether that is within the segment.
fn source_lane(mode: &str, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (b, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let min = lane & segment;
    let max = min | clamp & !segment;
    let (from, good) = match mode {
        "up" => {
            // For `up` the clamp is the lower end.
            let from = lane as i32 - b as i32;
            (from as u32, from >= max as i32)
        }
        "down" => (lane + b, lane + b <= max),
        "bfly" => (lane ^ b, lane ^ b <= max),
        _ => {
            let from = min | b & !segment;
            (from, from <= max)
        }
    };
    if good { (from, true) } else { (lane, false) }
}

#[cfg(test)]
mod tests {
    use super::source_lane;

    #[test]
    fn shuffles_stay_in_their_segment() {
        // Width 8: segment mask 0x18, clamp 0x1f for idx/down/bfly, 0 for up.
        let c = 0x18 << 8 | 0x1f;
        assert_eq!(source_lane("idx", 13, 2, c), (10, true));
        assert_eq!(source_lane("down", 13, 2, c), (15, true));
        assert_eq!(source_lane("down", 14, 2, c), (14, false));
        assert_eq!(source_lane("bfly", 13, 1, c), (12, true));
        assert_eq!(source_lane("up", 9, 2, 0x18 << 8), (9, false));
        assert_eq!(source_lane("up", 11, 2, 0x18 << 8), (9, true));
        assert_eq!(source_lane("up", 0, 1, 0), (0, false));
    }
}
