//! The main socket: any datagrams, with any descriptors, before a start.

use std::num::NonZeroU32;

use arbitrary::Unstructured;

use super::descriptors::Descriptors;
use super::served::{Served, Settings};
use super::{bytes, number};
use crate::Transport;

/// Datagrams of one input, at most.
const MOST: usize = 100;

/// Sends datagrams on the connections there are. Each is answered, or ends its connection.
pub fn main_socket(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let settings = Settings { vcpus: NonZeroU32::MIN, exit_timeout: None, transport: Transport::Auto };
    let mut served = Served::new(&settings, false);
    let descriptors = Descriptors::new();
    for _ in 0..MOST {
        if input.is_empty() || !served.has_connection() {
            break;
        }
        let (which, choice) = (number(&mut input), number(&mut input));
        served.ask(which, bytes(&mut input), &descriptors.chosen(choice));
    }
}
