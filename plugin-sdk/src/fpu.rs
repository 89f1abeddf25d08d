//! `kvm_fpu` as bytes. The other structures have this from `kvm-bindings`; this one does not.

use kvm_bindings::kvm_fpu;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// `kvm_fpu`, field by field.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
pub(crate) struct Fpu {
    fpr: [[u8; 16]; 8],
    fcw: u16,
    fsw: u16,
    ftwx: u8,
    pad1: u8,
    last_opcode: u16,
    last_ip: u64,
    last_dp: u64,
    xmm: [[u8; 16]; 16],
    mxcsr: u32,
    pad2: u32,
}

const _: () = assert!(size_of::<Fpu>() == size_of::<kvm_fpu>());

impl From<&kvm_fpu> for Fpu {
    fn from(fpu: &kvm_fpu) -> Self {
        let kvm_fpu { fpr, fcw, fsw, ftwx, pad1, last_opcode, last_ip, last_dp, xmm, mxcsr, pad2 } = *fpu;
        Self { fpr, fcw, fsw, ftwx, pad1, last_opcode, last_ip, last_dp, xmm, mxcsr, pad2 }
    }
}

impl From<Fpu> for kvm_fpu {
    fn from(fpu: Fpu) -> Self {
        let Fpu { fpr, fcw, fsw, ftwx, pad1, last_opcode, last_ip, last_dp, xmm, mxcsr, pad2 } = fpu;
        Self { fpr, fcw, fsw, ftwx, pad1, last_opcode, last_ip, last_dp, xmm, mxcsr, pad2 }
    }
}
