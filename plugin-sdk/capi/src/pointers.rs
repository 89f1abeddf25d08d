//! What C hands over. A value of these types comes from a C caller alone, who promises what `crosvm.h` asks for: each
//! pointer is NULL or points at what the function's declaration says, until the call returns. So the types here check
//! for NULL and are otherwise trusted, and no other module has to be.
//!
//! Plain data is copied in and out as bytes, so its alignment does not matter.

#![allow(unsafe_code, reason = "the border to C")]

use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard};

use kvm_bindings::{
    kvm_clock_data, kvm_cpuid_entry2, kvm_debugregs, kvm_fpu, kvm_ioapic_state, kvm_lapic_state, kvm_mp_state,
    kvm_msr_entry, kvm_pic_state, kvm_pit_state2, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};

use crate::abi::{Hint, HintDetail, IrqRoute};
use crate::errno::{Errno, Result};

/// Plain data: any bytes are a value of it.
///
/// # Safety
///
/// That must hold.
pub(crate) unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($type:ty)*) => {$(
        // SAFETY: it consists of integers, or of structures and unions of them, and at most of a pointer besides.
        unsafe impl Plain for $type {}
    )*};
}

plain! {
    u8 u32 u64 Hint HintDetail IrqRoute kvm_clock_data kvm_cpuid_entry2 kvm_debugregs kvm_fpu kvm_ioapic_state
    kvm_lapic_state kvm_mp_state kvm_msr_entry kvm_pic_state kvm_pit_state2 kvm_regs kvm_sregs kvm_vcpu_events kvm_xcrs
}

/// A pointer to an opaque object of the library.
#[repr(transparent)]
pub(crate) struct Handle<T>(*const T);

impl<T> Handle<T> {
    /// The object, as long as this argument lives: for the call.
    pub(crate) fn get(&self) -> Result<&T> {
        // SAFETY: C promises that a handle which is not NULL came from this library and was not destroyed. Every handle
        // of the library points at a `T` on the heap, and is only ever borrowed as shared.
        unsafe { self.0.as_ref() }.ok_or(Errno::INVAL)
    }
}

impl<T> Handle<Mutex<T>> {
    /// The object for this call alone.
    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, T>> {
        alone(self.get()?)
    }
}

/// What is in `mutex`, for this call alone. Another thread's call with it is not waited for: waiting takes a system
/// call that the plugin's seccomp policy may not allow, and C was told not to do it.
pub(crate) fn alone<T>(mutex: &Mutex<T>) -> Result<MutexGuard<'_, T>> {
    mutex.try_lock().map_err(|_| Errno::BUSY)
}

/// A place for a value. To be checked before anything is done.
#[repr(transparent)]
pub(crate) struct Out<T>(*mut T);

/// A place that is there.
pub(crate) struct Place<T>(NonNull<T>);

impl<T> Out<T> {
    pub(crate) fn check(&self) -> Result<Place<T>> {
        NonNull::new(self.0).map(Place).ok_or(Errno::INVAL)
    }
}

impl Out<u32> {
    /// A place for a count, which holds 0 until there is one.
    pub(crate) fn check_count(&self) -> Result<Place<u32>> {
        let place = self.check()?;
        place.set(0);
        Ok(place)
    }
}

impl<T> Place<T> {
    pub(crate) fn set(&self, value: T) {
        // SAFETY: C promises room for a `T`.
        unsafe { self.0.write_unaligned(value) }
    }
}

impl<T> Place<*const T> {
    /// Hands out a new object, C's to destroy.
    pub(crate) fn set_new(&self, object: T) {
        self.set(Box::into_raw(Box::new(object)));
    }
}

/// A place that holds a handle which [`Place::set_new`] gave out, to be destroyed.
#[repr(transparent)]
pub(crate) struct Owner<T>(*mut *const T);

impl<T> Owner<T> {
    /// The handle in the place.
    pub(crate) fn handle(&self) -> Result<Handle<T>> {
        let place = NonNull::new(self.0).ok_or(Errno::INVAL)?;
        // SAFETY: C promises that a handle is in the place.
        let handle = unsafe { place.read_unaligned() };
        if handle.is_null() { Err(Errno::INVAL) } else { Ok(Handle(handle)) }
    }

    /// Frees the object and leaves NULL.
    pub(crate) fn destroy(self) -> Result<()> {
        let object = self.handle()?.0.cast_mut();
        // SAFETY: the handle came from `Box::into_raw`, and C, who destroys it, does not use it in any other call. The
        // argument is taken, so no reference to the object is left in this one.
        drop(unsafe { Box::from_raw(object) });
        Place(NonNull::new(self.0).ok_or(Errno::INVAL)?).set(std::ptr::null());
        Ok(())
    }
}

