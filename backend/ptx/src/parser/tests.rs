use super::parse;
use crate::ast::{Operand, Statement};

const HEAD: &str = ".version 7.0\n.target sm_70\n.address_size 64\n";

fn body(text: &str) -> Vec<Statement> {
    let source = format!("{HEAD}.visible .entry k(.param .u64 p) {{\n{text}\n}}");
    let mut ast = parse(&source).unwrap();
    ast.functions.remove(0).body.unwrap()
}

#[test]
fn instruction_parts_are_kept() {
    let statements = body("@!%p1 ld.global.v2.f32 {%f1, _}, [%rd1+-8];");
    let Statement::Instruction(i) = &statements[0] else {
        panic!("{statements:?}")
    };
    assert_eq!(i.guard, Some(("%p1".to_string(), true)));
    assert_eq!(i.op, "ld.global.v2.f32");
    assert_eq!(
        i.operands,
        [
            Operand::Vector(vec![Operand::Name("%f1".into()), Operand::Name("_".into())]),
            Operand::Address(Some("%rd1".into()), -8),
        ]
    );
    assert_eq!(i.line, 5);
}

#[test]
fn line_directives_end_at_the_line() {
    let statements =
        body(".loc 1 3 5, function_name $L0, inlined_at 1 2 3\nret;\n.pragma \"nounroll\";");
    assert_eq!(statements.len(), 1);
}

#[test]
fn initialisers_and_relocations() {
    let ast = parse(&format!(
        "{HEAD}.global .align 4 .u32 a[2][3] = {{{{1, 2}}, {{4}}}};\n.const .f32 f = 0f3F800000;\n.global .u64 p[2] = {{generic(a)+4, k}};\n.global .b8 q[2] = {{0xFF(a), 0xFF00(a)}};\n.global .b8 s[] = {{104, 105, 0}};"
    ))
    .unwrap();
    assert_eq!(ast.variables[0].size, 24);
    assert_eq!(
        ast.variables[0].init[..16],
        [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0]
    );
    assert_eq!(ast.variables[1].init, 1f32.to_le_bytes());
    assert_eq!(ast.variables[2].relocations[0].addend, 4);
    assert_eq!(ast.variables[2].relocations[1].offset, 8);
    assert_eq!(ast.variables[3].relocations[1].shift, 8);
    assert_eq!(ast.variables[4].size, 3);
}

#[test]
fn errors_name_line_and_instruction() {
    let error = parse(&format!("{HEAD}.entry k() {{\n add.s32 %r1 %r2;\n}}")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "ptx line 5: in 'add.s32': expected ',' or ';', found '%r2'"
    );
    assert!(parse("hello").is_err());
    assert!(parse(".target sm_70").is_err());
}

#[test]
fn deep_nesting_is_refused() {
    assert!(parse(&format!("{HEAD}.entry k() {}", "{".repeat(100_000))).is_err());
    assert!(
        parse(&format!(
            "{HEAD}.entry k() {{ mov.b32 {}",
            "(".repeat(100_000)
        ))
        .is_err()
    );
    assert!(parse(&format!("{HEAD}.global .u32 a = {}", "{".repeat(100_000))).is_err());
}
