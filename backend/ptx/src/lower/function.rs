//! One function: scopes, labels, local variables, and the list of instructions.

use std::collections::HashMap;

use super::operand::Registers;
use super::{Layout, Lowered, Program, Refusal, invalid, unsupported};
use crate::ast::{self, Instruction, Space, Statement, Type, Variable};
use crate::exec::{Call, Function, Inst, Kind, PredSrc, Target};
use crate::{MAX_LOCAL_BYTES, MAX_PARAM_BYTES};

/// Most `.reg name<n>` lists in one scope. Compilers make about ten; each costs time at look-up.
const MAX_FAMILIES: usize = 256;

/// What a name means in a scope.
#[derive(Debug, Clone)]
pub(super) enum Binding {
    Register(Type),
    /// Offset in local memory and size.
    Local(u32, u32),
    /// Offset in the kernel's parameters and size.
    KernelParam(u32, u32),
    /// Offset in shared memory.
    Shared(u32),
    /// Behind all static shared memory.
    DynamicShared,
    /// A `.const`/`.global` variable, by name.
    Symbol,
    Targets(Vec<String>),
    Prototype,
}

#[derive(Debug, Default)]
pub(super) struct Scope {
    id: u32,
    names: HashMap<String, Binding>,
    /// `name<n>`: prefix, count, type.
    families: Vec<(String, u32, Type)>,
}

/// State of lowering one function.
pub(super) struct Lower<'p, 'a> {
    pub(super) program: &'p mut Program<'a>,
    pub(super) function: &'a ast::Function,
    scopes: Vec<Scope>,
    next_scope: u32,
    pub(super) registers: Registers,
    local: Layout,
    code: Vec<Inst>,
    origin: Vec<(u32, Box<str>)>,
    labels: HashMap<(u32, String), u32>,
    /// Branches to patch: instruction, scopes inside out, labels.
    branches: Vec<(usize, Vec<u32>, Vec<String>)>,
    /// What instructions that come before the current one prepare.
    pub(super) prelude: Vec<Kind>,
}

pub(super) fn lower(program: &mut Program<'_>, function: &ast::Function) -> Lowered<Function> {
    // The borrow of the text lives as long as the program's.
    let Some(function) = program.function_named(&function.name) else {
        return invalid(format!("no function '{}'", function.name));
    };
    if function.register_abi {
        return unsupported(format!(
            "line {}: parameters in registers: not supported by the software device",
            function.line
        ));
    }
    let lower = Lower {
        program,
        function,
        scopes: vec![Scope::default()],
        next_scope: 1,
        registers: Registers::new(),
        local: Layout::default(),
        code: Vec::new(),
        origin: Vec::new(),
        labels: HashMap::new(),
        branches: Vec::new(),
        prelude: Vec::new(),
    };
    lower.run().map_err(|refusal| match function.is_kernel {
        true => refusal,
        false => refusal.within(&function.name),
    })
}

impl Refusal {
    fn map(self, f: impl FnOnce(String) -> String) -> Refusal {
        match self {
            Refusal::Unsupported(why) => Refusal::Unsupported(f(why)),
            Refusal::Invalid(why) => Refusal::Invalid(f(why)),
        }
    }

    fn within(self, function: &str) -> Refusal {
        self.map(|why| format!("in function '{function}': {why}"))
    }
}

