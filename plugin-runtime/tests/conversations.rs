//! Generated conversations with a VMM on the mock: each request is answered, by its name, as a naive model has it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::thread;

use hypervisor::mock::{Mock, Script};
use plugin_proto::messages::main_request::Message as Request;
use plugin_proto::messages::main_request::create::{Constructor, IoEvent, Memory};
use plugin_proto::{decode_main_response, encode_main_request};
use plugin_runtime::{Config, PluginCommand, Sandbox, run};
use proptest::prelude::*;
use rustix::net::{RecvFlags, SendFlags};
use test_utils::fake::Plugin;
use test_utils::memory::sealed_memfd;
use test_utils::raw::{MainSocket, readable_within};
use test_utils::strategies::{Turn, conversation};

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EEXIST: i32 = 17;

#[test]
fn the_plugin() {
    test_utils::fake::be_the_plugin();
}

/// What is there, in lists.
#[derive(Default)]
struct Model {
    objects: BTreeMap<u32, Constructor>,
    /// Starts and ends.
    reserved: Vec<(u64, u64)>,
}

impl Model {
    /// The errno of a request.
    fn ask(&mut self, request: &Request) -> i32 {
        match request {
            Request::Create(create) => {
                let wanted = create.constructor.as_ref().unwrap();
                if self.objects.contains_key(&create.id) || self.objects.values().any(|there| collide(there, wanted)) {
                    return EEXIST;
                }
                self.objects.insert(create.id, wanted.clone());
            }
            Request::Destroy(destroy) => {
                return if self.objects.remove(&destroy.id).is_some() { 0 } else { ENOENT };
            }
            Request::ReserveRange(range) if range.length == 0 => {
                let before = self.reserved.len();
                self.reserved.retain(|(start, _)| *start != range.start);
                return if self.reserved.len() < before { 0 } else { ENOENT };
            }
            Request::ReserveRange(range) => {
                let end = range.start + range.length;
                if self.reserved.iter().any(|there| range.start < there.1 && there.0 < end) {
                    return EPERM;
                }
                self.reserved.push((range.start, end));
            }
            _ => {}
        }
        0
    }
}

/// Whether there cannot be both.
fn collide(a: &Constructor, b: &Constructor) -> bool {
    let end = |memory: &Memory| memory.start + memory.length;
    let any = |event: &IoEvent| event.length == 0;
    match (a, b) {
        (Constructor::Memory(a), Constructor::Memory(b)) => a.start < end(b) && b.start < end(a),
        (Constructor::IoEvent(a), Constructor::IoEvent(b)) => {
            a.address == b.address && (any(a) || any(b) || a.length == b.length)
        }
        // Every event of a line has an eventfd of its own.
        _ => false,
    }
}

/// What the VMM answers: the errno, where it is an answer to this request.
fn ask(main: &MainSocket, turn: &Turn) -> i32 {
    let mut datagram = Vec::new();
    encode_main_request(&turn.message(), &mut datagram).unwrap();
    match &turn.request {
        Request::Create(create) if matches!(create.constructor, Some(Constructor::Memory(_))) => {
            main.send(&datagram, &[sealed_memfd(0x4000).as_fd()]).unwrap();
        }
        _ => drop(rustix::net::send(main, &datagram, SendFlags::NOSIGNAL).unwrap()),
    }
    assert!(readable_within(main, test_utils::raw::LIMIT), "no answer to {turn}");
    let mut bytes = vec![0; 0x40000];
    // Descriptors that come along are not taken.
    let (length, _) = rustix::net::recv(main, &mut bytes[..], RecvFlags::empty()).unwrap();
    let answer = decode_main_response(&bytes[..length]).unwrap();
    let named = |message: &_| std::mem::discriminant(message);
    assert_eq!(answer.message.as_ref().map(named), turn.answer().message.as_ref().map(named), "{turn}");
    answer.errno
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn each_request_is_answered_as_a_naive_model_has_it(conversation in conversation(40)) {
        let plugin = Plugin::new("the_plugin");
        let command = PluginCommand { path: plugin.path(), args: plugin.args() };
        let vmm = thread::spawn(move || run(&Mock::new(Script::nothing()), &command, config()));
        let (relay, main) = plugin.accept(|| false).unwrap();
        let mut model = Model::default();
        let differs = conversation.0.iter().find_map(|turn| {
            let (expected, seen) = (model.ask(&turn.request), ask(&main, turn));
            (expected != seen).then(|| format!("{turn}: errno {seen}, not {expected}"))
        });
        relay.command("exit 0");
        test_utils::wait::join("the VMM", vmm).unwrap();
        prop_assert_eq!(differs, None);
    }
}

fn config() -> Config {
    Config::new(NonZeroU32::new(2).unwrap(), Sandbox::None)
}
