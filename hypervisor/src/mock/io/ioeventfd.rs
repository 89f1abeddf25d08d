//! The mock's ioeventfds.

use std::sync::Arc;

use parking_lot::RwLock;

use super::eventfd;
use crate::mock::refused;
use crate::{AddressSpace, EventFd, IoEvent, Result};

const CALL: &str = "KVM_IOEVENTFD";

/// All of a VM. An event is known by its [`Arc`].
#[derive(Default)]
pub(in crate::mock) struct IoEventfds(RwLock<Vec<(IoEvent, Arc<EventFd>)>>);

impl IoEventfds {
    pub(in crate::mock) fn register(&self, at: &IoEvent, event: &Arc<EventFd>) -> Result<()> {
        let mut all = self.0.write();
        if all.iter().any(|(other, _)| other.collides(at)) {
            return Err(refused(CALL, libc::EEXIST));
        }
        all.push((*at, Arc::clone(event)));
        Ok(())
    }

    pub(in crate::mock) fn unregister(&self, at: &IoEvent, event: &Arc<EventFd>) -> Result<()> {
        let mut all = self.0.write();
        let index = all.iter().position(|(other, theirs)| other == at && Arc::ptr_eq(theirs, event));
        all.remove(index.ok_or_else(|| refused(CALL, libc::ENOENT))?);
        Ok(())
    }

    /// Signals the event that a write matches; no more than one does. False where there is none.
    pub(in crate::mock) fn signal(&self, space: AddressSpace, address: u64, data: &[u8]) -> bool {
        let all = self.0.read();
        let Some((_, event)) = all.iter().find(|(at, _)| at.matches(space, address, data)) else { return false };
        let event = Arc::clone(event);
        drop(all);
        eventfd::signal(&event);
        true
    }
}