impl<'a> Lower<'_, 'a> {
    fn run(mut self) -> Lowered<Function> {
        let function = self.function;
        let (params, returns) = if function.is_kernel {
            self.bind_kernel_params();
            (Vec::new(), Vec::new())
        } else {
            (
                self.bind_params(&function.params)?,
                self.bind_params(&function.returns)?,
            )
        };
        for statement in function.body.as_deref().unwrap_or(&[]) {
            self.statement(statement)?;
        }
        self.code.push(Inst {
            guard: None,
            kind: Kind::Return,
        });
        self.origin.push((function.line, "end of body".into()));
        self.patch_branches()?;
        let local_bytes = self.local.size().next_multiple_of(16);
        let (image, specials) = self.registers.finish();
        Ok(Function {
            name: function.name.clone(),
            code: self.code,
            origin: self.origin,
            image,
            specials,
            local_bytes,
            params,
            returns,
            refused: None,
        })
    }

    fn bind_kernel_params(&mut self) {
        let offsets: Vec<_> = self
            .program
            .kernel_params
            .iter()
            .map(|p| (p.offset, p.size))
            .collect();
        for (variable, (offset, size)) in self.function.params.iter().zip(offsets) {
            self.bind(&variable.name, Binding::KernelParam(offset, size));
        }
    }

    fn bind_params(&mut self, variables: &[Variable]) -> Lowered<Vec<(u32, u32)>> {
        let mut out = Vec::new();
        for v in variables {
            if v.size > u64::from(MAX_PARAM_BYTES) {
                return invalid(format!("parameter '{}' is too large", v.name));
            }
            let size = v.size as u32;
            let offset = self.local.add(v.size, v.align, MAX_LOCAL_BYTES)?;
            self.bind(&v.name, Binding::Local(offset, size));
            out.push((offset, size));
        }
        Ok(out)
    }

    fn bind(&mut self, name: &str, binding: Binding) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.names.insert(name.to_string(), binding);
        }
    }

    /// What `name` means here, and the id of the scope that says so.
    pub(super) fn lookup(&self, name: &str) -> Option<(Binding, u32)> {
        for scope in self.scopes.iter().rev() {
            if let Some(binding) = scope.names.get(name) {
                return Some((binding.clone(), scope.id));
            }
            for (prefix, count, ty) in &scope.families {
                let index = name
                    .strip_prefix(prefix.as_str())
                    .filter(|d| !d.is_empty() && d.len() <= 9);
                if let Some(Ok(index)) = index.map(str::parse::<u32>)
                    && index < *count
                {
                    return Some((Binding::Register(*ty), scope.id));
                }
            }
        }
        None
    }

    /// A module-scope shared variable.
    pub(super) fn module_shared(&mut self, name: &str) -> Lowered<Option<Binding>> {
        let Some(v) = self.program.shared_variables.get(name).copied() else {
            return Ok(None);
        };
        self.shared_variable(v, &v.name).map(Some)
    }

    fn shared_variable(&mut self, v: &Variable, key: &str) -> Lowered<Binding> {
        if v.is_extern || v.size == 0 {
            self.program.dynamic_shared_align =
                self.program.dynamic_shared_align.max(v.align as u32);
            return Ok(Binding::DynamicShared);
        }
        Ok(Binding::Shared(
            self.program.shared_offset(key, v.size, v.align)?,
        ))
    }

    fn statement(&mut self, statement: &'a Statement) -> Lowered<()> {
        match statement {
            Statement::Enter => {
                let id = self.next_scope;
                self.next_scope += 1;
                self.scopes.push(Scope {
                    id,
                    ..Scope::default()
                });
            }
            Statement::Leave => {
                if self.scopes.len() > 1 {
                    self.scopes.pop();
                }
            }
            Statement::Registers(r) => match r.count {
                None => self.bind(&r.name, Binding::Register(r.ty)),
                Some(count) => {
                    if let Some(scope) = self.scopes.last_mut() {
                        if scope.families.len() >= MAX_FAMILIES {
                            return unsupported(format!(
                                "line {}: more than {MAX_FAMILIES} lists of registers in a scope",
                                self.function.line
                            ));
                        }
                        scope.families.push((r.name.clone(), count, r.ty));
                    }
                }
            },
            Statement::Variable(v, line) => {
                self.variable(v).map_err(|r| {
                    r.map(|why| format!("line {line}: variable '{}': {why}", v.name))
                })?;
            }
            Statement::Targets(name, targets) => self.bind(name, Binding::Targets(targets.clone())),
            Statement::Prototype(name) => self.bind(name, Binding::Prototype),
            Statement::Label(name) => {
                let scope = self.scopes.last().map_or(0, |s| s.id);
                self.labels
                    .insert((scope, name.clone()), self.code.len() as u32);
            }
            Statement::Instruction(i) => {
                self.instruction(i).map_err(|r| {
                    r.map(|why| format!("line {}: instruction '{}': {why}", i.line, i.op))
                })?;
            }
        }
        Ok(())
    }

    fn variable(&mut self, v: &Variable) -> Lowered<()> {
        let binding = match v.space {
            Space::Local | Space::Param => {
                let offset = self.local.add(v.size, v.align, MAX_LOCAL_BYTES)?;
                Binding::Local(offset, v.size as u32)
            }
            Space::Shared => {
                let scope = self.scopes.last().map_or(0, |s| s.id);
                let key = format!("{}\u{0}{}\u{0}{scope}", self.function.name, v.name);
                self.shared_variable(v, &key)?
            }
            Space::Global | Space::Const if v.is_extern => Binding::Symbol,
            Space::Global | Space::Const => {
                return unsupported(
                    "a variable in a function: not supported by the software device",
                );
            }
        };
        self.bind(&v.name, binding);
        Ok(())
    }

    fn instruction(&mut self, i: &'a Instruction) -> Lowered<()> {
        let guard = match &i.guard {
            None => None,
            Some((name, negated)) => {
                let slot = self.pred_register(name)?;
                Some(PredSrc {
                    slot,
                    negated: *negated,
                })
            }
        };
        let kind = self.dispatch(i)?;
        for kind in std::mem::take(&mut self.prelude) {
            self.emit(None, kind, i);
        }
        if let Some(kind) = kind {
            self.emit(guard, kind, i);
        }
        Ok(())
    }

    fn emit(&mut self, guard: Option<PredSrc>, kind: Kind, i: &Instruction) {
        self.code.push(Inst { guard, kind });
        self.origin.push((i.line, i.op.as_str().into()));
    }

    /// Makes the next emitted instruction branch to `targets`, known only at the end of the body.
    pub(super) fn branch_later(&mut self, targets: Vec<String>) {
        let scopes = self.scopes.iter().rev().map(|s| s.id).collect();
        self.branches
            .push((self.code.len() + self.prelude.len(), scopes, targets));
    }

    fn patch_branches(&mut self) -> Lowered<()> {
        for (at, scopes, names) in std::mem::take(&mut self.branches) {
            let mut targets = Vec::new();
            for name in names {
                let found = scopes
                    .iter()
                    .find_map(|s| self.labels.get(&(*s, name.clone())));
                match found {
                    Some(pc) => targets.push(*pc),
                    None => {
                        let line = self.origin.get(at).map_or(0, |o| o.0);
                        return invalid(format!("line {line}: no label '{name}'"));
                    }
                }
            }
            match self.code.get_mut(at).map(|i| &mut i.kind) {
                Some(Kind::Branch(target)) => *target = targets.first().copied().unwrap_or(0),
                Some(Kind::BranchIndexed(_, table)) => *table = targets.into_boxed_slice(),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Function {
    /// A function that fails when it is called.
    pub(super) fn refused(name: &str, why: String) -> Function {
        Function {
            name: name.to_string(),
            code: Vec::new(),
            origin: Vec::new(),
            image: Vec::new(),
            specials: Vec::new(),
            local_bytes: 0,
            params: Vec::new(),
            returns: Vec::new(),
            refused: Some(why),
        }
    }

    /// Whether a call in it goes through a register.
    pub(super) fn calls_indirectly(&self) -> bool {
        self.code.iter().any(|i| match &i.kind {
            Kind::Call(call) => matches!(
                **call,
                Call {
                    target: Target::Indirect(_),
                    ..
                }
            ),
            _ => false,
        })
    }
}
