//! proptest strategies: for exits, for messages, and for whole conversations. Each shrinks to a case that can be read.
//!
//! A device that must take anything is put before any list of exits:
//!
//! ```
//! use proptest::prelude::*;
//! use test_utils::strategies::exits;
//! use test_utils::{Io, TestMachine};
//!
//! /// A latch: what was written last, to a port or to memory, is read there, whatever the width.
//! fn latch(value: &mut [u8; 4], io: Io<'_>) {
//!     match io {
//!         Io::Out(_, data) | Io::Store(_, data) => value.iter_mut().zip(data).for_each(|(to, from)| *to = *from),
//!         Io::In(_, data) | Io::Load(_, data) => data.iter_mut().zip(value).for_each(|(to, from)| *to = *from),
//!     }
//! }
//!
//! # /* rustdoc runs functions, not tests:
//! proptest! {
//!     #[test]
//! # */
//! # proptest! {
//!     fn a_latch_takes_any_accesses(steps in exits(0x300..0x304, 0x9000..0x9010, 20)) {
//!         let mut value = [0; 4];
//!         // An access may end behind its range, so the latch has a few bytes more.
//!         let machine = TestMachine::from_steps(steps).ports(0x300..0x308).memory(0x9000..0x9018);
//!         let run = machine.run(|io| latch(&mut value, io));
//!         prop_assert!(matches!(run.end, test_utils::machine::End::Done(_)));
//!     }
//! }
//! # a_latch_takes_any_accesses();
//! ```
//!
//! [`messages`] has one strategy for each message of the plugin protocol, valid or not; a [`Conversation`] is many that
//! belong together.

mod conversation;
mod exits;

pub use conversation::{Conversation, Turn, conversation};
pub use exits::exits;
pub use plugin_proto::strategies as messages;
