//! Instructions without effect on what there is a model of.

use iced_x86::Mnemonic;

use super::Handler;

pub(super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    match mnemonic {
        Mnemonic::Nop | Mnemonic::Pause => Some(|_, _| Ok(())),
        _ => None,
    }
}
