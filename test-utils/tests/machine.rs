//! The machine in three lines, as its users have it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use hypervisor::mock::Step;
use hypervisor::{Hypervisor, VcpuId};
use test_utils::asm::*;
use test_utils::kvm::kvm_or_skip;
use test_utils::machine::{DATA, End, RAM};
use test_utils::{Io, Program, Seen, TestMachine, memory};

/// Runs `test` on the mock, and on KVM where it is there.
fn on_both(name: &str, test: impl Fn(&dyn Hypervisor)) {
    test(&hypervisor::mock::Mock::guest_code());
    if let Some(kvm) = kvm_or_skip(&format!("machine::{name}, the half for KVM")) {
        test(&kvm);
    }
}

#[test]
fn a_closure_is_all_devices_and_the_exits_are_kept() {
    on_both("a_closure_is_all_devices_and_the_exits_are_kept", |backend| {
        let program = Program::new().mov(0x1234).output(0x310, 2).input(0x311, 1).store(0x9000, 1);
        let mut stored = Vec::<u8>::new();
        let run = TestMachine::on(backend, &program).run(|io| match io {
            Io::In(0x311, data) => data.copy_from_slice(&[7]),
            Io::Store(0x9000, data) => stored.extend(data),
            _ => {}
        });
        assert_eq!(stored, [7]);
        run.assert_done(7);
        let expected = [Seen::Out(0x310, vec![0x34, 0x12]), Seen::In(0x311, vec![7]), Seen::Store(0x9000, vec![7])];
        run.assert_exits(&expected);
    });
}

#[test]
fn a_handler_takes_the_interrupts_of_either_pic() {
    on_both("a_handler_takes_the_interrupts_of_either_pic", |backend| {
        for line in [5, 11] {
            let program = Program::new().irq(line, |a| a.inc(byte_ptr(DATA))).assemble(|a| {
                a.mov(dx, 0x300)?;
                for _ in 0..2 {
                    a.out(dx, al)?;
                    // Behind sti one instruction comes first, so the halt is what the interrupt ends.
                    a.sti()?;
                    a.hlt()?;
                    a.cli()?;
                }
                a.mov(al, byte_ptr(DATA))
            });
            let machine = TestMachine::on(backend, &program);
            let irq = machine.line(line);
            machine.run(|_| irq.pulse()).assert_done(2);
        }
    });
}

#[test]
fn memory_above_64_kib_is_reached_by_32_bit_addresses() {
    on_both("memory_above_64_kib_is_reached_by_32_bit_addresses", |backend| {
        let program = Program::new().assemble(|a| {
            a.mov(esi, 0xd000_0010_u32)?;
            a.mov(eax, dword_ptr(esi))?;
            a.mov(dword_ptr(esi + 4), eax)
        });
        let run = TestMachine::on(backend, &program).memory(0xd000_0000..0xd000_1000).run(|io| {
            if let Io::Load(_, data) = io {
                data.copy_from_slice(&[1, 2, 3, 4]);
            }
        });
        let data = vec![1, 2, 3, 4];
        run.assert_exits(&[Seen::Load(0xd000_0010, data.clone()), Seen::Store(0xd000_0014, data)]);
    });
}

#[test]
fn each_vcpu_knows_its_number_and_has_a_stack() {
    on_both("each_vcpu_knows_its_number_and_has_a_stack", |backend| {
        let program = Program::new().assemble(|a| {
            // The first waits until the others have been there.
            let mut wait = a.create_label();
            let mut done = a.create_label();
            a.push(bx)?;
            a.pop(ax)?;
            a.mov(dx, 0x300)?;
            a.out(dx, al)?;
            a.inc(dx)?;
            a.set_label(&mut wait)?;
            a.in_(al, dx)?;
            a.cmp(al, 4)?;
            a.je(done)?;
            a.jmp(wait)?;
            a.set_label(&mut done)?;
            a.nop()
        });
        let mut seen = 0;
        let run = TestMachine::on(backend, &program).vcpus(4).run(|io| match io {
            Io::Out(0x300, _) => seen += 1,
            Io::In(_, data) => data[0] = seen,
            other => panic!("{other:?}"),
        });
        run.assert_done(4);
        for vcpu in 0..4 {
            assert_eq!(run.exits_of(VcpuId(vcpu)).first(), Some(&Seen::Out(0x300, vec![vcpu as u8])));
        }
    });
}

