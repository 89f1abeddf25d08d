//! An interrupt line, as a device holds it.

use std::fmt;
use std::sync::Arc;

use hypervisor::{Gsi, Vm};

/// An interrupt line of a machine. Any thread may hold it, also after the machine is gone.
#[derive(Clone)]
pub struct Line {
    vm: Arc<dyn Vm>,
    gsi: Gsi,
}

impl Line {
    pub(super) fn new(vm: Arc<dyn Vm>, gsi: Gsi) -> Self {
        Self { vm, gsi }
    }

    /// The line is high from now on.
    ///
    /// # Panics
    ///
    /// If the backend refuses; so do the others.
    pub fn raise(&self) {
        self.set(true);
    }

    /// The line is low from now on.
    pub fn lower(&self) {
        self.set(false);
    }

    /// High and low again: one interrupt, since a PC's lines are triggered by the edge.
    pub fn pulse(&self) {
        self.raise();
        self.lower();
    }

    fn set(&self, level: bool) {
        self.vm.set_irq(self.gsi, level).unwrap_or_else(|error| panic!("setting interrupt line {}: {error}", self.gsi));
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Line").field(&self.gsi.0).finish()
    }
}
