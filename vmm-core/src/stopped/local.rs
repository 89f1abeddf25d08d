//! A stopped vCPU on its own thread.

use hypervisor::{Access, Result, Vcpu, kvm_debugregs, kvm_regs, kvm_sregs};

use super::DeferredRegs;
use crate::exchange::Registers;
use crate::register_prefetch::{RegisterPrefetch, RegisterSet};
use crate::state::{State, StateKind};

/// The vCPU itself, and what must be noted of what its handler gets and sets.
pub(crate) struct LocalVcpu<'a> {
    pub(crate) vcpu: &'a mut (dyn Vcpu + 'static),
    /// Where registers are kept that cannot be set yet.
    pub(crate) deferred: Option<&'a mut DeferredRegs>,
    /// The registers that the handler got by a call, for the next accesses of the same kind.
    pub(crate) requested: &'a mut RegisterSet,
    /// What is learned from it, where the handler reports accesses.
    pub(crate) prefetch: Option<(&'a mut RegisterPrefetch, &'a Access)>,
}

impl LocalVcpu<'_> {
    pub(super) fn get(&mut self, kind: StateKind) -> Result<State> {
        self.note_request(kind);
        match kind {
            StateKind::Regs => self.current_regs().map(|regs| State::Regs(Box::new(regs))),
            StateKind::Sregs => self.current_sregs().map(State::Sregs),
            StateKind::DebugRegs => self.current_debug_regs().map(State::DebugRegs),
            kind => State::of(self.vcpu, kind),
        }
    }

    pub(super) fn regs(&mut self) -> Result<kvm_regs> {
        self.note_request(StateKind::Regs);
        self.current_regs()
    }

    fn note_request(&mut self, kind: StateKind) {
        self.requested.insert(kind);
        if let Some((prefetch, access)) = &mut self.prefetch {
            prefetch.note_request(access, kind);
        }
    }

    fn current_regs(&mut self) -> Result<kvm_regs> {
        self.deferred.as_deref_mut().map_or_else(|| self.vcpu.regs(), |deferred| deferred.regs(self.vcpu))
    }

    fn current_sregs(&mut self) -> Result<Box<kvm_sregs>> {
        match self.deferred.as_deref_mut() {
            Some(deferred) => deferred.sregs(self.vcpu),
            None => self.vcpu.sregs().map(Box::new),
        }
    }

    fn current_debug_regs(&mut self) -> Result<Box<kvm_debugregs>> {
        match self.deferred.as_deref_mut() {
            Some(deferred) => deferred.debug_regs(self.vcpu),
            None => self.vcpu.debug_regs().map(Box::new),
        }
    }

    /// Attaches registers to an access. Within a read they count as returned to the handler.
    #[inline(never)]
    pub(crate) fn attach(&mut self, which: RegisterSet, attached: &mut Registers) -> Result<()> {
        if which.regs {
            attached.put_regs(&self.current_regs()?);
        }
        if which.sregs {
            attached.put_sregs(&*self.current_sregs()?);
        }
        if which.debug_regs {
            attached.put_debug_regs(&*self.current_debug_regs()?);
        }
        Ok(())
    }

    /// Every change of state that a handler makes within an exit passes here: the place to save what it changes.
    pub(super) fn set(&mut self, state: State) -> Result<()> {
        match (state, self.deferred.as_deref_mut()) {
            (State::Regs(regs), Some(deferred)) => deferred.set_regs(*regs),
            (State::Sregs(sregs), Some(deferred)) => deferred.set_sregs(sregs),
            (State::DebugRegs(debug_regs), Some(deferred)) => {
                self.vcpu.set_debug_regs(&debug_regs)?;
                deferred.drop_debug_regs();
            }
            (state, _) => state.apply(self.vcpu)?,
        }
        Ok(())
    }
}
