//! The structures of `crosvm.h`, as they lie in memory.

use libc::c_void;

use crate::pointers::In;

/// `struct crosvm_net_config`.
#[repr(C)]
pub(crate) struct NetConfig {
    pub(crate) tap_fd: i32,
    /// In network byte order, as the netmask.
    pub(crate) host_ip: [u8; 4],
    pub(crate) netmask: [u8; 4],
    pub(crate) host_mac_address: [u8; 6],
    pub(crate) padding: [u8; 2],
}

/// `struct crosvm_irq_route`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct IrqRoute {
    pub(crate) irq_id: u32,
    pub(crate) kind: u32,
    /// The union: `irqchip` and `pin`, or the message's address in two halves and its data.
    pub(crate) words: [u32; 4],
}

/// `enum crosvm_irq_route_kind`.
pub(crate) mod route_kind {
    pub(crate) const IRQCHIP: u32 = 0;
    pub(crate) const MSI: u32 = 1;
}

/// `struct crosvm_hint_detail`. The flags are bytes here: C may have left anything in them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct HintDetail {
    pub(crate) match_rax: u8,
    pub(crate) match_rbx: u8,
    pub(crate) match_rcx: u8,
    pub(crate) match_rdx: u8,
    pub(crate) reserved1: [u8; 4],
    pub(crate) rax: u64,
    pub(crate) rbx: u64,
    pub(crate) rcx: u64,
    pub(crate) rdx: u64,
    pub(crate) send_sregs: u8,
    pub(crate) send_debugregs: u8,
    pub(crate) reserved2: [u8; 6],
}

/// `struct crosvm_hint`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Hint {
    pub(crate) hint_version: u32,
    pub(crate) reserved: u32,
    pub(crate) address_space: u32,
    pub(crate) address_flags: u16,
    pub(crate) details_count: u16,
    pub(crate) address: u64,
    pub(crate) details: In<HintDetail>,
}

/// `struct crosvm_vcpu_event`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct VcpuEvent {
    pub(crate) kind: u32,
    pub(crate) padding: u32,
    pub(crate) what: What,
}

impl VcpuEvent {
    pub(crate) fn new(kind: u32, what: What) -> Self {
        Self { kind, padding: 0, what }
    }
}

/// `enum crosvm_vcpu_event_kind`.
pub(crate) mod event_kind {
    pub(crate) const INIT: u32 = 0;
    pub(crate) const IO_ACCESS: u32 = 1;
    pub(crate) const PAUSED: u32 = 2;
    pub(crate) const HYPERV_HCALL: u32 = 3;
    pub(crate) const HYPERV_SYNIC: u32 = 4;
}

/// The union in `struct crosvm_vcpu_event`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) union What {
    pub(crate) io_access: IoAccess,
    pub(crate) user: *mut c_void,
    pub(crate) hyperv_call: HypervCall,
    pub(crate) hyperv_synic: HypervSynic,
    pub(crate) bytes: [u8; 64],
}

/// `io_access` in `struct crosvm_vcpu_event`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct IoAccess {
    pub(crate) address_space: u32,
    pub(crate) padding: u32,
    pub(crate) address: u64,
    pub(crate) data: *mut u8,
    pub(crate) length: u32,
    pub(crate) is_write: u8,
    pub(crate) no_resume: u8,
    pub(crate) reserved: [u8; 2],
}

/// `hyperv_call` in `struct crosvm_vcpu_event`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct HypervCall {
    pub(crate) input: u64,
    pub(crate) result: *mut u64,
    pub(crate) params: [u64; 2],
}

/// `hyperv_synic` in `struct crosvm_vcpu_event`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct HypervSynic {
    pub(crate) msr: u32,
    pub(crate) reserved: u32,
    pub(crate) control: u64,
    pub(crate) evt_page: u64,
    pub(crate) msg_page: u64,
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn the_structures_lie_as_compiled_plugins_have_them() {
        assert_eq!(size_of::<NetConfig>(), 20);
        assert_eq!((offset_of!(NetConfig, host_ip), offset_of!(NetConfig, netmask)), (4, 8));
        assert_eq!(offset_of!(NetConfig, host_mac_address), 12);

        assert_eq!((size_of::<IrqRoute>(), offset_of!(IrqRoute, words)), (24, 8));

        assert_eq!(size_of::<HintDetail>(), 48);
        assert_eq!((offset_of!(HintDetail, rax), offset_of!(HintDetail, rdx)), (8, 32));
        assert_eq!((offset_of!(HintDetail, send_sregs), offset_of!(HintDetail, send_debugregs)), (40, 41));

        assert_eq!(size_of::<Hint>(), 32);
        assert_eq!((offset_of!(Hint, address_flags), offset_of!(Hint, details_count)), (12, 14));
        assert_eq!((offset_of!(Hint, address), offset_of!(Hint, details)), (16, 24));

        assert_eq!((size_of::<VcpuEvent>(), offset_of!(VcpuEvent, what)), (72, 8));
        assert_eq!((offset_of!(IoAccess, address), offset_of!(IoAccess, data)), (8, 16));
        assert_eq!((offset_of!(IoAccess, length), offset_of!(IoAccess, is_write)), (24, 28));
        assert_eq!(offset_of!(IoAccess, no_resume), 29);
        assert_eq!((offset_of!(HypervCall, result), offset_of!(HypervCall, params)), (8, 16));
        assert_eq!((offset_of!(HypervSynic, control), offset_of!(HypervSynic, msg_page)), (8, 24));
    }
}
