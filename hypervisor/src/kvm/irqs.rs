//! Eventfds and interrupt lines on KVM.
#![allow(unsafe_code, reason = "kvm-ioctls' KVM_IOEVENTFD lacks a length without data")]

use std::os::fd::AsRawFd;
use std::sync::Arc;

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVMIO, KvmIrqRouting, kvm_ioeventfd,
    kvm_ioeventfd_flag_nr_datamatch as DATAMATCH_BIT, kvm_ioeventfd_flag_nr_deassign as DEASSIGN_BIT,
    kvm_ioeventfd_flag_nr_pio as PIO_BIT, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1 as Target,
    kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use super::vm::KvmVm;
use super::{refused, system};
use crate::{AddressSpace, EventFd, Gsi, IoEvent, Irqs, Result, Route};

ioctl_iow_nr!(KVM_IOEVENTFD, KVMIO, 0x79, kvm_ioeventfd);

/// The flag of [`set_ioevent`] that takes an ioeventfd away.
pub(super) const DEASSIGN: u32 = 1 << DEASSIGN_BIT;

/// Adds or takes away an ioeventfd.
pub(super) fn set_ioevent(vm: &VmFd, at: &IoEvent, event: &EventFd, mut flags: u32) -> Result<()> {
    if at.space() == AddressSpace::Pio {
        flags |= 1 << PIO_BIT;
    }
    if at.datamatch().is_some() {
        flags |= 1 << DATAMATCH_BIT;
    }
    let ioeventfd = kvm_ioeventfd {
        datamatch: at.datamatch().unwrap_or(0),
        addr: at.address(),
        len: at.len(),
        fd: event.as_raw_fd(),
        flags,
        ..Default::default()
    };
    // SAFETY: the kernel only reads the structure, and takes its own reference to the eventfd.
    match unsafe { ioctl_with_ref(vm, KVM_IOEVENTFD(), &ioeventfd) } {
        0 => Ok(()),
        _ => Err(system("KVM_IOEVENTFD")(errno::Error::last())),
    }
}

impl Irqs for KvmVm {
    fn register_irqfd(&self, gsi: Gsi, trigger: &Arc<EventFd>, resample: &Arc<EventFd>) -> Result<()> {
        self.fd.register_irqfd_with_resample(trigger, resample, gsi.0).map_err(system("KVM_IRQFD"))
    }

    fn unregister_irqfd(&self, gsi: Gsi, trigger: &Arc<EventFd>) -> Result<()> {
        self.fd.unregister_irqfd(trigger, gsi.0).map_err(system("KVM_IRQFD"))
    }

    fn set_irq(&self, gsi: Gsi, level: bool) -> Result<()> {
        self.fd.set_irq_line(gsi.0, level).map_err(system("KVM_IRQ_LINE"))
    }

    fn set_routing(&self, routes: &[Route]) -> Result<()> {
        const CALL: &str = "KVM_SET_GSI_ROUTING";
        let entries: Vec<_> = routes.iter().map(entry).collect();
        let table = KvmIrqRouting::from_entries(&entries).map_err(|_| refused(CALL, libc::EINVAL))?;
        self.fd.set_gsi_routing(&table).map_err(system(CALL))
    }
}

fn entry(route: &Route) -> kvm_irq_routing_entry {
    let (gsi, type_, u) = match *route {
        Route::Irqchip { gsi, chip, pin } => {
            (gsi, KVM_IRQ_ROUTING_IRQCHIP, Target { irqchip: kvm_irq_routing_irqchip { irqchip: chip, pin } })
        }
        Route::Msi { gsi, address, data } => {
            let msi = kvm_irq_routing_msi {
                address_lo: address as u32,
                address_hi: (address >> 32) as u32,
                data,
                ..Default::default()
            };
            (gsi, KVM_IRQ_ROUTING_MSI, Target { msi })
        }
    };
    kvm_irq_routing_entry { gsi: gsi.0, type_, u, ..Default::default() }
}
