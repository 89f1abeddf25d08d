//! What KVM refuses to set (`kvm_is_valid_sregs` in `arch/x86/kvm/x86.c`).

use kvm_bindings::kvm_sregs;

use crate::mock::cpu::Features;
use crate::mock::cpu::mode::{CR0_CD, CR0_NW, CR0_PE, CR0_PG, CR4_PAE, EFER_LMA, EFER_LME};
use crate::mock::cpu::{cr4_bits, efer_bits};

/// Whether these registers go together.
pub(super) fn sregs(sregs: &kvm_sregs, features: Features) -> bool {
    let has = |register: u64, bits| register & bits != 0;
    let (cr0, cr4, efer) = (sregs.cr0, sregs.cr4, sregs.efer);
    let is_long = has(efer, EFER_LME) && has(cr0, CR0_PG);
    let modes = if is_long {
        // 64-bit code is not 32-bit code, and the tables lie where memory can be.
        has(cr4, CR4_PAE)
            && has(efer, EFER_LMA)
            && sregs.cr3 & !features.physical_mask() == 0
            && !(sregs.cs.l != 0 && sregs.cs.db != 0)
    } else {
        !has(efer, EFER_LMA) && sregs.cs.l == 0
    };
    let cr0_is_valid =
        cr0 >> 32 == 0 && (!has(cr0, CR0_NW) || has(cr0, CR0_CD)) && (!has(cr0, CR0_PG) || has(cr0, CR0_PE));
    modes && cr0_is_valid && cr4 & !cr4_bits(features) == 0 && efer & !efer_bits(features) == 0
}

/// The interrupt that the bitmap says is to be delivered.
pub(super) fn first_interrupt(sregs: &kvm_sregs) -> Option<u8> {
    let words = (0..).zip(sregs.interrupt_bitmap);
    words.filter(|&(_, word)| word != 0).map(|(index, word)| (64 * index + word.trailing_zeros()) as u8).next()
}

#[cfg(test)]
mod tests {
    use kvm_bindings::kvm_segment;

    use super::*;

    #[test]
    fn registers_that_do_not_go_together_are_refused() {
        const LONG: u64 = EFER_LME | EFER_LMA;
        for (cr0, cr4, efer, l, db, expected) in [
            (0, 0, 0, 0, 0, true),
            (CR0_PG, 0, 0, 0, 0, false),
            (CR0_PG | CR0_PE, 0, 0, 0, 0, true),
            (CR0_NW, 0, 0, 0, 0, false),
            (CR0_NW | CR0_CD, 0, 0, 0, 0, true),
            (1 << 32, 0, 0, 0, 0, false),
            (CR0_PG | CR0_PE, 0, LONG, 0, 0, false),
            (CR0_PG | CR0_PE, CR4_PAE, LONG, 1, 0, true),
            (CR0_PG | CR0_PE, CR4_PAE, LONG, 1, 1, false),
            (CR0_PG | CR0_PE, CR4_PAE, EFER_LME, 0, 0, false),
            (CR0_PE, CR4_PAE, EFER_LMA, 0, 0, false),
            (0, 0, 0, 1, 0, false),
            (0, 0, EFER_LME, 0, 0, true),
            (0, 1 << 30, 0, 0, 0, false),
            (0, 0, 1 << 5, 0, 0, false),
        ] {
            let cs = kvm_segment { l, db, ..Default::default() };
            let given = kvm_sregs { cr0, cr4, efer, cs, ..Default::default() };
            assert_eq!(sregs(&given, Features::default()), expected, "{cr0:#x} {cr4:#x} {efer:#x} {l} {db}");
        }
    }

    #[test]
    fn the_lowest_interrupt_of_the_bitmap_is_the_first() {
        let with = |interrupt_bitmap| kvm_sregs { interrupt_bitmap, ..Default::default() };
        assert_eq!(first_interrupt(&with([0; 4])), None);
        assert_eq!(first_interrupt(&with([0, 6, 1, 0])), Some(65));
    }
}
