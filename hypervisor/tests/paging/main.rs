//! Linear-address translation of the mock, compared with a naive model that was written from the manual; and of KVM where it is,
//! so that the model is compared too.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helper fails the test by panicking")]

mod flushes;
mod machine;
mod model;
mod walks;
