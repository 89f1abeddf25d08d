//! Shifts and rotates.
//!
//! A count is taken modulo 32, of 8 bytes modulo 64, and 0 changes nothing. OF is defined for a count of 1 only; for others it is what the same
//! rule makes of the last step. AF of a shift is undefined, and 0 here.

use iced_x86::{Instruction, Mnemonic};

use super::super::exception::Result;
use super::super::flags::{self, CF, OF};
use super::super::operands::{Use, width};
use super::super::regs::{Regs, mask, sign_bit, signed};
use super::super::{Exec, Handler};

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Shl | Mnemonic::Sal => |exec, instruction| shift(exec, instruction, shl),
        Mnemonic::Shr => |exec, instruction| shift(exec, instruction, shr),
        Mnemonic::Sar => |exec, instruction| shift(exec, instruction, sar),
        Mnemonic::Rol => |exec, instruction| shift(exec, instruction, rol),
        Mnemonic::Ror => |exec, instruction| shift(exec, instruction, ror),
        Mnemonic::Rcl => |exec, instruction| shift(exec, instruction, rcl),
        Mnemonic::Rcr => |exec, instruction| shift(exec, instruction, rcr),
        Mnemonic::Shld => |exec, instruction| shift_double(exec, instruction, shld),
        Mnemonic::Shrd => |exec, instruction| shift_double(exec, instruction, shrd),
        _ => return None,
    };
    Some(handler)
}

/// Value, count from 1 to 31, width.
type Shift = fn(&mut Regs, u64, u32, u32) -> u64;

fn shift(exec: &mut Exec, instruction: &Instruction, make: Shift) -> Result<()> {
    let width = width(instruction, 0);
    let place = exec.place(instruction, 0, width, Use::Write)?;
    let count = exec.value(instruction, 1, 1)? as u32 & count_mask(width);
    let value = exec.get(place, width)?;
    let result = if count == 0 { value } else { make(&mut exec.state.regs, value, count, width) };
    exec.set(place, width, result)
}

/// OF is whether the sign has changed by the last step.
fn set_carry_and_overflow(regs: &mut Regs, carry: bool, overflow: bool) {
    regs.put(CF, carry);
    regs.put(OF, overflow);
}

fn after_shift(regs: &mut Regs, result: u64, width: u32, carry: bool, overflow: bool) -> u64 {
    regs.replace(flags::STATUS, flags::of_result(result, width));
    set_carry_and_overflow(regs, carry, overflow);
    result
}

fn is_negative(value: u64, width: u32) -> bool {
    value & sign_bit(width) != 0
}

fn shl(regs: &mut Regs, value: u64, count: u32, width: u32) -> u64 {
    let wide = u128::from(value) << count;
    let (result, carry) = (wide as u64 & mask(width), wide >> (8 * width) & 1 != 0);
    after_shift(regs, result, width, carry, is_negative(result, width) != carry)
}

fn shr(regs: &mut Regs, value: u64, count: u32, width: u32) -> u64 {
    let (result, carry) = (value >> count, value >> (count - 1) & 1 != 0);
    // Before the last step the sign was what the highest bit of the result's neighbour is now.
    let overflow = is_negative(value >> (count - 1), width);
    after_shift(regs, result, width, carry, overflow)
}

fn sar(regs: &mut Regs, value: u64, count: u32, width: u32) -> u64 {
    let value = signed(value, width);
    let (result, carry) = ((value >> count) as u64 & mask(width), value >> (count - 1) & 1 != 0);
    after_shift(regs, result, width, carry, false)
}

fn rol(regs: &mut Regs, value: u64, count: u32, width: u32) -> u64 {
    let bits = 8 * width;
    let step = count % bits;
    let result = if step == 0 { value } else { (value << step | value >> (bits - step)) & mask(width) };
    let carry = result & 1 != 0;
    set_carry_and_overflow(regs, carry, is_negative(result, width) != carry);
    result
}

fn ror(regs: &mut Regs, value: u64, count: u32, width: u32) -> u64 {
    let bits = 8 * width;
    let step = count % bits;
    let result = if step == 0 { value } else { (value >> step | value << (bits - step)) & mask(width) };
    let carry = is_negative(result, width);
    set_carry_and_overflow(regs, carry, carry != is_negative(result << 1, width));
    result
}

/// A rotate by way of the carry has one bit more.
fn rcl(regs: &mut Regs, value: u64, count: u32, width: u32) -> u64 {
    let bits = 8 * width + 1;
    let step = count % bits;
    let all = u128::from(regs.has(CF)) << (bits - 1) | u128::from(value);
    let turned = if step == 0 { all } else { all << step | all >> (bits - step) };
    let (result, carry) = (turned as u64 & mask(width), turned >> (bits - 1) & 1 != 0);
    set_carry_and_overflow(regs, carry, is_negative(result, width) != carry);
    result
}

fn rcr(regs: &mut Regs, value: u64, count: u32, width: u32) -> u64 {
    let bits = 8 * width + 1;
    let step = count % bits;
    let all = u128::from(regs.has(CF)) << (bits - 1) | u128::from(value);
    let turned = if step == 0 { all } else { all >> step | all << (bits - step) };
    let (result, carry) = (turned as u64 & mask(width), turned >> (bits - 1) & 1 != 0);
    set_carry_and_overflow(regs, carry, is_negative(result, width) != is_negative(result << 1, width));
    result
}

/// Value, what is shifted in, count from 1 to 31, width.
type DoubleShift = fn(&mut Regs, u64, u64, u32, u32) -> u64;

