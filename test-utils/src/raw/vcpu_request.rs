//! The vCPU requests, with the numbers of the protocol's table of messages.

use super::Message;

/// `VcpuRequest.StateSet`, with the size of the kernel's structure: `kvm_regs`.
pub const REGS: (u64, usize) = (0, 144);
/// `kvm_sregs`.
pub const SREGS: (u64, usize) = (1, 312);
/// `kvm_fpu`.
pub const FPU: (u64, usize) = (2, 416);
/// `kvm_debugregs`.
pub const DEBUGREGS: (u64, usize) = (3, 128);
/// `kvm_lapic_state`.
pub const LAPIC: (u64, usize) = (4, 1024);
/// `kvm_mp_state`.
pub const MP: (u64, usize) = (5, 4);
/// `kvm_xcrs`.
pub const XCREGS: (u64, usize) = (6, 392);
/// `kvm_vcpu_events`.
pub const EVENTS: (u64, usize) = (7, 64);

/// `sregs` and `regs` of a vCPU that begins at `entry` in real mode, from the `sregs` it had.
pub fn real_mode(mut sregs: Vec<u8>, entry: u64) -> [Vec<u8>; 2] {
    // CS comes first: base, limit, selector.
    sregs[0..8].fill(0);
    sregs[12..14].fill(0);
    // RIP and RFLAGS come behind 16 registers.
    let mut regs = vec![0; REGS.1];
    regs[128..136].copy_from_slice(&entry.to_le_bytes());
    regs[136] = 2;
    [sregs, regs]
}

/// The number of the answer's field for a request's; `resume` and `shutdown` have none. `wait` is 1 and 2, all others have
/// the next but for the one that `resume` would have had.
pub fn answer_field(request: u32) -> Option<u32> {
    match request {
        1 => Some(2),
        3..=7 => Some(request + 1),
        9 | 10 => Some(request),
        _ => None,
    }
}

fn request(field: u32, body: Message) -> Message {
    Message::new().message(field, &body)
}

/// `wait`.
pub fn wait() -> Message {
    request(1, Message::new())
}

/// `resume` with nothing.
pub fn resume() -> Message {
    request(2, Message::new())
}

/// `resume` with what a read returns.
pub fn answer(data: &[u8]) -> Message {
    request(2, Message::new().bytes(1, data))
}

/// `resume` with data, `regs` and `sregs`.
pub fn resume_with(data: &[u8], regs: &[u8], sregs: &[u8]) -> Message {
    request(2, Message::new().bytes(1, data).bytes(2, regs).bytes(3, sregs))
}

/// `resume` with `debugregs`.
pub fn resume_with_debugregs(debugregs: &[u8]) -> Message {
    request(2, Message::new().bytes(4, debugregs))
}

/// `get_state`.
pub fn get_state(set: u64) -> Message {
    request(3, Message::new().uint(1, set))
}

/// `set_state`.
pub fn set_state(set: u64, state: &[u8]) -> Message {
    request(4, Message::new().uint(1, set).bytes(2, state))
}

/// `get_msrs`.
pub fn get_msrs(indices: &[u32]) -> Message {
    request(5, Message::new().packed(1, indices.iter().map(|index| u64::from(*index))))
}

/// `set_msrs`.
pub fn set_msrs(entries: &[(u32, u64)]) -> Message {
    let entry = |(index, data): &(u32, u64)| Message::new().uint(1, (*index).into()).uint(2, *data);
    request(6, entries.iter().fold(Message::new(), |body, pair| body.message(1, &entry(pair))))
}

/// A `CpuidEntry`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidEntry {
    /// The leaf.
    pub function: u32,
    /// The subleaf, where the leaf has some.
    pub index: Option<u32>,
    /// EAX, EBX, ECX, EDX.
    pub values: [u32; 4],
}

impl CpuidEntry {
    /// The entry as a message.
    pub fn message(&self) -> Message {
        let mut body = Message::new().uint(1, self.function.into());
        if let Some(index) = self.index {
            body = body.uint(3, 1).uint(4, index.into());
        }
        (5..).zip(self.values).fold(body, |body, (field, value)| body.uint(field, value.into()))
    }

    /// The entry in a message that came.
    pub fn parse(fields: &super::Fields) -> Self {
        let number = |field| fields.uint(field) as u32;
        Self {
            function: number(1),
            index: (number(3) != 0).then(|| number(4)),
            values: [number(5), number(6), number(7), number(8)],
        }
    }
}

/// `set_cpuid`.
pub fn set_cpuid(entries: &[CpuidEntry]) -> Message {
    request(7, entries.iter().fold(Message::new(), |body, entry| body.message(1, &entry.message())))
}

/// `shutdown`.
pub fn shutdown() -> Message {
    request(8, Message::new())
}

/// `get_hyperv_cpuid`.
pub fn get_hyperv_cpuid() -> Message {
    request(9, Message::new())
}

/// `enable_capability`.
pub fn enable_capability(capability: u32) -> Message {
    request(10, Message::new().uint(1, capability.into()))
}
