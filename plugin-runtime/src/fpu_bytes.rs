//! `kvm_fpu` as bytes. The other structures have this from `kvm-bindings`; this one does not.
#![allow(unsafe_code, reason = "reads and makes a plain structure of the kernel's as bytes")]

use hypervisor::kvm_fpu;

/// Bytes of it.
pub(crate) const SIZE: usize = size_of::<kvm_fpu>();

// No byte of it is padding: its members' sizes add up to its own.
const _: () = assert!(SIZE == 8 * 16 + 2 + 2 + 1 + 1 + 2 + 8 + 8 + 16 * 16 + 4 + 4);

/// The structure in `bytes`; `None` for a wrong size.
pub(crate) fn parse(bytes: &[u8]) -> Option<kvm_fpu> {
    let bytes: [u8; SIZE] = bytes.try_into().ok()?;
    // SAFETY: integers and arrays of them only, for which all bytes are values; the sizes are the same.
    Some(unsafe { std::mem::transmute::<[u8; SIZE], kvm_fpu>(bytes) })
}

/// Its bytes.
pub(crate) fn of(fpu: &kvm_fpu) -> Vec<u8> {
    // SAFETY: it has no padding, see above, so all of its bytes are initialised; the sizes are the same.
    let bytes = unsafe { std::mem::transmute::<kvm_fpu, [u8; SIZE]>(*fpu) };
    bytes.to_vec()
}
