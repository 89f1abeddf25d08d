//! What any backend must do. [`conformance_tests!`](crate::conformance_tests) makes one test of each case.
//!
//! A third backend is checked by a crate of its own, with these lines in a file in `tests/`. Each case gives the program that
//! it is about, which lies in the VM's memory as machine code by the time a vCPU runs:
//!
//! ```no_run
//! use hypervisor::Hypervisor;
//! use test_utils::Program;
//! # mod my_backend {
//! #     pub fn open() -> Result<hypervisor::mock::Mock, std::io::Error> { Ok(hypervisor::mock::Mock::guest_code()) }
//! # }
//!
//! fn mine(case: &str, _program: &Program) -> Option<Box<dyn Hypervisor>> {
//!     match my_backend::open() {
//!         Ok(backend) => Some(Box::new(backend)),
//!         Err(error) => {
//!             test_utils::kvm::skipped(case, &error);
//!             None
//!         }
//!     }
//! }
//!
//! test_utils::conformance_tests!(mine);
//! ```
//!
//! Such a backend implements [`Hypervisor`], [`Vm`](hypervisor::Vm) and [`Vcpu`] of the crate `hypervisor`, whose comments say
//! what each method means; the cases say what it comes to.

use std::sync::Arc;

use hypervisor::{Access, AddressSpace, Direction, Error, EventFd, Exit, Hypervisor, ReadProblem, Vcpu};
use rustix::io::Errno;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK};

use crate::guest::{Guest, Program};

/// The guest that runs a program, or a return from the case where there is no backend.
macro_rules! guest {
    ($make:expr, $program:expr) => {{
        let program = $program;
        match $make(&program) {
            Some(hypervisor) => Guest::new(&*hypervisor, &program),
            None => return,
        }
    }};
}

mod accesses;
mod apics;
mod coalesced;
mod code;
mod dirty_log;
mod ends;
mod hyperv;
mod interrupts;
mod ioevents;
mod irqs;
mod kicks;
mod lapic_timer;
mod machine_state;
mod memory;
mod messages;
mod pit;
mod registers;
mod system;
mod vcpu_state;
mod vcpus;

pub use accesses::*;
pub use apics::*;
pub use coalesced::*;
pub use code::*;
pub use dirty_log::*;
pub use ends::*;
pub use hyperv::*;
pub use interrupts::*;
pub use ioevents::*;
pub use irqs::*;
pub use kicks::*;
pub use lapic_timer::*;
pub use machine_state::*;
pub use memory::*;
pub use messages::*;
pub use pit::*;
pub use registers::*;
pub use system::*;
pub use vcpu_state::*;
pub use vcpus::*;

/// Makes a hypervisor whose vCPUs run `program`, or tells of a skip.
pub type Make<'a> = &'a dyn Fn(&Program) -> Option<Box<dyn Hypervisor>>;

