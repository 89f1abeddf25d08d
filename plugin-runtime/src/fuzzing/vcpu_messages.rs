//! The messages of a vCPU's pipes: requests as the VMM reads them, responses as a plugin does.

use std::mem::discriminant;

use plugin_proto::messages::VcpuResponse;
use plugin_proto::messages::vcpu_request::Message;
use plugin_proto::{
    Error, ResponseReader, decode_vcpu_request, decode_vcpu_response, encode_bare_vcpu_response, encode_vcpu_request,
    encode_vcpu_response,
};
use vmm_core::Command;

use crate::vcpu_words::{Asked, Incoming, command};
use crate::wire::state_to_bytes;

/// Takes bytes for a request, for a response, and for a pipe full of responses.
pub fn vcpu_messages(data: &[u8]) {
    request(data);
    response(data);
    stream(data);
}

/// What can be read can be written and read again, and comes to a command, an answer or a fault.
fn request(data: &[u8]) {
    let Ok(request) = decode_vcpu_request(data) else { return };
    let mut bytes = Vec::new();
    match encode_vcpu_request(&request, &mut bytes) {
        Ok(()) => assert_eq!(decode_vcpu_request(&bytes).unwrap(), request),
        // Fields that say what is the case without them have no encoding.
        Err(Error::Empty { .. }) => assert!(request.message.is_none()),
        Err(error) => panic!("{request}: {error}"),
    }
    let message = request.message.clone();
    match command(Incoming::Request(request), &mut None) {
        Ok(Asked::Nothing { answer }) => {
            assert!((1..4096).contains(&answer.errno), "{answer}");
            encode_vcpu_response(&answer, &mut bytes).unwrap();
        }
        Ok(Asked::Vcpu(Command::Set(state))) => {
            let Some(Message::SetState(set)) = message else { panic!("{message:?} sets state") };
            assert_eq!(state_to_bytes(&state), set.state);
        }
        Ok(Asked::Vcpu(_)) | Err(_) => {}
    }
}

fn response(data: &[u8]) {
    let Ok(response) = decode_vcpu_response(data) else { return };
    let mut bytes = Vec::new();
    encode_bare_vcpu_response(&response, &mut bytes).unwrap();
    assert_eq!(decode_vcpu_response(&bytes).unwrap(), response);
    encode_vcpu_response(&response, &mut bytes).unwrap();
    let mut reader = ResponseReader::new();
    reader.feed(&bytes);
    assert_eq!(reader.next_response().unwrap(), Some(response));
    reader.finish().unwrap();
}

/// Responses are the same however the pipe gives their bytes.
fn stream(data: &[u8]) {
    let Some((&piece, data)) = data.split_first() else { return };
    let whole = responses(&[data]);
    let pieces: Vec<_> = data.chunks(usize::from(piece).max(1)).collect();
    let cut = responses(&pieces);
    assert_eq!(whole.0, cut.0);
    assert_eq!(whole.1.as_ref().map(discriminant), cut.1.as_ref().map(discriminant));
}

/// The responses in a pipe, and what is wrong with it.
fn responses(pieces: &[&[u8]]) -> (Vec<VcpuResponse>, Option<Error>) {
    let mut reader = ResponseReader::new();
    let mut responses = Vec::new();
    for piece in pieces {
        reader.feed(piece);
        loop {
            match reader.next_response() {
                Ok(Some(response)) => responses.push(response),
                Ok(None) => break,
                Err(error) => {
                    assert!(reader.next_response().is_err(), "a stream that went wrong stays wrong");
                    return (responses, Some(error));
                }
            }
        }
    }
    (responses, reader.finish().err())
}
