//! A device that adds. The guest hands it two operands, reads their sum, and shows what it has read.
//!
//! The device adds and the guest only carries bytes to and fro: the code below, which KVM and the mock execute alike.

use plugin_sdk::{AddressSpace, Connection, Error, Event, GuestMemory, MemoryFlags};

/// The device's ports, one byte each.
mod port {
    /// Written: an operand. The device keeps the last two.
    pub(crate) const OPERAND: u64 = 0x10;
    /// Read: the sum of the two operands.
    pub(crate) const SUM: u64 = 0x11;
    /// Written: the sum, as the guest has received it.
    pub(crate) const SHOW: u64 = 0x12;
    /// Written: the guest is done.
    pub(crate) const DONE: u64 = 0x13;
}

/// What the guest executes: real-mode code.
#[rustfmt::skip]
const GUEST_CODE: [u8; 26] = [
    0xb0, 2,     // mov al, 2
    0xe6, 0x10,  // out OPERAND, al
    0xb0, 3,     // mov al, 3
    0xe6, 0x10,  // out OPERAND, al
    0xe4, 0x11,  // in al, SUM
    0xe6, 0x12,  // out SHOW, al

    0xb0, 20,    // mov al, 20
    0xe6, 0x10,  // out OPERAND, al
    0xb0, 22,    // mov al, 22
    0xe6, 0x10,  // out OPERAND, al
    0xe4, 0x11,  // in al, SUM
    0xe6, 0x12,  // out SHOW, al

    0xe6, 0x13,  // out DONE, al
];

/// Where the code lies in guest-physical memory.
const GUEST_ADDRESS: u64 = 0x1000;

fn main() -> Result<(), Error> {
    // The VMM started this process and left it one end of a socket.
    let mut connection = Connection::from_env()?;

    // The VM has no memory but what the plugin gives it.
    let memory = GuestMemory::new(0x10000)?;
    memory.write(GUEST_ADDRESS, &GUEST_CODE)?;
    let _mapped = connection.map_memory(&memory, 0..memory.size(), 0, MemoryFlags::default())?;

    // From here on, accesses to these ports are ours.
    connection.reserve_range(AddressSpace::Pio, port::OPERAND, 4)?;

    // Each vCPU has a channel of its own; this example serves the first.
    let mut vcpus = connection.vcpus()?;
    connection.start()?;
    let vcpu = &mut vcpus[0];

    let mut operands = [0u8; 2];
    loop {
        match vcpu.wait()? {
            // Before the first instruction: say where it is. Real-mode code at an address below 64 KiB is reached with
            // the code segment at 0.
            Event::Init(mut init) => {
                let mut sregs = init.state().sregs()?;
                sregs.cs.base = 0;
                sregs.cs.selector = 0;
                init.state().set_sregs(&sregs);
                let mut regs = init.state().regs()?;
                regs.rip = GUEST_ADDRESS;
                init.state().set_regs(&regs);
                init.resume()?;
            }
            // The guest is stopped at its `in` until it has the answer.
            Event::Read(read) => {
                let mut answer = vec![0; read.access().length];
                if read.access().address == port::SUM {
                    answer[0] = operands[0].wrapping_add(operands[1]);
                }
                read.answer(&answer)?;
            }
            // The guest is stopped at its `out` until it is resumed.
            Event::Write(write) => {
                let value = write.data()[0];
                match write.access().address {
                    port::OPERAND => operands = [operands[1], value],
                    port::SHOW => println!("{} + {} = {value}", operands[0], operands[1]),
                    // When the plugin returns, the VM ends.
                    port::DONE => return Ok(()),
                    _ => {}
                }
                write.resume()?;
            }
            // Nothing else comes here. An event that is only dropped would be reported again and again.
            other => other.resume()?,
        }
    }
}
