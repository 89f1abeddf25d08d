//! Single instructions, executed by the interpreter and by the host itself: operands, exceptions masked and unmasked, stack and
//! tags. What the arithmetic gives is the host's in both, so that is compared with software elsewhere.
#![allow(unsafe_code, reason = "the host executes generated machine code")]

use std::cell::RefCell;
use std::ptr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use proptest::prelude::*;

use super::every::{encodings, is_meant};
use super::hostile::registers;
use super::values::runner;
use super::*;

/// What the host's code works on, at the offsets that are in it.
#[repr(C, align(64))]
struct Context {
    before: [u8; 512],
    after: [u8; 512],
    /// RAX, RCX, RDX, the operand's address, RFLAGS, and nothing, up to an aligned address.
    regs: [u64; 8],
    memory: [u8; 1024],
}

/// Where the host's code begins, where the instruction under test ends, and which exception it has raised.
static BEGIN: AtomicU64 = AtomicU64::new(0);
static END: AtomicU64 = AtomicU64::new(0);
static VECTOR: AtomicI64 = AtomicI64::new(-1);

/// Continues behind the instruction that raised an exception. Any other code's is its own.
extern "C" fn on_fault(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands a handler its context.
    let gregs = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let (begin, end) = (BEGIN.load(Ordering::SeqCst), END.load(Ordering::SeqCst));
    if !(begin..end).contains(&(gregs[libc::REG_RIP as usize] as u64)) {
        // SAFETY: the instruction is executed again, and then ends the process.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    }
    VECTOR.store(gregs[libc::REG_TRAPNO as usize], Ordering::SeqCst);
    gregs[libc::REG_RIP as usize] = end as i64;
}

/// The handler of a signal, until it is dropped.
struct Handler(i32, libc::sigaction);

impl Handler {
    fn new(signal: i32) -> Self {
        // SAFETY: a zeroed sigaction is one, and the handler only changes its context.
        unsafe {
            let (mut action, mut before): (libc::sigaction, libc::sigaction) = std::mem::zeroed();
            action.sa_sigaction = on_fault as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            assert_eq!(libc::sigaction(signal, &action, &mut before), 0);
            Self(signal, before)
        }
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        // SAFETY: this is what was there before.
        unsafe { libc::sigaction(self.0, &self.1, ptr::null_mut()) };
    }
}

/// An executable page.
struct Page(*mut u8);

impl Page {
    fn new() -> Option<Self> {
        let rights = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        // SAFETY: a new mapping, of nothing that exists.
        let page = unsafe { libc::mmap(ptr::null_mut(), 4096, rights, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
        (page != libc::MAP_FAILED).then_some(Self(page.cast()))
    }

    /// Executes `code` between loading and storing the state. Returns the exception it raises.
    fn run(&self, code: &[u8], context: &mut Context) -> Option<u64> {
        let mut thunk = vec![
            0x53, 0x41, 0x54, 0x57, // push rbx; push r12; push rdi
            0x49, 0x89, 0xfc, // mov r12, rdi
            0x49, 0x0f, 0xae, 0x0c, 0x24, // fxrstor64 [r12]
            0x49, 0x8b, 0x84, 0x24, 0x00, 0x04, 0, 0, // mov rax, [r12 + 0x400]
            0x49, 0x8b, 0x8c, 0x24, 0x08, 0x04, 0, 0, // mov rcx, [r12 + 0x408]
            0x49, 0x8b, 0x94, 0x24, 0x10, 0x04, 0, 0, // mov rdx, [r12 + 0x410]
            0x49, 0x8b, 0x9c, 0x24, 0x18, 0x04, 0, 0, // mov rbx, [r12 + 0x418]
            0x48, 0x89, 0xdf, // mov rdi, rbx
            0x41, 0xff, 0xb4, 0x24, 0x20, 0x04, 0, 0,    // push [r12 + 0x420]
            0x9d, // popfq
        ];
        thunk.extend(code);
        END.store(self.0 as u64 + thunk.len() as u64, Ordering::SeqCst);
        thunk.extend([
            0x9c, // pushfq
            0x41, 0x8f, 0x84, 0x24, 0x20, 0x04, 0, 0, // pop [r12 + 0x420]
            0x49, 0x89, 0x84, 0x24, 0x00, 0x04, 0, 0, // mov [r12 + 0x400], rax
            0x49, 0x89, 0x8c, 0x24, 0x08, 0x04, 0, 0, // mov [r12 + 0x408], rcx
            0x49, 0x89, 0x94, 0x24, 0x10, 0x04, 0, 0, // mov [r12 + 0x410], rdx
            0x49, 0x0f, 0xae, 0x84, 0x24, 0x00, 0x02, 0, 0, // fxsave64 [r12 + 0x200]
            0xdb, 0xe3, // fninit
            0x68, 0x80, 0x1f, 0, 0, // push 0x1f80
            0x0f, 0xae, 0x14, 0x24, // ldmxcsr [rsp]
            0x58, // pop rax
            0x5f, 0x41, 0x5c, 0x5b, 0xc3, // pop rdi; pop r12; pop rbx; ret
        ]);
        VECTOR.store(-1, Ordering::SeqCst);
        // SAFETY: the page holds the code, a function of the C ABI but for the vector registers, which the compiler takes for
        // clobbered by any call. The instruction touches these registers and the context's memory alone.
        unsafe {
            ptr::copy_nonoverlapping(thunk.as_ptr(), self.0, thunk.len());
            let function: extern "C" fn(*mut Context) = std::mem::transmute(self.0);
            function(context);
        }
        u64::try_from(VECTOR.load(Ordering::SeqCst)).ok()
    }
}

/// Whether its general registers are RAX, RCX and RDX, and it stores no address of its own.
fn can_run_here(instruction: &Instruction) -> bool {
    use Mnemonic::{Fnsave, Fnstenv, Fxsave, Fxsave64};
    let free = [Register::RAX, Register::RCX, Register::RDX];
    let is_free = |operand| {
        let register = instruction.op_register(operand);
        !register.is_gpr()
            || free.contains(&register.full_register())
            || instruction.op_kind(operand) != OpKind::Register
    };
    is_meant(instruction.code())
        && (0..instruction.op_count()).all(is_free)
        && !matches!(instruction.mnemonic(), Fnsave | Fnstenv | Fxsave | Fxsave64)
        && instruction.code() != Code::INVALID
}

#[test]
fn single_instructions_do_what_the_host_does() {
    let Some(page) = Page::new() else {
        println!("skipped single_instructions_do_what_the_host_does: no page is executable");
        return;
    };
    BEGIN.store(page.0 as u64, Ordering::SeqCst);
    let _handlers = [libc::SIGFPE, libc::SIGSEGV].map(Handler::new);
    let machine = RefCell::new(long_machine());
    let codes: Vec<Vec<u8>> = encodings()
        .filter_map(|bytes| {
            let instruction = Decoder::new(64, &bytes, DecoderOptions::NONE).decode();
            can_run_here(&instruction).then(|| bytes[..instruction.len()].to_vec())
        })
        .collect();
    let cases = (0..codes.len(), any::<u64>(), any::<[u16; 3]>(), any::<u8>(), any::<[bool; 4]>());
    let result = runner().run(&cases, |(index, seed, [control, status, mxcsr], tags, [masked, quiet, full, off])| {
        let machine = &mut *machine.borrow_mut();
        let code = &codes[index];
        let registers = registers(seed);
        // Often all is masked, nothing pending and no register empty.
        let control = if masked { control | 0x3f } else { control };
        let status = if quiet { status & 0xff00 } else { status };
        let mxcsr = if masked { mxcsr | 0x1f80 } else { mxcsr };
        let tags = if full { 0xff } else { tags };
        let offset = if off { 4 } else { 0 };

        let mut memory = [registers.concat(), registers.concat()].concat();
        memory[24 + offset..28 + offset].copy_from_slice(&u32::from(mxcsr).to_le_bytes());
        machine.write(DATA, &memory);
        set_mxcsr(machine, mxcsr.into());
        set_fpu(machine, |fpu| {
            (fpu.fcw, fpu.fsw, fpu.ftwx) = (control, status, tags);
            fpu.fpr.copy_from_slice(&registers[..8]);
            fpu.fpr.iter_mut().for_each(|register| register[10..].fill(0));
            fpu.xmm.copy_from_slice(&registers[8..24]);
        });
        let numbers: [u64; 3] =
            std::array::from_fn(|at| u64::from_le_bytes(registers[30][at..at + 8].try_into().unwrap()));
        let address = DATA + offset as u64;
        let rflags = 0x202 | u64::from(control) & super::super::STATUS;
        machine.set(|regs| {
            [regs.rax, regs.rcx, regs.rdx] = numbers;
            (regs.rbx, regs.rdi, regs.rflags) = (address, address, rflags);
        });

        let before = fpu(machine);
        let mut context = Context { before: [0; 512], after: [0; 512], regs: [0; 8], memory: [0; 1024] };
        context.before[0..2].copy_from_slice(&before.fcw.to_le_bytes());
        context.before[2..4].copy_from_slice(&before.fsw.to_le_bytes());
        context.before[4] = before.ftwx;
        context.before[24..28].copy_from_slice(&u32::from(mxcsr).to_le_bytes());
        context.before[32..160].copy_from_slice(&before.fpr.concat());
        context.before[160..416].copy_from_slice(&before.xmm.concat());
        context.memory.copy_from_slice(&memory);
        let here = context.memory.as_ptr() as u64 + offset as u64;
        context.regs = [numbers[0], numbers[1], numbers[2], here, rflags, 0, 0, 0];
        let vector = page.run(code, &mut context);

        let end = execute(machine, code);
        let (regs, after) = (machine.regs(), fpu(machine));
        let about = format!("{code:02x?}, control {control:#x}, status {status:#x}, mxcsr {mxcsr:#x}, tags {tags:#x}");
        prop_assert_eq!(end, vector.map_or(End::Done, End::Exception), "{}", about);
        prop_assert_eq!(&[regs.rax, regs.rcx, regs.rdx], &context.regs[..3], "{}", about);
        if vector.is_none() {
            prop_assert_eq!(regs.rflags & 0x8d5, context.regs[4] & 0x8d5, "{}", about);
        }
        prop_assert_eq!(&machine.read::<1024>(DATA)[..], &context.memory[..], "{}", about);
        let word = |at: usize| u16::from_le_bytes([context.after[at], context.after[at + 1]]);
        prop_assert_eq!((after.fcw, after.fsw), (word(0), word(2)), "{}", about);
        prop_assert_eq!(u16::from(after.ftwx), word(4) & 0xff, "{}", about);
        prop_assert_eq!(after.fpr.concat(), &context.after[32..160], "{}", about);
        prop_assert_eq!(after.xmm.concat(), &context.after[160..416], "{}", about);
        prop_assert_eq!(super::mxcsr(machine) as u16, word(24), "{}", about);
        Ok(())
    });
    result.unwrap();
}
