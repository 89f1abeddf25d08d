//! The plugin author's side: a safe Rust API for Outboard plugins.
//!
//! A plugin is a process that the VMM starts and that owns the VM's memory, devices and first vCPU state. It connects,
//! gives the guest memory, reserves the addresses of its devices, sets the vCPUs' registers, and from then on answers the
//! guest's accesses, each on the thread of the vCPU that made it.
//!
//! - [`Connection`] asks for things of the VM as a whole.
//! - [`GuestMemory`] is memory that plugin and guest share.
//! - [`Vcpu`] reports [`Event`]s. While one is held its vCPU is stopped and its [`State`] can be read and changed.
//! - [`IoEvent`] and [`IrqEvent`] are eventfds that the guest signals, or that interrupt it, without an event of a vCPU.
//!
//! What must not be done does not compile: an event that was resumed is gone, and with it the way to the vCPU's state; a
//! posted write cannot be resumed, since it has no vCPU; an object that was destroyed is gone too.
//!
//! [`from_c`] tells what stands for each function of the C API.
//!
//! # A whole plugin
//!
//! Its guest is five bytes of real-mode code that write a byte to a port and read it back, plus one, for ever.
//!
//! ```no_run
//! use plugin_sdk::{AddressSpace, Connection, Error, Event, GuestMemory, MemoryFlags, Vcpu};
//!
//! const PORT: u64 = 0x10;
//!
//! // out 0x10, al; in al, 0x10; jmp back to the start
//! const GUEST: [u8; 6] = [0xe6, 0x10, 0xe4, 0x10, 0xeb, 0xfa];
//! const GUEST_ADDRESS: u64 = 0x1000;
//!
//! fn main() -> Result<(), Error> {
//!     let mut connection = Connection::from_env()?;
//!
//!     let memory = GuestMemory::new(0x10000)?;
//!     memory.write(GUEST_ADDRESS, &GUEST)?;
//!     let _mapped =
//!         connection.map_memory(&memory, 0..memory.size(), 0, MemoryFlags::default())?;
//!     connection.reserve_range(AddressSpace::Pio, PORT, 1)?;
//!
//!     let vcpus = connection.vcpus()?;
//!     connection.start()?;
//!     let threads: Vec<_> = vcpus
//!         .into_iter()
//!         .map(|vcpu| std::thread::spawn(|| run(vcpu)))
//!         .collect();
//!     for thread in threads {
//!         thread.join().expect("a vCPU's thread does not panic")?;
//!     }
//!     Ok(())
//! }
//!
//! fn run(mut vcpu: Vcpu) -> Result<(), Error> {
//!     let mut last = 0u8;
//!     loop {
//!         let event = match vcpu.wait() {
//!             Err(Error::Disconnected) => return Ok(()),
//!             event => event?,
//!         };
//!         match event {
//!             Event::Init(mut init) => {
//!                 let mut sregs = init.state().sregs()?;
//!                 sregs.cs.base = 0;
//!                 sregs.cs.selector = 0;
//!                 init.state().set_sregs(&sregs);
//!                 let mut regs = init.state().regs()?;
//!                 regs.rip = GUEST_ADDRESS;
//!                 init.state().set_regs(&regs);
//!                 init.resume()?;
//!             }
//!             Event::Write(write) => {
//!                 last = write.data()[0];
//!                 write.resume()?;
//!             }
//!             Event::Read(read) => read.answer(&[last.wrapping_add(1)])?,
//!             other => other.resume()?,
//!         }
//!     }
//! }
//! ```
//!
//! # The end
//!
//! When the VM ends, the eventfd of [`Connection::shutdown_eventfd`] becomes readable, and about a second later the VMM
//! closes every channel: calls then fail with [`Error::Disconnected`]. A plugin that returns from `main` ends the VM.
//!
//! Where a vCPU's requests go through a pipe, writing after the VMM's end raises `SIGPIPE`. Rust programs ignore that
//! signal from their start, so the write fails with [`Error::Disconnected`] instead. A program whose `main` is not Rust's must
//! ignore it itself.
//!
//! # System calls
//!
//! Talking to the VMM takes `sendmsg`, `recvmsg`, `read`, `write`, `close`, `futex`, `sched_yield` and memory management, and nothing
//! else, so a plugin may lock itself down to those. Making [`GuestMemory`] takes more, and is best done first. In builds with debug
//! assertions the standard library also asks, by `fcntl`, whether a descriptor is open when it closes it.

mod address;
mod call_hint;
mod connection;
mod cpuid;
mod env;
mod error;
mod event;
mod eventfd;
#[doc = include_str!("from_c.md")]
pub mod from_c {}
mod fpu;
mod hints;
mod io_event;
mod irq_event;
mod irqs;
mod machine_state;
mod mapping;
mod memory;
mod net;
mod objects;
mod pipe_link;
mod ranges;
mod redelivery;
mod registers;
mod ring_link;
mod state;
mod system;
mod transport;
mod vcpu;

pub use address::{Access, AddressSpace};
pub use call_hint::{CallHint, Direction, HintDetail};
pub use connection::Connection;
pub use error::Error;
pub use event::{Event, HypervCall, HypervCallInput, HypervSynic, Paused, Posted, Read, Stopped, SynicWrite, Write};
pub use io_event::{IoEvent, WriteMatch};
pub use irq_event::IrqEvent;
pub use irqs::{Irqchip, Pic, Route, RouteTarget};
/// The kernel's structures.
pub use kvm_bindings::{
    kvm_clock_data, kvm_cpuid_entry2, kvm_debugregs, kvm_fpu, kvm_ioapic_state, kvm_lapic_state, kvm_mp_state,
    kvm_msr_entry, kvm_pic_state, kvm_pit_state2, kvm_regs, kvm_segment, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
pub use mapping::{MappedMemory, MemoryFlags};
pub use memory::{GuestMemory, PAGE_SIZE};
pub use net::NetConfig;
pub use state::{Capability, State};
pub use vcpu::Vcpu;
