//! Outboard's view of a hypervisor: the traits, the KVM backend and the mock backend.
