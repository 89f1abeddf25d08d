//! What follows from the registers of the mock's local APIC.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

use kvm_bindings::kvm_lapic_state;

const TASK_PRIORITY: usize = 0x80;
const PROCESSOR_PRIORITY: usize = 0xa0;
/// The first of eight registers, 16 bytes apart, with a bit for each vector in service.
const IN_SERVICE: usize = 0x100;
/// The pin where the PICs are connected (LINT0).
const LINT0: usize = 0x350;

/// Whether LINT0 is not masked and takes the vectors of an external controller (ExtINT).
pub(super) fn lets_pics_through(lapic: &kvm_lapic_state) -> bool {
    const MASK_AND_MODE: u32 = 1 << 16 | 7 << 8;
    const EXTINT: u32 = 7 << 8;
    let byte = |at: usize| lapic.regs.get(LINT0 | at).map_or(0, |byte| byte.cast_unsigned());
    u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)]) & MASK_AND_MODE == EXTINT
}

/// With the processor priority that task priority and interrupts in service make: Intel SDM volume 3, section 12.8.3.1.
pub(super) fn with_processor_priority(mut lapic: kvm_lapic_state) -> kvm_lapic_state {
    let byte = |offset: usize| lapic.regs.get(offset).map_or(0, |byte| byte.cast_unsigned());
    let in_service = |vector: &u8| {
        // A register of 32 bits every 16 bytes.
        let offset = usize::from(vector >> 5) << 4 | usize::from(vector >> 3 & 3);
        byte(IN_SERVICE | offset) >> (vector & 7) & 1 == 1
    };
    let task = byte(TASK_PRIORITY);
    let highest = (0..=u8::MAX).rev().find(in_service).unwrap_or(0);
    let priority = if task >> 4 >= highest >> 4 { task } else { highest & 0xf0 };
    if let Some(register) = lapic.regs.get_mut(PROCESSOR_PRIORITY) {
        *register = priority.cast_signed();
    }
    lapic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_priority_is_the_tasks_or_that_of_the_highest_vector_in_service() {
        let mut lapic = kvm_lapic_state::default();
        lapic.regs[TASK_PRIORITY] = 0x35;
        assert_eq!(with_processor_priority(lapic).regs[PROCESSOR_PRIORITY], 0x35);
        // Vector 0x51: bit 17 of the third register.
        lapic.regs[IN_SERVICE + 0x20 + 2] = 2;
        assert_eq!(with_processor_priority(lapic).regs[PROCESSOR_PRIORITY], 0x50);
    }
}
