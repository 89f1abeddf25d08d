//! Many programs, one after the other, on two machines.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use hypervisor::mock::SoftVcpu;
use iced_x86::Code as Opcode;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::compare::differences;
use super::machine::Machine;
use super::program::{Mode, Program};
use super::{catalog, quirks, strategy};

/// Two machines, one of them KVM's, that run the same programs.
pub struct Campaign {
    kvm: Machine,
    mock: Machine<SoftVcpu>,
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
    /// How often each instruction was executed, on each side, by programs on which the two agreed.
    pub executed: HashMap<Opcode, u64>,
    /// Those that differed otherwise, each as small as it could be made.
    pub unexplained: Vec<String>,
}

/// What became of one.
enum Verdict {
    Agreed(Vec<Opcode>),
    Quirk(&'static str),
    Unexplained(Vec<String>),
}

impl Campaign {
    /// Takes the two machines.
    pub fn new(kvm: Machine, mock: Machine<SoftVcpu>) -> Self {
        Self { kvm, mock }
    }

    /// Runs `programs` programs that follow from `seed`, and stops at `most` that cannot be explained.
    pub fn run(&mut self, seed: u64, programs: u64, most: usize) -> Report {
        let strategy = strategy::program();
        let mut report = Report { seed, ..Default::default() };
        for number in 0..programs {
            if report.unexplained.len() >= most {
                break;
            }
            let mut tree = strategy.new_tree(&mut runner(seed, number)).expect("a program");
            report.programs += 1;
            match self.judge(&tree.current()) {
                Verdict::Agreed(executed) => {
                    for opcode in executed {
                        *report.executed.entry(opcode).or_default() += 1;
                    }
                }
                Verdict::Quirk(name) => report.quirks.entry(name).or_default().push(number),
                Verdict::Unexplained(_) => {
                    let program = self.shrink(&mut tree);
                    if let Verdict::Unexplained(found) = self.judge(&program) {
                        report.unexplained.push(format!("program {number}: {program:?}{}", found.join("\n")));
                    }
                }
            }
        }
        report
    }

    /// The program of a number, as `run` makes it.
    pub fn program(seed: u64, number: u64) -> Program {
        strategy::program().new_tree(&mut runner(seed, number)).expect("a program").current()
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

    fn is_unexplained(&mut self, program: &Program) -> bool {
        matches!(self.judge(program), Verdict::Unexplained(_))
    }

    /// The simplest program that still cannot be explained: first as the strategy can make it, then with fewer
    /// instructions than it makes.
    fn shrink(&mut self, tree: &mut impl ValueTree<Value = Program>) -> Program {
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
        let mut index = smallest.ops.len();
        while index > 0 {
            index -= 1;
            let mut fewer = smallest.clone();
            fewer.ops.remove(index);
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
        let mut all: Vec<Opcode> = [Mode::Real, Mode::Flat].into_iter().flat_map(catalog::codes).copied().collect();
        all.sort_by_key(|opcode| *opcode as u32);
        all.dedup();
        let mut counted: Vec<_> = all.iter().map(|opcode| (*opcode, self.count(*opcode))).collect();
        counted.sort_by_key(|(_, count)| *count);
        counted
    }

    fn count(&self, opcode: Opcode) -> u64 {
        self.executed.get(&opcode).copied().unwrap_or_default()
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
