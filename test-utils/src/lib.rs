//! What Outboard's tests share: guest programs, backends, and the conformance suite.
