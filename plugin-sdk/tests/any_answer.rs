//! Whatever a VMM says, in whatever order, a plugin's calls return.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

mod support;

use plugin_proto::messages::{MainResponse, VcpuResponse};
use plugin_proto::strategies::{main_response, vcpu_response};
use plugin_sdk::{AddressSpace, Error, Event, GuestMemory, MemoryFlags};
use proptest::collection::vec;
use proptest::prelude::*;
use support::{FakeVcpu, FakeVmm};

proptest! {
    #[test]
    fn a_vcpu_takes_any_responses_until_the_vmm_hangs_up(responses in vec(vcpu_response(), 0..8)) {
        let (fake, mut vcpu) = FakeVcpu::new();
        let count = responses.len();
        for response in &responses {
            fake.send(response);
        }
        // The reading end stays open, so that requests do not fail before the responses are used up.
        let FakeVcpu { requests: _requests, responses } = fake;
        drop(responses);
        let mut disconnected = false;
        for _ in 0..=count {
            let done = match vcpu.wait() {
                Ok(Event::Init(mut stopped)) => {
                    let _ = stopped.state().sregs();
                    stopped.resume()
                }
                Ok(Event::Read(read)) => {
                    let mut data = vec![0; read.access().length];
                    let items = data.chunks_mut(read.width()).map(|item| item[0] = 1).count();
                    assert_eq!(items, read.count());
                    read.answer(&data)
                }
                Ok(Event::Write(write)) => {
                    assert_eq!(write.data().chunks(write.width()).count(), write.count());
                    write.resume()
                }
                Ok(Event::Paused(paused)) => paused.resume(),
                Ok(other) => other.resume(),
                Err(error) => Err(error),
            };
            disconnected = matches!(done, Err(Error::Disconnected));
        }
        prop_assert!(disconnected);
    }

    #[test]
    fn a_connection_takes_any_response(responses in vec(main_response(), 5)) {
        let (vmm, mut connection) = FakeVmm::new();
        for response in responses.iter().filter(|response| **response != MainResponse::new()) {
            vmm.send(response, &[]);
        }
        vmm.hang_up();
        let memory = GuestMemory::new(0x1000).unwrap();
        let _ = connection.map_memory(&memory, 0..0x1000, 0, MemoryFlags::default());
        let _ = connection.reserve_range(AddressSpace::Mmio, 0, 1);
        let _ = connection.net_config();
        let _ = connection.vcpus();
        let _ = connection.new_connection();
        prop_assert!(matches!(connection.start(), Err(Error::Disconnected)));
    }

    #[test]
    fn a_vcpu_takes_any_bytes(bytes in vec(any::<u8>(), 0..64)) {
        let (fake, mut vcpu) = FakeVcpu::new();
        fake.send_bytes(&bytes);
        drop(fake.responses);
        for _ in 0..bytes.len() {
            if matches!(vcpu.wait(), Err(Error::Disconnected)) {
                break;
            }
        }
    }
}

#[test]
fn a_response_with_nothing_in_it_is_an_error() {
    let (fake, mut vcpu) = FakeVcpu::new();
    fake.send(&VcpuResponse::new());
    assert!(matches!(vcpu.wait(), Err(Error::Unexpected { .. })));
}