/// Makes one `#[test]` of each case, for the backend that `$make` (a `fn(case: &str, &Program) ->
/// Option<Box<dyn Hypervisor>>`) gives.
#[macro_export]
macro_rules! conformance_tests {
    ($make:path) => {
        $crate::conformance_tests!(@cases $make:
            a_port_write_exits_with_its_data
            a_port_read_takes_the_answer
            memory_that_no_slot_backs_exits
            memory_in_a_slot_does_not_exit
            a_write_to_read_only_memory_exits_and_changes_nothing
            a_file_that_cannot_be_written_is_read_only_memory_alone
            memory_of_more_pages_than_31_bits_count_is_refused
            overlapping_memory_is_refused_and_nothing_changes
            unmapped_memory_exits_again_and_its_slot_is_free
            a_string_read_keeps_width_and_count_apart
            a_string_that_was_read_lies_in_memory
            a_string_written_keeps_its_order
            a_string_moves_out_of_nobodys_memory
            an_instruction_that_reads_and_writes_exits_for_both
            code_changed_from_outside_is_executed_as_it_is_now
            a_halted_vcpu_runs_on_when_it_is_made_runnable
            a_guest_without_code_ends_the_run
            a_triple_fault_in_protected_mode_is_a_shutdown
            registers_set_at_an_interruption_hold
            registers_set_in_a_write_exit_hold
            registers_set_in_a_read_exit_hold_and_the_answer_too
            registers_cannot_be_set_before_a_read_is_committed
            a_straddling_read_comes_in_fragments_that_make_one_value
            registers_set_in_a_straddling_read_wait_for_its_last_fragment
            a_straddling_write_comes_in_fragments
            an_access_half_in_memory_exits_for_the_other_half
            the_rules_of_an_answer_are_kept
            a_kick_before_a_run_ends_it_before_the_guest_moves
            a_kick_during_a_run_ends_it
            a_kick_ends_the_wait_of_a_halted_vcpu
            a_kick_between_runs_waits_for_the_access_to_finish
            a_commit_does_not_eat_a_kick
            a_kick_outlives_the_next_fragment
            a_hundred_thousand_kicks_from_other_threads_and_none_is_lost
            a_kick_of_a_vcpu_that_is_gone_does_nothing
            the_second_vcpu_waits_until_it_is_made_runnable
            a_vcpu_is_made_once
            a_vcpu_begins_in_the_state_after_reset
            state_that_was_set_is_read_back
            a_dirty_log_has_the_pages_written_since_the_last_look
            a_dirty_log_comes_in_whole_words
            memory_that_is_not_logged_has_no_dirty_log
            a_write_to_an_ioeventfd_signals_and_does_not_exit
            a_write_that_does_not_match_exits
            ioeventfds_do_not_collide
            an_ioeventfd_is_taken_away_by_what_it_was_registered_with
            coalesced_writes_do_not_exit_and_keep_their_order
            a_write_that_reaches_out_of_what_is_coalesced_exits
            without_room_for_it_a_write_exits
            what_is_coalesced_no_longer_exits
            a_line_is_seen_at_the_pins_it_leads_to
            a_line_that_leads_nowhere_may_be_set
            an_irqfd_raises_its_line_until_the_guest_acknowledges
            an_irqfd_is_registered_once_and_taken_away
            routes_say_where_a_line_leads_to
            impossible_routes_are_refused
            an_edge_is_one_interrupt
            a_level_interrupts_until_it_is_low
            a_level_that_has_gone_is_no_interrupt
            a_masked_interrupt_waits
            interrupts_come_by_their_priority
            the_instruction_behind_sti_comes_first
            a_level_that_has_gone_leaves_no_vector_of_the_second_pic
            an_interrupt_may_end_by_itself
            an_irqfd_interrupts_again_after_its_interrupt_has_ended
            a_halted_vcpu_is_woken_by_an_interrupt
            a_guest_that_spins_is_interrupted
            the_ports_of_the_pics_do_not_exit
            a_request_that_was_set_is_taken
            a_local_apic_that_masks_lint0_keeps_interrupts_away
            the_pages_of_the_apics_do_not_exit
            registers_of_the_apics_keep_what_they_have
            an_edge_at_the_ioapic_is_one_interrupt
            a_level_at_the_ioapic_interrupts_until_it_is_low
            behind_a_mask_of_the_ioapic_a_level_waits_and_an_edge_is_lost
            vectors_come_by_their_number
            the_task_priority_keeps_interrupts_away
            an_interrupt_in_service_keeps_away_its_class
            an_irqfd_at_the_ioapic_interrupts_again_after_its_interrupt_has_ended
            an_irqfd_is_asked_again_when_the_mask_is_taken_away
            a_level_that_nobody_takes_is_not_under_way
            the_pics_go_before_the_local_apic
            an_ioapic_that_is_set_sends_what_is_high
            a_vector_that_was_set_is_taken
            a_message_is_an_interrupt
            messages_find_their_local_apics
            logical_ids_may_be_in_clusters
            a_non_maskable_interrupt_is_not_kept_away
            a_non_maskable_interrupt_waits_for_the_one_before
            a_command_interrupts_others
            a_vcpu_starts_another
            the_local_timer_interrupts_once
            the_local_timer_interrupts_again_and_again
            the_local_timers_count_goes_down
            the_local_timer_interrupts_at_its_deadline
            the_ports_of_the_pit_do_not_exit
            the_speakers_port_exits
            a_latched_count_stands_still
            a_read_back_latches_status_and_count
            a_count_goes_on
            the_pit_interrupts_once
            the_pit_interrupts_again_and_again
            the_pit_interrupts_through_the_ioapic
            a_pit_that_is_set_interrupts
            chips_begin_in_their_state_after_reset
            a_pic_that_was_set_is_read_back
            an_ioapic_that_was_set_is_read_back
            a_pit_that_was_set_is_read_back
            a_clock_that_was_set_is_read_back
            the_identity_map_address_is_set_before_the_first_vcpu
            extensions_are_told
            there_may_be_a_few_vcpus_at_least
            cpuid_leaves_are_told_and_can_be_set
            the_msrs_are_listed_once_each
            the_fpu_begins_after_reset_and_is_read_back
            debug_registers_are_checked_and_read_back
            the_local_apic_begins_after_reset_and_is_read_back
            extended_control_registers_are_checked_and_read_back
            events_are_checked_and_read_back
            an_unknown_mp_state_is_refused
            msrs_are_taken_up_to_the_first_unknown_one
            the_cpuid_does_not_change_after_the_first_run
            hyperv_leaves_lie_together
            the_hyperv_interrupt_controller_is_turned_on
            a_capability_that_is_lacking_is_refused
            registers_after_an_exit_are_those_that_were_set_since
            registers_set_before_a_run_that_waits_are_kept
        );
    };
    (@cases $make:path: $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                $crate::conformance::$case(&|program| $make(stringify!($case), program));
            }
        )*
    };
}

