//! A filter as BPF, by a binary search over the allowed numbers.
//!
//! The kernel runs a new filter once for each system call that there is, to know those that need no run later.
//! With one comparison after the other, as seccompiler writes them, that was 3 million of the 10 million
//! instructions that this process needs before the guest's first.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, sock_filter};

// linux/bpf_common.h, linux/seccomp.h, linux/audit.h.
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const ARCH_X86_64: u32 = 0xc000_003e;

// struct seccomp_data: the number, the architecture, the instruction pointer, six arguments of eight bytes.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// When a system call is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    Always,
    /// When the low half of this argument is one of these.
    Argument(u8, Vec<u32>),
    /// When the low halves of these two arguments are these.
    Both((u8, u32), (u8, u32)),
    /// When the low half of this argument has none of these bits.
    Without(u8, u32),
}

/// Neighbouring numbers with one rule.
struct Range<'a> {
    first: u32,
    last: u32,
    rule: &'a Rule,
}

/// The program that allows these system calls and ends the process at any other.
pub(super) fn program(rules: &BTreeMap<u32, Rule>) -> BpfProgram {
    let mut ranges: Vec<Range> = Vec::new();
    for (&number, rule) in rules {
        match ranges.last_mut() {
            Some(range) if range.last + 1 == number && range.rule == rule => range.last = number,
            _ => ranges.push(Range { first: number, last: number, rule }),
        }
    }
    let mut program = vec![
        instruction(LOAD, ARCH),
        jump(JUMP_EQUAL, ARCH_X86_64, 1, 0),
        instruction(RETURN, KILL_PROCESS),
        instruction(LOAD, NUMBER),
    ];
    program.extend(search(&ranges));
    program
}

fn search(ranges: &[Range]) -> BpfProgram {
    match ranges {
        [] => vec![instruction(RETURN, KILL_PROCESS)],
        [range] => leaf(range),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let below = search(low);
            // A jump has eight bits: enough for 100 ranges, and no list here has more, as the tests know.
            debug_assert!(below.len() <= usize::from(u8::MAX), "too many ranges for one jump");
            let over = u8::try_from(below.len()).unwrap_or(u8::MAX);
            let mut code = vec![jump(JUMP_GREATER_EQUAL, high[0].first, over, 0)];
            code.extend(below);
            code.extend(search(high));
            code
        }
    }
}

fn leaf(range: &Range) -> BpfProgram {
    let allowed = allowed(range.rule);
    let end = allowed.len() as u8;
    let mut code =
        vec![jump(JUMP_GREATER_EQUAL, range.first, 0, end + 1), jump(JUMP_GREATER, range.last, end, 0)];
    code.extend(allowed);
    code.push(instruction(RETURN, KILL_PROCESS));
    code
}

fn allowed(rule: &Rule) -> BpfProgram {
    match rule {
        Rule::Always => vec![instruction(RETURN, ALLOW)],
        Rule::Argument(index, values) => {
            let mut code = vec![instruction(LOAD, ARGUMENTS + 8 * u32::from(*index))];
            for (i, &value) in values.iter().enumerate() {
                // Over the comparisons that are left, and the refusal.
                code.push(jump(JUMP_EQUAL, value, (values.len() - i) as u8, 0));
            }
            code.push(instruction(RETURN, KILL_PROCESS));
            code.push(instruction(RETURN, ALLOW));
            code
        }
        Rule::Both((first, one), (second, other)) => vec![
            instruction(LOAD, ARGUMENTS + 8 * u32::from(*first)),
            jump(JUMP_EQUAL, *one, 0, 2),
            instruction(LOAD, ARGUMENTS + 8 * u32::from(*second)),
            jump(JUMP_EQUAL, *other, 1, 0),
            instruction(RETURN, KILL_PROCESS),
            instruction(RETURN, ALLOW),
        ],
        Rule::Without(index, bits) => vec![
            instruction(LOAD, ARGUMENTS + 8 * u32::from(*index)),
            jump(JUMP_ANY_BIT, *bits, 0, 1),
            instruction(RETURN, KILL_PROCESS),
            instruction(RETURN, ALLOW),
        ],
    }
}

fn instruction(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs a program as the kernel does; true: allowed.
    fn run(program: &[sock_filter], arch: u32, number: u32, arguments: [u32; 6]) -> bool {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let step = &program[at];
            at += 1;
            let taken = match step.code {
                LOAD => {
                    accumulator = match step.k {
                        NUMBER => number,
                        ARCH => arch,
                        offset => arguments[((offset - ARGUMENTS) / 8) as usize],
                    };
                    continue;
                }
                JUMP_EQUAL => accumulator == step.k,
                JUMP_GREATER => accumulator > step.k,
                JUMP_GREATER_EQUAL => accumulator >= step.k,
                JUMP_ANY_BIT => accumulator & step.k != 0,
                RETURN => return step.k == ALLOW,
                other => panic!("instruction {other:#x}"),
            };
            at += usize::from(if taken { step.jt } else { step.jf });
        }
    }

    proptest! {
        #[test]
        fn what_is_listed_is_allowed_and_nothing_else(
            plain in prop::collection::btree_set(0u32..500, 0..80),
            conditional in prop::collection::btree_map(0u32..500, prop::collection::vec(any::<u32>(), 1..4), 0..3),
            bits in prop::collection::btree_map(0u32..500, any::<u32>(), 0..3),
            argument: u32,
        ) {
            let mut rules: BTreeMap<u32, Rule> = plain.iter().map(|&n| (n, Rule::Always)).collect();
            rules.extend(conditional.iter().map(|(&n, values)| (n, Rule::Argument(1, values.clone()))));
            rules.extend(bits.iter().map(|(&n, &bits)| (n, Rule::Without(1, bits))));
            let program = program(&rules);
            prop_assert!(program.len() < 4096);
            for number in (0..600).chain([u32::MAX, 0x4000_0000]) {
                let wanted = match rules.get(&number) {
                    None => false,
                    Some(Rule::Always) => true,
                    Some(Rule::Argument(_, values)) => values.contains(&argument),
                    Some(Rule::Without(_, bits)) => argument & bits == 0,
                    Some(Rule::Both(..)) => unreachable!("a test of its own"),
                };
                prop_assert_eq!(run(&program, ARCH_X86_64, number, [0, argument, 0, 0, 0, 0]), wanted);
                prop_assert!(!run(&program, 0x4000_0003, number, [0; 6]), "another architecture");
                if let Some(Rule::Argument(_, values)) = rules.get(&number) {
                    for &value in values {
                        prop_assert!(run(&program, ARCH_X86_64, number, [0, value, 0, 0, 0, 0]));
                    }
                }
            }
        }
    }
    #[test]
    fn both_arguments_must_be_what_is_listed() {
        let program = program(&BTreeMap::from([(53, Rule::Both((0, 1), (1, 7)))]));
        for (arguments, wanted) in [([1, 7], true), ([1, 6], false), ([2, 7], false), ([7, 1], false)] {
            let [first, second] = arguments;
            assert_eq!(run(&program, ARCH_X86_64, 53, [first, second, 9, 9, 9, 9]), wanted, "{arguments:?}");
        }
    }
}
