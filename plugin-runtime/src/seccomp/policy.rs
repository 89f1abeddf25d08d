//! What a policy says, as data.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use syscalls::Sysno;

/// The rules of all calls that are named; every other call is a violation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) rules: BTreeMap<Sysno, Rule>,
}

impl Policy {
    /// What either policy allows. Where both have a rule for a call, what is not allowed is as this one says.
    pub(super) fn or(mut self, other: Self) -> Self {
        for (call, rule) in other.rules {
            match self.rules.entry(call) {
                Entry::Vacant(vacant) => drop(vacant.insert(rule)),
                Entry::Occupied(mut ours) => ours.get_mut().allowed.extend(rule.allowed),
            }
        }
        self
    }
}

/// When a call is allowed, and what becomes of it when it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allowed: Condition,
    pub(super) otherwise: Otherwise,
}

/// Holds if all comparisons of at least one of these lists do. So one empty list always holds, and no list never.
pub(super) type Condition = Vec<Vec<Comparison>>;

/// What becomes of a call that is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Otherwise {
    Violation,
    /// It is not made, and returns this error number, 1 to [`MAX_ERRNO`].
    Errno(u16),
}

/// The largest error number a call can return, `MAX_ERRNO` of the kernel's `linux/err.h`.
pub(super) const MAX_ERRNO: u16 = 4095;

/// A comparison of all 64 bits of an argument, as an unsigned number, with a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Comparison {
    /// Which argument, 0 to 5.
    pub(super) argument: u8,
    pub(super) operator: Operator,
    pub(super) constant: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// At least one bit of the constant is set.
    AnyBit,
    /// No bit is set that is not set in the constant.
    NoOtherBit,
}

impl Rule {
    /// A call that is always allowed.
    #[cfg(test)]
    pub(super) fn always() -> Self {
        Self { allowed: vec![vec![]], otherwise: Otherwise::Violation }
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Comparison {
    /// Whether it holds for a call with these arguments.
    pub(super) fn holds(&self, arguments: &[u64; 6]) -> bool {
        let (value, constant) = (arguments[usize::from(self.argument)], self.constant);
        match self.operator {
            Operator::Equal => value == constant,
            Operator::NotEqual => value != constant,
            Operator::Less => value < constant,
            Operator::LessOrEqual => value <= constant,
            Operator::Greater => value > constant,
            Operator::GreaterOrEqual => value >= constant,
            Operator::AnyBit => value & constant != 0,
            Operator::NoOtherBit => value & !constant == 0,
        }
    }
}