const PORT: u16 = 0x3f8;
const OTHER_PORT: u16 = 0x70;
/// An address nobody backs, in the middle of a page.
const HOLE: u16 = 0x9100;
/// Four bytes here lie on two pages, both unbacked.
const STRADDLE: u16 = 0x9ffe;

const E2BIG: Errno = Errno::TOOBIG;
const EBUSY: Errno = Errno::BUSY;
const EEXIST: Errno = Errno::EXIST;
const EINVAL: Errno = Errno::INVAL;
const ENOENT: Errno = Errno::NOENT;

/// The errno of a refusal.
fn errno<T: std::fmt::Debug>(result: hypervisor::Result<T>) -> Errno {
    match result {
        Err(Error::System { source, .. }) => Errno::from_io_error(&source).expect("an errno"),
        other => panic!("{other:?}"),
    }
}

/// An eventfd whose reads fail where there is no signal.
fn event() -> Arc<EventFd> {
    Arc::new(EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).expect("eventfd"))
}

fn run(vcpu: &mut dyn Vcpu) -> Exit {
    // An interruption that nobody asked for is legal.
    for _ in 0..100 {
        match vcpu.run().expect("run") {
            Exit::Interrupted => {}
            exit => return exit,
        }
    }
    panic!("interrupted a hundred times in a row");
}

fn access(vcpu: &mut dyn Vcpu) -> Access {
    match run(vcpu) {
        Exit::Access(access) => access,
        other => panic!("{other:?} instead of an access"),
    }
}

fn expect_write(vcpu: &mut dyn Vcpu, space: AddressSpace, address: u64, data: &[u8]) {
    let access = access(vcpu);
    assert_eq!((access.space(), access.address(), access.direction()), (space, address, Direction::Write));
    assert_eq!(access.inline_data(), Some(data));
    assert_eq!(vcpu.access_data(), data);
}

fn expect_read(vcpu: &mut dyn Vcpu, space: AddressSpace, address: u64, len: usize) {
    let access = access(vcpu);
    assert_eq!((access.space(), access.address(), access.direction()), (space, address, Direction::Read));
    assert_eq!(access.len(), len);
    assert_eq!(vcpu.access_data(), [0; 0]);
}

fn commit(vcpu: &mut dyn Vcpu) -> Exit {
    vcpu.commit().expect("commit")
}

fn read_problem<T: std::fmt::Debug>(result: hypervisor::Result<T>) -> ReadProblem {
    match result {
        Err(Error::Read { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}
