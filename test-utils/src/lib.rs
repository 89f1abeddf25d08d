//! Tests of device models, of what stands above a hypervisor, and of hypervisor backends, without a hypervisor.
//!
//! A test has a [`TestMachine`]: a virtual machine on Outboard's mock backend, which executes the guest's machine code in
//! software. The guest is a [`Program`] that the test assembles, and **a closure of the test's is all its devices**:
//!
//! ```
//! use test_utils::{Io, Program, TestMachine};
//!
//! let program = Program::new().mov(0x41).output(0x3f8, 1);
//! let run = TestMachine::new(&program).run(|io| assert_eq!(io, Io::Out(0x3f8, &[0x41])));
//! run.assert_done(0x41);
//! ```
//!
//! The closure is called on the test's own thread, once for each access, while the vCPU waits. So it may borrow what it
//! likes, and fails the test by panicking. When the guest is at its program's end the run is over, and what was in AL is the
//! guest's own verdict.
//!
//! # A device of your own
//!
//! To have a test in a crate of your own, beside a clone of Outboard, nothing else is needed:
//!
//! ```console
//! $ cargo new --lib timer && cd timer
//! $ cargo add --dev --path ../outboard/test-utils
//! $ cargo test
//! ```
//!
//! Here is a timer with four registers and an interrupt, and its whole test: that crate's `tests/timer.rs`.
//!
//! ```
//! use test_utils::asm::*;
//! use test_utils::{Io, Line, Program, Seen, TestMachine};
//!
//! /// 0x300: how far it counts. 0x301: 1 starts it. 0x302: what is left; a look at it is a tick. 0x303: 1 where it has
//! /// expired, which any write takes back.
//! struct Timer { reload: u8, left: u8, expired: bool, line: Line }
//!
//! impl Timer {
//!     fn serve(&mut self, io: Io<'_>) {
//!         match io {
//!             Io::Out(0x300, [value]) => self.reload = *value,
//!             Io::Out(0x301, [1]) => self.left = self.reload,
//!             Io::In(0x302, [value]) => {
//!                 (self.left, self.expired) = (self.left - 1, self.left == 1);
//!                 *value = self.left;
//!                 if self.expired { self.line.raise() }
//!             }
//!             Io::In(0x303, [value]) => *value = self.expired.into(),
//!             Io::Out(0x303, _) => { self.expired = false; self.line.lower() }
//!             other => panic!("the timer has no such register: {other:?}"),
//!         }
//!     }
//! }
//!
//! # /* rustdoc runs functions, not tests:
//! #[test]
//! # */
//! fn it_interrupts_when_it_has_counted_down() {
//!     let program = Program::new()
//!         .irq(5, |a| { a.mov(dx, 0x303)?; a.in_(al, dx)?; a.out(dx, al)?; a.mov(bl, al) })
//!         .mov(2).output(0x300, 1)
//!         .mov(1).output(0x301, 1)
//!         .input(0x302, 1).input(0x302, 1)
//!         .assemble(|a| { a.sti()?; a.hlt()?; a.mov(al, bl) });
//!     let machine = TestMachine::new(&program);
//!     let mut timer = Timer { reload: 0, left: 0, expired: false, line: machine.line(5) };
//!     let run = machine.run(|io| timer.serve(io));
//!     run.assert_done(1);
//!     run.assert_exits_in_order(&[Seen::In(0x302, vec![0]), Seen::In(0x303, vec![1]), Seen::Out(0x303, vec![1])]);
//!     assert!(!timer.expired);
//! }
//! # it_interrupts_when_it_has_counted_down();
//! ```
//!
//! What one needs to know to write another:
//!
//! * [`Io`] is what the guest wants: `In` and `Out` with a port, `Load` and `Store` with an address that is no RAM. The
//!   bytes of a read are zeros until the closure fills them in; as many as the instruction is wide.
//! * The program's short methods ([`mov`](Program::mov), [`input`](Program::input), [`output`](Program::output),
//!   [`load`](Program::load), [`store`](Program::store)) all use EAX. [`assemble`](Program::assemble) takes any
//!   instructions, by the functions of `iced-x86`'s assembler; the guest is in real mode. RAM ends at 0x8000, so a device in
//!   memory may lie at 0x9000; the program's own data is at [`machine::DATA`].
//! * [`irq`](Program::irq) writes an interrupt's handler. The program lets interrupts in (`sti`) and waits for them (`hlt`).
//!   The device holds a [`Line`]; a handler that does not make it lower its line is interrupted no second time.
//! * The interrupt controllers and the timer of a PC are not the test's: on KVM the ports 0x20, 0x21, 0x40 to 0x43, 0xa0 and
//!   0xa1 are in the kernel. 0x300 to 0x3ef are free.
//! * The run ends at the program's end, when a vCPU stops for good, or, failing the test, after 30 seconds without an exit.
//!   [`Run`](machine::Run) has all exits that were seen, and assertions on them whose messages can be read.
//!
//! # What else is here
//!
//! Three more examples are worked out where they belong: any exits before a device of yours, at [`strategies`]; every
//! operation of a program failing in turn, at [`faults`]; a backend of yours under the suite that KVM passes, at
//! [`conformance`].
//!
//! * [`machine`]: the machine of above, also with several vCPUs, on KVM, or with a script of exits in place of code;
//! * [`fake`]: a plugin that the test controls, and a VMM that the test plays;
//! * [`faults`]: the Nth operation of a backend, or the Nth system call, fails with a chosen errno;
//! * [`guest`]: programs that are machine code and mock script in one;
//! * [`kvm`]: KVM where it is there, and a skip that is told by name where it is not;
//! * [`log`]: the warnings that were logged;
//! * [`memory`]: sealed memfds;
//! * [`conformance`]: what any backend must do, run on mock and KVM alike;
//! * [`corpus`]: the saved inputs of the fuzz targets;
//! * [`differential`]: generated programs, on which two backends must agree;
//! * [`raw`]: a client of the plugin protocol that shares no code with this project's library;
//! * [`resources`]: what a process holds, for tests that nothing leaks;
//! * [`strategies`]: proptest strategies for exits, for messages, and for whole conversations;
//! * [`wait`]: waiting for something with a limit that fails loudly.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helper fails the test by panicking")]

pub mod conformance;
pub mod corpus;
pub mod differential;
pub mod fake;
pub mod faults;
pub mod guest;
pub mod kvm;
pub mod log;
pub mod machine;
pub mod memory;
pub mod raw;
pub mod resources;
pub mod strategies;
pub mod wait;

pub use guest::Program;
pub use iced_x86::code_asm as asm;
pub use machine::{Io, Line, Seen, TestMachine};
