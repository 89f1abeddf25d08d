//! The rings between two threads, and against a peer that writes what it likes.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::thread;
use std::time::Duration;

use plugin_proto::ring::{
    Body, Direction, Fault, Header, Incoming, MAX_FRAGMENT, MAX_PAYLOAD, Mapping, Outgoing, Reader, SIZE, SLOTS, ToVmm,
    Waiter, Writer,
};
use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::thread::futex;

fn memfd() -> OwnedFd {
    let memfd = memfd_create("ring", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&memfd, SIZE as u64).unwrap();
    memfd
}

fn mapping() -> Arc<Mapping> {
    Arc::new(Mapping::new(memfd().as_fd()).unwrap())
}

fn ends(mapping: &Arc<Mapping>) -> (Writer, Reader) {
    (Writer::new(Arc::clone(mapping), Direction::ToVmm, true), Reader::new(Arc::clone(mapping), Direction::ToVmm))
}

#[test]
fn a_plugin_says_no_processor_until_it_does_and_may_say_any_number() {
    let memfd = memfd();
    let [vmm, plugin] = [(); 2].map(|()| Mapping::new(memfd.as_fd()).unwrap());
    assert_eq!(vmm.processor(), None);
    for processor in [0, 1, 1023, u32::MAX - 1] {
        plugin.set_processor(processor);
        assert_eq!(vmm.processor(), Some(processor));
        // The word that the protocol's table names.
        let mut word = [0; 4];
        rustix::io::pread(&memfd, &mut word[..], 0x480).unwrap();
        assert_eq!(u32::from_ne_bytes(word), processor + 1);
    }
}

/// Sleeps until it is woken.
struct Patient {
    spins: u32,
}

impl Waiter for Patient {
    type Error = Fault;

    fn spins(&mut self) -> u32 {
        self.spins
    }

    fn sleep(&mut self, word: &AtomicU32, expected: u32) -> Result<(), Fault> {
        let _ = futex::wait(word, futex::Flags::empty(), expected, None);
        Ok(())
    }
}

/// Gives up where it would have to sleep.
struct Impatient;

impl Waiter for Impatient {
    type Error = Fault;

    fn spins(&mut self) -> u32 {
        0
    }

    fn sleep(&mut self, _: &AtomicU32, _: u32) -> Result<(), Fault> {
        Err(Fault::Closed)
    }
}

