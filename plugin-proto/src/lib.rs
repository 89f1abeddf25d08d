//! The words on the wire between Outboard and its plugins: messages and framing.