#[test]
fn what_no_device_has_reads_zeros() {
    let program = Program::new().input(0x311, 1).input(0x310, 1);
    let run = TestMachine::new(&program).ports(0x310..0x311).run(|io| match io {
        Io::In(_, data) => data[0] = 9,
        other => panic!("{other:?}"),
    });
    run.assert_exits(&[Seen::In(0x310, vec![9])]);
}

#[test]
fn scripted_exits_come_without_guest_code() {
    let text = TestMachine::from_script("mov 0x41\nout 0x3f8 1\nload 0xd0000 8\nhypercall 1 2 3").run(|_| {});
    let steps = [
        Step::Mov(0x41),
        Step::Out { port: 0x3f8, width: 1 },
        Step::Load { address: 0xd0000, width: 8 },
        Step::HypervCall { input: 1, params: [2, 3] },
    ];
    let steps = TestMachine::from_steps(steps).run(|_| {});
    text.assert_exits(&steps.exits());
    text.assert_exits_in_order(&[Seen::Out(0x3f8, vec![0x41]), Seen::HypervCall(1, [2, 3])]);
}

#[test]
fn a_guest_that_stops_for_good_ends_the_run() {
    let run = TestMachine::from_script("out 0x3f8 1\nshutdown").run(|_| {});
    assert!(matches!(run.end, End::Stopped(VcpuId(0), vmm_core::StopReason::Shutdown { .. })), "{run:?}");
}

#[test]
#[should_panic(expected = "out 0x3f8 [00]")]
fn a_guest_that_hangs_fails_the_test_with_its_exits() {
    let program = Program::new().output(0x3f8, 1).halt();
    TestMachine::new(&program).limit(std::time::Duration::from_secs(2)).run(|_| {});
}

#[test]
#[should_panic(expected = "the device is broken")]
fn a_device_that_panics_fails_the_test() {
    TestMachine::new(&Program::new().output(0x3f8, 1).forever()).run(|_| panic!("the device is broken"));
}

#[test]
fn the_ram_can_be_looked_into() {
    let program = Program::new().mov(0x5a).store(DATA, 1);
    let machine = TestMachine::new(&program);
    let ram = machine.ram().try_clone().unwrap();
    machine.run(|_| {}).assert_done(0x5a);
    assert_eq!(memory::read_at(&ram, DATA.into(), 1), [0x5a]);
    assert!(u64::from(DATA) < RAM.end);
}

#[test]
fn a_claim_in_one_space_leaves_the_other_to_the_device() {
    let program = || Program::new().output(0x310, 1).output(0x311, 1).store(0x9000, 1).store(0xa000, 1);
    let all = [
        Seen::Out(0x310, vec![0]),
        Seen::Out(0x311, vec![0]),
        Seen::Store(0x9000, vec![0]),
        Seen::Store(0xa000, vec![0]),
    ];
    let [first_port, second_port, first_store, second_store] = all.clone();
    let ports = TestMachine::new(&program()).ports(0x310..0x311).run(|_| {});
    ports.assert_exits(&[first_port.clone(), first_store.clone(), second_store]);
    let memory = TestMachine::new(&program()).memory(0x9000..0x9001).run(|_| {});
    memory.assert_exits(&[first_port.clone(), second_port, first_store.clone()]);
    let both = TestMachine::new(&program()).ports(0x310..0x311).memory(0x9000..0x9001).run(|_| {});
    both.assert_exits(&[first_port, first_store]);
    TestMachine::new(&program()).run(|_| {}).assert_exits(&all);
}
