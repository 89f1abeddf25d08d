//! A ring of records in shared memory: against a queue, and against a peer that writes what it likes where it likes.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use arbitrary::Unstructured;
use plugin_proto::limits::MAX_STRING_DATA;
use plugin_proto::ring::{
    Body, DEBUG_REGS_BYTES, Direction, Fault, Flags, Header, Incoming, MAX_PAYLOAD, Mapping, Outgoing, REGS_BYTES,
    Reader, SIZE, SLOTS_OFFSET, SREGS_BYTES, ToPlugin, ToVmm, Waiter, Writer,
};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::{bytes, number};

/// Steps of one input, at most.
const MOST: usize = 200;
/// Bytes at the beginning of the memory where the indices are.
const WORDS: u64 = 0x480;
/// Bytes of the slots that an input comes to.
const SLOTS_BEGUN: u64 = 64 * 64;

/// Writes, reads and scribbles. As long as nobody has scribbled, records come out as they went in.
pub fn rings(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let mut ring = Ring::new(if number(&mut input) { Direction::ToPlugin } else { Direction::ToVmm });
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        match number::<u8>(&mut input) % 8 {
            0 | 1 => ring.write_message(&mut input),
            2 => ring.write_body(&mut input),
            3..=5 => ring.read(),
            6 => ring.scribble(&mut input),
            _ => ring.look_or_close(&mut input),
        }
    }
}

struct Ring {
    memfd: OwnedFd,
    mapping: Arc<Mapping>,
    writer: Writer,
    reader: Reader,
    /// Kind and payload of what was written and not read; `None` once there is no telling.
    queue: Option<VecDeque<(u16, Vec<u8>)>>,
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

impl Ring {
    fn new(direction: Direction) -> Self {
        let memfd = memfd_create("ring", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&memfd, SIZE as u64).unwrap();
        let mapping = Arc::new(Mapping::new(memfd.as_fd()).unwrap());
        let writer = Writer::new(Arc::clone(&mapping), direction, true);
        let reader = Reader::new(Arc::clone(&mapping), direction);
        Self { memfd, mapping, writer, reader, queue: Some(VecDeque::new()) }
    }

    fn write_message(&mut self, input: &mut Unstructured<'_>) {
        let message = bytes(input);
        self.write(&Outgoing::message(ToVmm::Request as u16, message), message.to_vec());
    }

    fn write_body(&mut self, input: &mut Unstructured<'_>) {
        let (parts, filler): (u8, u8) = (number(input), number(input));
        let (regs, sregs, debug_regs) = ([filler; REGS_BYTES], [filler; SREGS_BYTES], [filler; DEBUG_REGS_BYTES]);
        let data = bytes(input);
        let body = Body {
            data: &data[..data.len().min(MAX_STRING_DATA)],
            regs: (parts & 1 != 0).then_some(&regs),
            sregs: (parts & 2 != 0).then_some(&sregs),
            debug_regs: (parts & 4 != 0).then_some(&debug_regs),
        };
        let record = Outgoing::with_body(Header { kind: ToVmm::Resume as u16, ..Header::default() }, body);
        let mut payload = if body.data.len() > 40 { body.data.to_vec() } else { Vec::new() };
        payload.resize(payload.len().next_multiple_of(8), 0);
        payload.extend(body.regs.iter().flat_map(|part| part.iter()));
        payload.extend(body.sregs.iter().flat_map(|part| part.iter()));
        payload.extend(body.debug_regs.iter().flat_map(|part| part.iter()));
        assert_eq!(record.header.body(&payload), Ok(body));
        self.write(&record, payload);
    }

    fn write(&mut self, record: &Outgoing<'_>, payload: Vec<u8>) {
        match (self.writer.write(record, &mut Impatient), &mut self.queue) {
            (Ok(_), Some(queue)) => queue.push_back((record.header.kind, payload)),
            // Part of a record was written.
            (Err(_), queue) => *queue = None,
            (Ok(_), None) => {}
        }
    }

    fn read(&mut self) {
        let mut incoming = Incoming::default();
        let read = self.reader.read(&mut incoming, &mut Impatient);
        let (header, payload) = (&incoming.header, incoming.payload());
        assert!(payload.len() <= MAX_PAYLOAD);
        if read.is_ok() {
            assert_eq!(payload.len(), header.payload as usize);
            let _ = (ToVmm::try_from(header.kind), ToPlugin::try_from(header.kind));
            if let Ok(body) = incoming.body() {
                assert!(body.data.len() <= MAX_STRING_DATA);
                assert_eq!(body.regs.is_some(), header.flags & Flags::REGS != 0);
            }
        }
        match &mut self.queue {
            None => {}
            Some(queue) => match (queue.pop_front(), read) {
                (Some((kind, expected)), Ok(())) => assert_eq!((header.kind, payload), (kind, &expected[..])),
                (None, Err(Fault::Closed)) => {}
                (expected, read) => panic!("{read:?} in place of {expected:?}"),
            },
        }
    }

    fn scribble(&mut self, input: &mut Unstructured<'_>) {
        let (place, value): (u16, u64) = (number(input), number(input));
        // Most of them where they hurt.
        let (start, length, value) = match place & 3 {
            0 => (0, WORDS, value & 0xffff_ffff),
            1 => (SLOTS_OFFSET as u64, SLOTS_BEGUN, value),
            2 => ((SLOTS_OFFSET + SIZE) as u64 / 2, SLOTS_BEGUN, value),
            _ => (0, SIZE as u64, value),
        };
        let offset = start + u64::from(place >> 2) * 8 % length;
        rustix::io::pwrite(&self.memfd, &value.to_ne_bytes(), offset).unwrap();
        self.queue = None;
    }

    fn look_or_close(&mut self, input: &mut Unstructured<'_>) {
        if number::<u8>(input) & 0xf == 0 {
            self.mapping.close();
            self.queue = None;
        } else {
            assert!(!self.mapping.is_closed() || self.queue.is_none());
        }
    }
}
