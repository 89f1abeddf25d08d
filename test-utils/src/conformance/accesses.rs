//! Accesses: their data, their answers, their fragments.

use hypervisor::{AddressSpace, Direction, ReadProblem};

use super::*;

/// Ports: data of each width.
pub fn a_port_write_exits_with_its_data(make: Make) {
    let program = Program::new().mov(0x4433_2211).output(PORT, 1).output(PORT, 2).output(OTHER_PORT, 4);
    let Guest { mut vcpu, .. } = guest!(make, program);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0x11]);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0x11, 0x22]);
    expect_write(&mut *vcpu, AddressSpace::Pio, OTHER_PORT.into(), &[0x11, 0x22, 0x33, 0x44]);
}

/// The answer is what the guest then has.
pub fn a_port_read_takes_the_answer(make: Make) {
    let program = Program::new().mov(0).input(PORT, 1).output(PORT, 4).input(PORT, 4).output(PORT, 4);
    let Guest { mut vcpu, .. } = guest!(make, program);
    expect_read(&mut *vcpu, AddressSpace::Pio, PORT.into(), 1);
    vcpu.answer(&[0xa5]).expect("answer");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0xa5, 0, 0, 0]);
    expect_read(&mut *vcpu, AddressSpace::Pio, PORT.into(), 4);
    vcpu.answer(&[1, 2, 3, 4]).expect("answer");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[1, 2, 3, 4]);
}

/// Exits tell width and count, not just their product.
pub fn a_string_read_keeps_width_and_count_apart(make: Make) {
    let program = Program::new().input_string(PORT, 2, 512).mov(1).output(OTHER_PORT, 1);
    let Guest { mut vcpu, .. } = guest!(make, program);
    let mut items = 0;
    loop {
        // A backend may split a string, but only between items.
        let access = access(&mut *vcpu);
        if access.address() == u64::from(OTHER_PORT) {
            break;
        }
        assert_eq!((access.direction(), access.width()), (Direction::Read, 2));
        items += access.count();
        vcpu.answer(&vec![0x5a; access.len()]).expect("answer");
    }
    assert_eq!(items, 512);
}

/// Items in their order.
pub fn a_string_written_keeps_its_order(make: Make) {
    let program = Program::new().output_string(PORT, b"a string of bytes").mov(1).output(OTHER_PORT, 1);
    let Guest { mut vcpu, .. } = guest!(make, program);
    let mut written = Vec::new();
    loop {
        // A backend may split a string.
        let access = access(&mut *vcpu);
        if access.address() == u64::from(OTHER_PORT) {
            break;
        }
        assert_eq!((access.direction(), access.width()), (Direction::Write, 1));
        written.extend_from_slice(vcpu.access_data());
    }
    assert_eq!(written, b"a string of bytes");
}

/// Two pages, two exits, one value.
pub fn a_straddling_read_comes_in_fragments_that_make_one_value(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new().load(STRADDLE, 4).output(PORT, 4));
    expect_read(&mut *vcpu, AddressSpace::Mmio, STRADDLE.into(), 2);
    vcpu.answer(&[1, 2]).expect("answer");
    expect_read(&mut *vcpu, AddressSpace::Mmio, u64::from(STRADDLE) + 2, 2);
    vcpu.answer(&[3, 4]).expect("answer");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[1, 2, 3, 4]);
}

/// Two pages, two exits.
pub fn a_straddling_write_comes_in_fragments(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new().mov(0x4433_2211).store(STRADDLE, 4).output(PORT, 1));
    expect_write(&mut *vcpu, AddressSpace::Mmio, STRADDLE.into(), &[0x11, 0x22]);
    expect_write(&mut *vcpu, AddressSpace::Mmio, u64::from(STRADDLE) + 2, &[0x33, 0x44]);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0x11]);
}

/// Answers: one, of the right length, to a read.
pub fn the_rules_of_an_answer_are_kept(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new().mov(1).output(PORT, 1).input(PORT, 2).output(PORT, 2));
    assert_eq!(read_problem(vcpu.answer(&[1])), ReadProblem::NothingToAnswer);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[1]);
    assert_eq!(read_problem(vcpu.answer(&[1])), ReadProblem::NothingToAnswer);
    expect_read(&mut *vcpu, AddressSpace::Pio, PORT.into(), 2);
    assert_eq!(read_problem(vcpu.run()), ReadProblem::Unanswered);
    assert_eq!(read_problem(vcpu.commit()), ReadProblem::Unanswered);
    assert_eq!(read_problem(vcpu.answer(&[1])), ReadProblem::WrongLength { expected: 2, given: 1 });
    vcpu.answer(&[1, 2]).expect("answer");
    assert_eq!(read_problem(vcpu.answer(&[1, 2])), ReadProblem::NothingToAnswer);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[1, 2]);
}
