//! Many programs, one after the other, on two machines.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use hypervisor::mock::SoftVcpu;
use iced_x86::Code as Opcode;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::compare::differences;
use super::machine::Machine;
use super::program::{Mode, Op, Program};
use super::{catalog, quirks, strategy};

/// Two machines, one of them KVM's, and the programs they run.
pub trait Pair {
    /// A program.
    type Program: Clone + fmt::Debug;

    /// The strategy that makes programs.
    fn strategy() -> impl Strategy<Value = Self::Program>;

    /// The instructions of a program, to be made fewer.
    fn ops(program: &mut Self::Program) -> &mut Vec<Op>;

    /// Runs a program on both.
    fn judge(&mut self, program: &Self::Program) -> Verdict;

    /// All instructions that programs have.
    fn generated() -> Vec<Opcode>;
}

/// Programs of real mode and of protected mode without paging.
pub struct Unpaged {
    kvm: Machine,
    mock: Machine<SoftVcpu>,
}

impl Unpaged {
    /// Takes the two machines.
    pub fn new(kvm: Machine, mock: Machine<SoftVcpu>) -> Self {
        Self { kvm, mock }
    }
}

impl Pair for Unpaged {
    type Program = Program;

    fn strategy() -> impl Strategy<Value = Program> {
        strategy::program()
    }

    fn ops(program: &mut Program) -> &mut Vec<Op> {
        &mut program.ops
    }

    fn judge(&mut self, program: &Program) -> Verdict {
        let code = program.code();
        let kvm = self.kvm.run(&program.start, &code.bytes);
        let (mock, executed) = self.mock.run_noting(&program.start, &code.bytes);
        let found = differences(&program.start, &code, &kvm, &mock);
        if found.is_empty() {
            return Verdict::Agreed(executed);
        }
        match quirks::explanation(&program.start, &code.bytes, &kvm, &mock) {
            Some(quirk) => Verdict::Quirk(quirk.name),
            None => Verdict::Unexplained(found),
        }
    }

    fn generated() -> Vec<Opcode> {
        [Mode::Real, Mode::Flat].into_iter().flat_map(catalog::codes).copied().collect()
    }
}

/// Many programs on a [`Pair`].
pub struct Campaign<P> {
    pair: P,
}

/// What became of many programs.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What the programs follow from.
    pub seed: u64,
    /// How many there were.
    pub programs: u64,
    /// The numbers of those that differed by a quirk, by its name.
    pub quirks: BTreeMap<&'static str, Vec<u64>>,
    /// How often each instruction that programs have was executed, on each side, by programs on which the two agreed.
    pub executed: HashMap<Opcode, u64>,
    /// Those that differed otherwise, each as small as it could be made.
    pub unexplained: Vec<String>,
}

/// What became of one.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The two agree, and have executed these instructions.
    Agreed(Vec<Opcode>),
    /// They differ by the quirk of this name.
    Quirk(&'static str),
    /// They differ so.
    Unexplained(Vec<String>),
}

impl<P: Pair> Campaign<P> {
    /// Takes the two machines.
    pub fn new(pair: P) -> Self {
        Self { pair }
    }

    /// Runs `programs` programs that follow from `seed`, and stops at `most` that cannot be explained.
    pub fn run(&mut self, seed: u64, programs: u64, most: usize) -> Report {
        let generated = P::generated().into_iter().map(|opcode| (opcode, 0)).collect();
        let mut report = Report { seed, executed: generated, ..Default::default() };
        for number in 0..programs {
            if report.unexplained.len() >= most {
                break;
            }
            let mut tree = P::strategy().new_tree(&mut runner(seed, number)).expect("a program");
            report.programs += 1;
            match self.pair.judge(&tree.current()) {
                Verdict::Agreed(executed) => {
                    for opcode in executed {
                        if let Some(count) = report.executed.get_mut(&opcode) {
                            *count += 1;
                        }
                    }
                }
                Verdict::Quirk(name) => report.quirks.entry(name).or_default().push(number),
                Verdict::Unexplained(_) => {
                    let program = self.shrink(&mut tree);
                    if let Verdict::Unexplained(found) = self.pair.judge(&program) {
                        report.unexplained.push(format!("program {number}: {program:?}{}", found.join("\n")));
                    }
                }
            }
        }
        report
    }

    /// The program of a number, as `run` makes it.
    pub fn program(seed: u64, number: u64) -> P::Program {
        P::strategy().new_tree(&mut runner(seed, number)).expect("a program").current()
    }

    fn is_unexplained(&mut self, program: &P::Program) -> bool {
        matches!(self.pair.judge(program), Verdict::Unexplained(_))
    }

    /// The simplest program that still cannot be explained: first as the strategy can make it, then with fewer
    /// instructions than it makes.
    fn shrink(&mut self, tree: &mut impl ValueTree<Value = P::Program>) -> P::Program {
        let mut smallest = tree.current();
        while tree.simplify() {
            loop {
                let program = tree.current();
                if self.is_unexplained(&program) {
                    smallest = program;
                    break;
                }
                if !tree.complicate() {
                    break;
                }
            }
        }
        let mut index = P::ops(&mut smallest).len();
        while index > 0 {
            index -= 1;
            let mut fewer = smallest.clone();
            P::ops(&mut fewer).remove(index);
            if self.is_unexplained(&fewer) {
                smallest = fewer;
            }
        }
        smallest
    }
}

/// Each program follows from the seed and its own number alone.
fn runner(seed: u64, number: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

impl Report {
    /// How many programs differed by a quirk.
    pub fn skipped(&self) -> u64 {
        self.quirks.values().map(|numbers| numbers.len() as u64).sum()
    }

    /// The instructions that are generated, with how often each was executed, the rarest first.
    pub fn rarest(&self) -> Vec<(Opcode, u64)> {
        let mut counted: Vec<_> = self.executed.iter().map(|(opcode, count)| (*opcode, *count)).collect();
        counted.sort_by_key(|(opcode, count)| (*count, *opcode as u32));
        counted
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skipped = self.skipped();
        writeln!(f, "seed {:#x}: {} programs, {skipped} explained by a quirk", self.seed, self.programs)?;
        for (name, numbers) in &self.quirks {
            writeln!(f, "  {name}: {}, the first of them program {}", numbers.len(), numbers[0])?;
        }
        let counted = self.rarest();
        let total: u64 = self.executed.values().sum();
        writeln!(f, "{total} instructions executed on each side, {} opcodes; the rarest:", counted.len())?;
        for (opcode, count) in counted.iter().take(12) {
            writeln!(f, "  {opcode:?}: {count}")?;
        }
        for program in &self.unexplained {
            writeln!(f, "UNEXPLAINED {program}")?;
        }
        Ok(())
    }
}
