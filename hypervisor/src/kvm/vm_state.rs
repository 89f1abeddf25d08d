//! The state of a VM's chips on KVM.
#![allow(unsafe_code, reason = "kvm_irqchip is a union of the chips")]

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_ioapic_state, kvm_irqchip,
    kvm_irqchip__bindgen_ty_1 as Chip, kvm_pic_state, kvm_pit_state2,
};

use super::system;
use super::vm::KvmVm;
use crate::{Pic, Result, VmState};

impl KvmVm {
    fn irqchip(&self, chip_id: u32) -> Result<Chip> {
        let mut irqchip = kvm_irqchip { chip_id, ..Default::default() };
        self.fd.get_irqchip(&mut irqchip).map_err(system("KVM_GET_IRQCHIP"))?;
        Ok(irqchip.chip)
    }

    fn set_irqchip(&self, chip_id: u32, chip: Chip) -> Result<()> {
        self.fd.set_irqchip(&kvm_irqchip { chip_id, pad: 0, chip }).map_err(system("KVM_SET_IRQCHIP"))
    }
}

fn chip_id(pic: Pic) -> u32 {
    match pic {
        Pic::Primary => KVM_IRQCHIP_PIC_MASTER,
        Pic::Secondary => KVM_IRQCHIP_PIC_SLAVE,
    }
}

impl VmState for KvmVm {
    fn pic(&self, which: Pic) -> Result<kvm_pic_state> {
        let chip = self.irqchip(chip_id(which))?;
        // SAFETY: all bytes of the union are initialised, and any are a valid state.
        Ok(unsafe { chip.pic })
    }

    fn set_pic(&self, which: Pic, state: &kvm_pic_state) -> Result<()> {
        let mut chip = Chip { dummy: [0; 512] };
        chip.pic = *state;
        self.set_irqchip(chip_id(which), chip)
    }

    fn ioapic(&self) -> Result<kvm_ioapic_state> {
        let chip = self.irqchip(KVM_IRQCHIP_IOAPIC)?;
        // SAFETY: all bytes of the union are initialised, and any are a valid state.
        Ok(unsafe { chip.ioapic })
    }

    fn set_ioapic(&self, state: &kvm_ioapic_state) -> Result<()> {
        let mut chip = Chip { dummy: [0; 512] };
        chip.ioapic = *state;
        self.set_irqchip(KVM_IRQCHIP_IOAPIC, chip)
    }

    fn pit(&self) -> Result<kvm_pit_state2> {
        self.fd.get_pit2().map_err(system("KVM_GET_PIT2"))
    }

    fn set_pit(&self, state: &kvm_pit_state2) -> Result<()> {
        self.fd.set_pit2(state).map_err(system("KVM_SET_PIT2"))
    }

    fn clock(&self) -> Result<kvm_clock_data> {
        self.fd.get_clock().map_err(system("KVM_GET_CLOCK"))
    }

    fn set_clock(&self, clock: &kvm_clock_data) -> Result<()> {
        self.fd.set_clock(clock).map_err(system("KVM_SET_CLOCK"))
    }
}