/// Plain data to be read: one value, or as many as another argument says.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct In<T>(*const T);

impl<T: Plain> In<T> {
    pub(crate) fn read(&self) -> Result<T> {
        let place = NonNull::new(self.0.cast_mut()).ok_or(Errno::INVAL)?;
        // SAFETY: C promises a `T` there, and any bytes are one.
        Ok(unsafe { place.read_unaligned() })
    }

    /// `count` values. Of none the pointer may be NULL.
    pub(crate) fn read_all(&self, count: u32) -> Result<Vec<T>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let first = NonNull::new(self.0.cast_mut()).ok_or(Errno::INVAL)?;
        // SAFETY: C promises `count` values there, and any bytes are a `T`.
        Ok((0..count as usize).map(|index| unsafe { first.add(index).read_unaligned() }).collect())
    }
}

/// A descriptor that stays C's.
#[repr(transparent)]
pub(crate) struct Descriptor(RawFd);

impl Descriptor {
    pub(crate) fn borrow(&self) -> Result<BorrowedFd<'_>> {
        if self.0 < 0 {
            return Err(Errno::BADF);
        }
        // SAFETY: it is not -1. C promises an open descriptor; of a number that is none the kernel says so.
        Ok(unsafe { BorrowedFd::borrow_raw(self.0) })
    }
}

/// Room for as many values as another argument says.
#[repr(transparent)]
pub(crate) struct Room<T>(*mut T);

impl<T: Plain> Room<T> {
    /// Room for `count` values is there. For none the pointer may be NULL.
    pub(crate) fn check(&self, count: u32) -> Result<()> {
        if count > 0 && self.0.is_null() { Err(Errno::INVAL) } else { Ok(()) }
    }

    /// What is there already.
    pub(crate) fn read_all(&self, count: u32) -> Result<Vec<T>> {
        In(self.0.cast_const()).read_all(count)
    }

    /// Puts `values` there, no more than there is room for.
    pub(crate) fn fill(&self, values: &[T]) -> Result<()> {
        if !values.is_empty() {
            self.check(1)?;
            let (from, bytes) = (values.as_ptr().cast::<u8>(), size_of_val(values));
            // SAFETY: C promises room for these values, which the caller has compared with the argument that says how
            // many; it is C's memory, so it does not overlap with a slice of ours.
            unsafe { from.copy_to_nonoverlapping(self.0.cast::<u8>(), bytes) };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    #[test]
    fn null_is_einval_wherever_something_must_be() {
        assert_eq!(Handle::<u8>(ptr::null()).get(), Err(Errno::INVAL));
        assert!(Handle::<Mutex<u8>>(ptr::null()).lock().is_err());
        assert!(Out::<u8>(ptr::null_mut()).check().is_err());
        assert!(Owner::<u8>(ptr::null_mut()).handle().is_err());
        let mut null = ptr::null();
        assert!(Owner::<u8>(&raw mut null).destroy().is_err());
        assert_eq!(In::<u8>(ptr::null()).read(), Err(Errno::INVAL));
        assert_eq!(In::<u8>(ptr::null()).read_all(1), Err(Errno::INVAL));
        assert_eq!(Room::<u8>(ptr::null_mut()).check(1), Err(Errno::INVAL));
    }

    #[test]
    fn no_values_need_no_place() {
        assert_eq!(In::<u8>(ptr::null()).read_all(0), Ok(vec![]));
        assert_eq!(Room::<u8>(ptr::null_mut()).check(0), Ok(()));
        assert_eq!(Room::<u8>(ptr::null_mut()).fill(&[]), Ok(()));
    }

    #[test]
    fn unaligned_data_is_read_and_written() {
        let bytes: Vec<u8> = (0..17).collect();
        let unaligned = bytes[1..].as_ptr().cast::<u64>();
        let value = u64::from_ne_bytes([1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(In(unaligned).read(), Ok(value));
        assert_eq!(In(unaligned).read_all(2).unwrap()[0], value);
        let mut room = [0_u8; 17];
        Room(room[1..].as_mut_ptr().cast::<u64>()).fill(&[value]).unwrap();
        assert_eq!(room[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 0]);
    }

    #[test]
    fn an_object_goes_out_is_used_by_one_at_a_time_and_comes_back() {
        let mut handle = ptr::null();
        Out(&raw mut handle).check().unwrap().set_new(Mutex::new(5));
        let (first, second) = (Handle(handle), Handle(handle));
        let guard = first.lock().unwrap();
        assert_eq!(*guard, 5);
        assert_eq!(second.lock().map(drop), Err(Errno::BUSY));
        drop(guard);
        assert!(second.lock().is_ok());
        Owner(&raw mut handle).destroy().unwrap();
        assert!(handle.is_null());
    }
}
