//! A memory-mapped counter that interrupts. At each interrupt the guest reads the counter and tells the device what it
//! has read, at which the device counts on and interrupts again.
//!
//! The interrupt goes by an eventfd straight to the interrupt controller, on KVM the kernel's. The guest takes it through
//! its vector table.

use plugin_sdk::{AddressSpace, Connection, Error, Event, GuestMemory, IrqEvent, MemoryFlags};

/// The device: two registers of 4 bytes, in memory that real-mode code reaches.
mod register {
    pub(crate) const BASE: u64 = 0xd0000;
    pub(crate) const LENGTH: u64 = 8;
    /// Read: the counter.
    pub(crate) const COUNT: u64 = BASE;
    /// Written: what the guest has read; 0 at the beginning.
    pub(crate) const SEEN: u64 = BASE + 4;
}

/// The interrupt line. By the kernel's default routes it leads to pin 5 of the first 8259.
const LINE: u32 = 5;

/// How far the device counts.
const LAST: u32 = 5;

/// What the guest executes: real-mode code, to be at 0x1000.
#[rustfmt::skip]
const GUEST_CODE: [u8; 68] = [
    // The handler's address into the vector table: entry 0x25.
    0xc7, 0x06, 0x94, 0x00, 0x31, 0x10,  // mov word [0x94], 0x1031
    0xc7, 0x06, 0x96, 0x00, 0x00, 0x00,  // mov word [0x96], 0
    // The 8259: pin 0 is vector 0x20, and pin 5 alone is let through.
    0xb0, 0x11, 0xe6, 0x20,              // mov al, 0x11; out 0x20, al
    0xb0, 0x20, 0xe6, 0x21,              // mov al, 0x20; out 0x21, al
    0xb0, 0x04, 0xe6, 0x21,              // mov al, 0x04; out 0x21, al
    0xb0, 0x01, 0xe6, 0x21,              // mov al, 0x01; out 0x21, al
    0xb0, 0xdf, 0xe6, 0x21,              // mov al, 0xdf; out 0x21, al
    0xb8, 0x00, 0xd0,                    // mov ax, 0xd000
    0x8e, 0xc0,                          // mov es, ax
    0x66, 0x31, 0xc0,                    // xor eax, eax
    0x26, 0x66, 0xa3, 0x04, 0x00,        // mov [es:SEEN], eax
    0xfb,                                // sti
    0xf4,                                // wait: hlt
    0xeb, 0xfd,                          // jmp wait

    // The handler, at 0x1031.
    0x26, 0x66, 0xa1, 0x00, 0x00,        // mov eax, [es:COUNT]
    0x66, 0x89, 0xc3,                    // mov ebx, eax
    0xb0, 0x20, 0xe6, 0x20,              // mov al, 0x20; out 0x20, al: end of interrupt
    0x26, 0x66, 0x89, 0x1e, 0x04, 0x00,  // mov [es:SEEN], ebx
    0xcf,                                // iret
];

/// Where the code lies in guest-physical memory.
const GUEST_ADDRESS: u64 = 0x1000;

/// Where the guest's stack begins, downwards.
const STACK: u64 = 0x8000;

fn main() -> Result<(), Error> {
    let mut connection = Connection::from_env()?;
    let memory = GuestMemory::new(0x10000)?;
    memory.write(GUEST_ADDRESS, &GUEST_CODE)?;
    let _mapped = connection.map_memory(&memory, 0..memory.size(), 0, MemoryFlags::default())?;
    connection.reserve_range(AddressSpace::Mmio, register::BASE, register::LENGTH)?;
    let irq = connection.create_irq_event(LINE)?;

    let mut vcpus = connection.vcpus()?;
    connection.start()?;
    let vcpu = &mut vcpus[0];

    let mut count = 0u32;
    loop {
        match vcpu.wait()? {
            Event::Init(mut init) => {
                let mut sregs = init.state().sregs()?;
                sregs.cs.base = 0;
                sregs.cs.selector = 0;
                init.state().set_sregs(&sregs);
                let mut regs = init.state().regs()?;
                regs.rip = GUEST_ADDRESS;
                regs.rsp = STACK;
                init.state().set_regs(&regs);
                init.resume()?;
            }
            Event::Read(read) => {
                let mut answer = vec![0; read.access().length];
                if let (register::COUNT, Ok(bytes)) = (read.access().address, <&mut [u8; 4]>::try_from(&mut answer[..]))
                {
                    *bytes = count.to_le_bytes();
                }
                read.answer(&answer)?;
            }
            Event::Write(write) => {
                if let (register::SEEN, Ok(bytes)) = (write.access().address, write.data().try_into()) {
                    let seen = u32::from_le_bytes(bytes);
                    if seen > 0 {
                        println!("the guest has read {seen}");
                        wait_for_acknowledgement(&irq)?;
                    }
                    if seen == LAST {
                        return Ok(());
                    }
                    count = seen + 1;
                    irq.raise()?;
                }
                write.resume()?;
            }
            other => other.resume()?,
        }
    }
}

/// The kernel lowers the line and tells of it when the guest ends the interrupt. To raise a line that is still high would
/// be no new interrupt. This guest ends the interrupt before it writes, so there is nothing to wait for here.
fn wait_for_acknowledgement(irq: &IrqEvent) -> Result<(), Error> {
    irq.wait_resample()
}
