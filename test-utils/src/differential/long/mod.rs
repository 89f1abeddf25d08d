//! Generated user-mode programs in 64-bit mode with paging, compared with the host's processor, which executes them itself.
//!
//! KVM runs 64-bit ring 3 natively, also where it emulates everything else. So a program begins there: page tables,
//! descriptors and handlers are in memory already. It ends by an `out` to [`FINAL_PORT`](super::layout::FINAL_PORT), or in the
//! handler of an exception, which stores the x87 and SSE state and writes to the port of its vector.

mod assemble;
mod campaign;
mod catalog;
mod compare;
pub mod found;
pub mod layout;
mod machine;
mod memory_operand;
mod operands;
mod preparation;
mod program;
mod quirks;
mod strategy;
mod values;
mod x87;

pub use campaign::UserMode;
pub use catalog::{FORMS_LEFT_OUT, LEFT_OUT, all, codes, privileged};
pub use compare::differences;
pub use machine::Machine;
pub use program::{Flavour, Program, Start, listing};
pub use quirks::{QUIRKS, Quirk, explanation};
pub use strategy::program;
