//! How to look, again and again, at memory that another processor is about to write.

#![allow(unsafe_code, reason = "a fence that the standard library has as an intrinsic alone")]

/// Spends the time between two looks, the shortest that makes sense.
///
/// It is a fence for loads: the next look begins when the last one has its value, so what is written is seen as soon as it is
/// here. The pause instruction would be in the middle of its 40 to 140 cycles then; and without either, looks are made ahead that
/// have to be taken back.
#[inline]
pub fn between_looks() {
    // SAFETY: it needs SSE2, which every x86-64 processor has.
    unsafe {
        std::arch::x86_64::_mm_lfence();
    }
}

/// A mask for about every `period`th look: that whose number has all of its bits.
#[must_use]
pub fn turn(period: u32) -> u32 {
    period.checked_next_power_of_two().unwrap_or(1 << 31).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_comes_once_in_its_period_or_less_than_twice_that() {
        for period in [1, 2, 3, 100, 152, u32::MAX] {
            let mask = turn(period);
            assert!(mask.checked_add(1).is_none_or(|turns| turns.is_power_of_two()));
            let between = u64::from(mask) + 1;
            assert!(
                between >= u64::from(period.min(1 << 31)) && between < 2 * u64::from(period),
                "{period}: {between}"
            );
        }
        assert_eq!(turn(0), 0, "each look");
    }
}
