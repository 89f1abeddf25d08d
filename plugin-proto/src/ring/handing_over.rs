//! How a cache line that was written gets to the processor that looks at it.

#![allow(unsafe_code, reason = "a hint that the standard library does not have")]

/// Lets the cache that all processors share have the line that `value` begins in. Who looks at it on another processor has it
/// sooner from there than from this one's own cache; who looks at it on this one has it later.
///
/// `CLDEMOTE` (SDM volume 2) is a hint: processors that do not know it do nothing.
#[inline]
pub fn hand_over<T>(value: &T) {
    // SAFETY: it changes nothing that a program can see but time, wherever it points.
    unsafe {
        std::arch::asm!("cldemote [{}]", in(reg) std::ptr::from_ref(value), options(nostack, preserves_flags));
    }
}