fn shift_double(exec: &mut Exec, instruction: &Instruction, make: DoubleShift) -> Result<()> {
    let width = width(instruction, 0);
    let place = exec.place(instruction, 0, width, Use::Write)?;
    let filler = exec.value(instruction, 1, width)?;
    let count = exec.value(instruction, 2, 1)? as u32 & count_mask(width);
    let value = exec.get(place, width)?;
    let result = if count == 0 { value } else { make(&mut exec.state.regs, value, filler, count, width) };
    exec.set(place, width, result)
}

/// Of 2 bytes a count above 16 is undefined. Processors then continue with the value itself after the filler.
fn shld(regs: &mut Regs, value: u64, filler: u64, count: u32, width: u32) -> u64 {
    let shifted = |count| shift_left_in(value, filler, count, width);
    let (result, before) = (shifted(count), shifted(count - 1));
    let carry = is_negative(before, width);
    after_shift(regs, result, width, carry, is_negative(result, width) != is_negative(before, width))
}

fn shrd(regs: &mut Regs, value: u64, filler: u64, count: u32, width: u32) -> u64 {
    let shifted = |count| shift_right_in(value, filler, count, width);
    let (result, before) = (shifted(count), shifted(count - 1));
    after_shift(regs, result, width, before & 1 != 0, is_negative(result, width) != is_negative(before, width))
}

/// Two values of `width` bytes in a row.
fn in_a_row(high: u64, low: u64, width: u32) -> u128 {
    u128::from(high) << (8 * width) | u128::from(low)
}

/// The value after `count` bits of the filler, and then of the value again, have come in from below.
fn shift_left_in(value: u64, filler: u64, count: u32, width: u32) -> u64 {
    let bits = 8 * width;
    let line = if count < bits { in_a_row(value, filler, width) } else { in_a_row(filler, value, width) };
    (line << (count % bits) >> bits) as u64 & mask(width)
}

/// The same from above.
fn shift_right_in(value: u64, filler: u64, count: u32, width: u32) -> u64 {
    let bits = 8 * width;
    let line = if count < bits { in_a_row(filler, value, width) } else { in_a_row(value, filler, width) };
    (line >> (count % bits)) as u64 & mask(width)
}

/// How much of a count counts.
fn count_mask(width: u32) -> u32 {
    if width == 8 { 63 } else { 31 }
}

#[cfg(test)]
mod tests {
    use kvm_bindings::kvm_regs;

    use super::*;

    fn after(make: Shift, value: u64, count: u32, width: u32, carry: bool) -> (u64, bool, bool) {
        let mut regs = Regs::from(&kvm_regs { rflags: carry.into(), ..Default::default() });
        let result = make(&mut regs, value, count, width);
        (result, regs.has(CF), regs.has(OF))
    }

    #[test]
    fn single_steps_have_result_carry_and_overflow_of_the_manual() {
        for (make, value, width, carry, expected) in [
            (shl as Shift, 0xc0, 1, false, (0x80, true, false)),
            (shl, 0x40, 1, false, (0x80, false, true)),
            (shr, 0x81, 1, false, (0x40, true, true)),
            (sar, 0x81, 1, false, (0xc0, true, false)),
            (rol, 0x80, 1, false, (0x01, true, true)),
            (ror, 0x01, 1, false, (0x80, true, true)),
            (rcl, 0x80, 1, true, (0x01, true, true)),
            (rcr, 0x01, 1, true, (0x80, true, true)),
            (shl, 0x8000_0000, 4, false, (0, true, true)),
            (rcr, 0x8000, 2, false, (0x4000, false, true)),
            (rcl, 1 << 63, 8, true, (1, true, true)),
            (sar, 1 << 63, 8, false, (3 << 62, false, false)),
        ] {
            assert_eq!(after(make, value, 1, width, carry), expected, "{value:#x}");
        }
    }

    #[test]
    fn a_rotate_by_its_width_keeps_the_value_and_sets_the_carry() {
        assert_eq!(after(rol, 0x81, 8, 1, false).0, 0x81);
        assert!(after(rol, 0x81, 8, 1, false).1);
        assert_eq!(after(rcl, 0x81, 9, 1, true), (0x81, true, false));
        assert_eq!(after(rcr, 0x1234, 17, 2, false).0, 0x1234);
    }

    #[test]
    fn counts_beyond_the_width_shift_everything_out() {
        assert_eq!(after(shl, 0xff, 9, 1, false).0, 0);
        assert_eq!(after(shr, 0xffff, 31, 2, false).0, 0);
        assert_eq!(after(sar, 0x80, 31, 1, false).0, 0xff);
    }

    #[test]
    fn double_shifts_fill_from_the_second_operand() {
        let mut regs = Regs::from(&kvm_regs::default());
        assert_eq!(shld(&mut regs, 0x1234, 0xabcd, 4, 2), 0x234a);
        assert_eq!(shrd(&mut regs, 0x1234, 0xabcd, 4, 2), 0xd123);
        assert_eq!(shld(&mut regs, 0x1234_5678, 0x9abc_def0, 8, 4), 0x3456_789a);
        assert_eq!(shrd(&mut regs, 0x1234_5678, 0x9abc_def0, 8, 4), 0xf012_3456);
        assert_eq!(shld(&mut regs, 0x1234, 0xabcd, 20, 2), 0xbcd1);
        assert_eq!(shrd(&mut regs, 0x1234, 0xabcd, 20, 2), 0x4abc);
        assert_eq!(shld(&mut regs, 1, 1 << 63, 1, 8), 3);
        assert_eq!(shrd(&mut regs, 1 << 63, 1, 63, 8), 3);
    }
}