fn message(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|index| (index as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    /// Records of all lengths, also longer than the ring, arrive whole and in order, spinning or sleeping.
    #[test]
    fn records_of_all_lengths_arrive(
        lengths in prop::collection::vec(prop_oneof![0usize..200, 0..5000usize, 30_000..70_000usize], 1..60),
        spins in prop_oneof![Just(0), Just(2000)],
    ) {
        let mapping = mapping();
        let (mut writer, mut reader) = ends(&mapping);
        let sent = lengths.clone();
        let thread = thread::spawn(move || {
            for (seed, length) in sent.into_iter().enumerate() {
                writer.write(&Outgoing::message(2, &message(length, seed as u8)), &mut Patient { spins }).unwrap();
            }
        });
        let mut incoming = Incoming::default();
        for (seed, length) in lengths.into_iter().enumerate() {
            reader.read(&mut incoming, &mut Patient { spins }).unwrap();
            prop_assert_eq!(incoming.header.kind, ToVmm::Request as u16);
            prop_assert_eq!(&incoming.payload(), &message(length, seed as u8));
        }
        thread.join().unwrap();
    }

    /// Whatever a peer writes anywhere into the memory, a reader or writer ends with a record or a fault.
    #[test]
    fn scribbling_ends_in_a_record_or_a_fault(
        scribbles in prop::collection::vec((0..SIZE / 8, any::<u64>()), 1..50),
        near in prop::collection::vec((0usize..0x600 / 8, 0u64..0x9000), 0..20),
    ) {
        let memfd = memfd();
        let mapping = Arc::new(Mapping::new(memfd.as_fd()).unwrap());
        let (mut writer, mut reader) = ends(&mapping);
        let mut incoming = Incoming::default();
        for (word, value) in scribbles.into_iter().chain(near) {
            rustix::io::pwrite(&memfd, &value.to_ne_bytes(), word as u64 * 8).unwrap();
            let _ = reader.read(&mut incoming, &mut Impatient);
            prop_assert!(incoming.payload().len() <= MAX_PAYLOAD);
            let _ = writer.write(&Outgoing::bare(Header::default()), &mut Impatient);
        }
    }

    /// A reader gives room back late: never so late that a writer waits for one that waits itself.
    #[test]
    fn any_record_has_room_when_all_before_it_were_read(
        lengths in prop::collection::vec(prop_oneof![Just(0), 1..=MAX_FRAGMENT, Just(MAX_FRAGMENT)], 0..200),
    ) {
        let mapping = mapping();
        let (mut writer, mut reader) = ends(&mapping);
        let mut incoming = Incoming::default();
        for length in lengths {
            let bytes = vec![7; length];
            writer.write(&Outgoing::message(ToVmm::Request as u16, &bytes), &mut Impatient).unwrap();
            reader.read(&mut incoming, &mut Impatient).unwrap();
            prop_assert_eq!(incoming.payload(), bytes);
        }
    }
}

#[test]
fn a_writer_waits_for_room() {
    let mapping = mapping();
    let (mut writer, mut reader) = ends(&mapping);
    let record = Outgoing::with_body(Header { kind: 1, ..Header::default() }, Body::default());
    for _ in 0..SLOTS {
        writer.write(&record, &mut Impatient).unwrap();
    }
    assert_eq!(writer.write(&record, &mut Impatient), Err(Fault::Closed));

    let mut incoming = Incoming::default();
    for _ in 0..SLOTS {
        reader.read(&mut incoming, &mut Impatient).unwrap();
    }
    assert_eq!(reader.read(&mut incoming, &mut Impatient), Err(Fault::Closed));
}

/// Also not in a full ring, where the next slot holds the oldest record.
#[test]
fn a_slot_that_is_touched_ahead_is_no_record_and_spoils_none() {
    let mapping = mapping();
    let (mut writer, mut reader) = ends(&mapping);
    let mut incoming = Incoming::default();
    writer.touch_next();
    assert_eq!(reader.read(&mut incoming, &mut Impatient), Err(Fault::Closed));
    for round in 0..3 {
        for number in 0..u64::from(SLOTS) {
            let header = Header { kind: 1, words: [number + round; 5], ..Header::default() };
            writer.write_header(&header, &mut Impatient).unwrap();
            writer.touch_next();
        }
        for number in 0..u64::from(SLOTS) {
            reader.read(&mut incoming, &mut Impatient).unwrap();
            assert_eq!(incoming.header.words, [number + round; 5]);
        }
    }
}

proptest! {
    /// Neither the payload that is still to be read, nor that of the record before, with which it may share a line.
    #[test]
    fn payload_that_is_touched_ahead_spoils_none(rounds in prop::collection::vec((1_u32..60, 1_u32..40, 0..MAX_FRAGMENT as u32), 1..40)) {
        let mapping = mapping();
        let (mut writer, mut reader) = ends(&mapping);
        let mut incoming = Incoming::default();
        for (records, words, touched) in rounds {
            let part = |number: u32| number.to_ne_bytes().repeat(2 * words as usize);
            for number in 0..records {
                let header = Header { kind: 1, payload: 8 * words, ..Header::default() };
                writer.write_part(&header, &part(number), &mut Impatient).unwrap();
                writer.touch_next_payload(touched.next_multiple_of(8));
            }
            for number in 0..records {
                reader.read(&mut incoming, &mut Impatient).unwrap();
                prop_assert_eq!(incoming.payload(), part(number));
            }
        }
    }
}

#[test]
fn a_sleeping_reader_is_woken_by_the_end() {
    let mapping = mapping();
    let mut reader = Reader::new(Arc::clone(&mapping), Direction::ToPlugin);
    let thread = thread::spawn(move || reader.read(&mut Incoming::default(), &mut Patient { spins: 0 }));
    thread::sleep(Duration::from_millis(1));
    mapping.close();
    assert_eq!(thread.join().unwrap(), Err(Fault::Closed));
}

#[test]
fn a_record_longer_than_allowed_is_a_fault() {
    let mapping = mapping();
    let (mut writer, mut reader) = ends(&mapping);
    let thread = thread::spawn(move || {
        writer.write(&Outgoing::message(2, &message(MAX_PAYLOAD + 1, 0)), &mut Patient { spins: 0 })
    });
    let mut incoming = Incoming::default();
    let fault = reader.read(&mut incoming, &mut Patient { spins: 0 });
    assert_eq!(fault, Err(Fault::BadLength { kind: 2, length: 1 }));
    assert_eq!(incoming.payload().len(), MAX_PAYLOAD);
    mapping.close();
    let _ = thread.join().unwrap();
}

/// A guest's bytes lie in the payload alone, so none of them can be taken for a record.
#[test]
fn bytes_of_a_payload_are_never_a_record() {
    let mapping = mapping();
    let (mut writer, mut reader) = ends(&mapping);
    let forged: Vec<u8> = (0..SLOTS).flat_map(|_| (2u64 | 1 << 32).to_ne_bytes()).collect();
    let mut incoming = Incoming::default();
    for _ in 0..2 * SLOTS {
        writer.write(&Outgoing::message(2, &forged), &mut Impatient).unwrap();
        reader.read(&mut incoming, &mut Impatient).unwrap();
        assert_eq!(incoming.payload(), forged);
        assert_eq!(reader.read(&mut incoming, &mut Impatient), Err(Fault::Closed));
    }
}
