//! Whole conversations: a plugin that says anything on its main sockets and to its vCPUs, while they run a guest.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use arbitrary::Unstructured;
use plugin_proto::messages::main_response::Message as Response;
use plugin_proto::messages::vcpu_response;
use plugin_proto::ring::{Header, ToPlugin};
use zerocopy::FromBytes;

use super::descriptors::{Descriptors, MEMORY_LEN};
use super::served::{Answer, Served, Settings};
use super::vcpu_end::{Came, PipeEnd, RingEnd, VcpuEnd};
use super::{bytes, number};
use crate::Transport;

/// Steps of one input, at most.
const MOST: usize = 100;
/// How long a fuzz target waits for something, and how often without success: a guest may run without an exit.
const TIMEOUT: Duration = Duration::from_millis(2);
const MOST_VAIN: u32 = 8;

/// What a conversation came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// vCPUs that said they are there.
    pub inits: u32,
    /// Accesses, posted ones among them.
    pub accesses: u32,
    /// Pauses.
    pub pauses: u32,
    /// Answers that are none of these.
    pub answers: u32,
}

/// Leads a conversation, and ends the VM. Whatever is said, main requests are answered, what vCPUs say makes sense, and they
/// stop when they are told to.
pub fn conversation(data: &[u8]) -> Heard {
    lead(data, TIMEOUT)
}

fn lead(data: &[u8], timeout: Duration) -> Heard {
    let mut input = Unstructured::new(data);
    let mut talk = Talk::new(number(&mut input), timeout);
    for _ in 0..MOST {
        if input.is_empty() || !talk.served.has_connection() {
            break;
        }
        talk.step(&mut input);
    }
    talk.heard
}

struct Talk {
    served: Served,
    descriptors: Descriptors,
    vcpus: Vec<VcpuEnd>,
    timeout: Duration,
    vain: u32,
    heard: Heard,
}

impl Talk {
    /// The bits: a second vCPU; rings alone or pipes alone; a limit for answers.
    fn new(choices: u8, timeout: Duration) -> Self {
        let transport = match choices >> 1 & 3 {
            1 => Transport::Pipe,
            2 => Transport::Ring,
            _ => Transport::Auto,
        };
        let settings = Settings {
            vcpus: NonZeroU32::MIN.saturating_add((choices & 1).into()),
            exit_timeout: (choices & 8 != 0).then_some(timeout * 2),
            transport,
        };
        Self {
            served: Served::new(&settings, true),
            descriptors: Descriptors::new(),
            vcpus: Vec::new(),
            timeout,
            vain: 0,
            heard: Heard::default(),
        }
    }

    fn step(&mut self, input: &mut Unstructured<'_>) {
        match number::<u8>(input) % 8 {
            0 | 1 => self.ask(input),
            2 | 3 => self.talk_to_vcpu(input),
            4 => self.send_record(input),
            5 => self.receive(number(input)),
            6 => self.write_memory(input),
            _ => self.misbehave(input),
        }
    }

    fn ask(&mut self, input: &mut Unstructured<'_>) {
        let (which, choice) = (number(input), number(input));
        let fds = self.descriptors.chosen(choice);
        let Some(Answer { message, fds }) = self.served.ask(which, bytes(input), &fds) else { return };
        match message {
            // Those that are there have begun to read.
            _ if !self.vcpus.is_empty() => {}
            Some(Response::GetVcpus(_)) => {
                let mut fds = fds.into_iter();
                while let (Some(write), Some(read)) = (fds.next(), fds.next()) {
                    self.vcpus.push(VcpuEnd::Pipes(PipeEnd::new(write, read)));
                }
            }
            Some(Response::GetVcpuRings(_)) => {
                self.vcpus = fds.into_iter().map(|fd| VcpuEnd::Ring(RingEnd::new(fd))).collect();
            }
            _ => {}
        }
    }

    fn vcpu(&mut self, which: u8) -> Option<&mut VcpuEnd> {
        let count = self.vcpus.len().max(1);
        self.vcpus.get_mut(usize::from(which) % count)
    }

    /// Sends a request to a vCPU, and hears what it says.
    fn talk_to_vcpu(&mut self, input: &mut Unstructured<'_>) {
        let which = number(input);
        let request = bytes(input);
        if let Some(vcpu) = self.vcpu(which) {
            vcpu.send(request);
            self.receive(which);
        }
    }

    fn send_record(&mut self, input: &mut Unstructured<'_>) {
        let which = number(input);
        let mut header = [0; size_of::<Header>()];
        let given = bytes(input);
        header.iter_mut().zip(given).for_each(|(to, from)| *to = *from);
        let header = Header::read_from_bytes(&header).unwrap();
        let payload = bytes(input);
        if let Some(vcpu) = self.vcpu(which) {
            vcpu.send_record(header, payload);
            self.receive(which);
        }
    }

    fn receive(&mut self, which: u8) {
        if self.vain >= MOST_VAIN {
            return;
        }
        let end = Instant::now() + self.timeout;
        let Some(vcpu) = self.vcpu(which) else { return };
        let counted = match vcpu.receive(end) {
            Came::Nothing => &mut self.vain,
            Came::Fault => return,
            Came::Record(ToPlugin::Init) => &mut self.heard.inits,
            Came::Record(ToPlugin::Paused) => &mut self.heard.pauses,
            Came::Record(_) => &mut self.heard.accesses,
            Came::Response(response) => {
                assert!((0..4096).contains(&response.errno), "{response}");
                let wait = response.has_wait().then(|| response.wait());
                match wait.and_then(|wait| wait.exit.as_ref()) {
                    Some(vcpu_response::wait::Exit::Init(_)) => &mut self.heard.inits,
                    Some(vcpu_response::wait::Exit::User(_)) => &mut self.heard.pauses,
                    Some(_) => &mut self.heard.accesses,
                    None => &mut self.heard.answers,
                }
            }
        };
        *counted += 1;
    }

    /// Writes into the memory that may be the guest's.
    fn write_memory(&mut self, input: &mut Unstructured<'_>) {
        let offset = u64::from(number::<u16>(input));
        let data = bytes(input);
        let fits = data.len().min((MEMORY_LEN - offset) as usize);
        rustix::io::pwrite(self.descriptors.memory(), &data[..fits], offset).unwrap();
    }

    /// Scribbles over a ring, or closes a connection.
    fn misbehave(&mut self, input: &mut Unstructured<'_>) {
        let (which, place): (u8, u16) = (number(input), number(input));
        if place == u16::MAX {
            self.served.close(which);
            return;
        }
        let value = number(input);
        if let Some(vcpu) = self.vcpu(which) {
            vcpu.scribble(u64::from(place) * 8, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The saved conversation called `name`, with time for every answer.
    fn led(name: &str) -> Heard {
        let path = format!("{}/../fuzz/corpus/conversation/{name}", env!("CARGO_MANIFEST_DIR"));
        lead(&std::fs::read(path).unwrap(), Duration::from_secs(10))
    }

    #[test]
    fn a_conversation_over_either_link_comes_to_where_the_guest_is() {
        let expected = Heard { inits: 1, accesses: 5, pauses: 1, answers: 3 };
        assert_eq!(led("a-whole-one-over-pipes"), expected);
        assert_eq!(led("a-whole-one-over-rings"), expected);
    }
}
