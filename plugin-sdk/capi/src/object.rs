//! What stands for memory, an I/O event or an interrupt event.

use std::sync::RwLock;

use crate::errno::{Errno, Result};

/// An object until it is destroyed. Any number of threads may look at it.
pub(crate) struct Object<T>(RwLock<Option<T>>);

impl<T> Object<T> {
    pub(crate) fn new(object: T) -> Self {
        Self(RwLock::new(Some(object)))
    }

    /// Looks at it. When its destruction has failed, it is gone all the same: `EBADF`.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&T) -> Result<R>) -> Result<R> {
        let object = self.0.try_read().map_err(|_| Errno::BUSY)?;
        object.as_ref().ok_or(Errno::BADF).and_then(look)
    }

    /// Takes it, to destroy it. There is nothing left after a destruction that has failed.
    pub(crate) fn take(&self) -> Result<Option<T>> {
        self.0.try_write().map(|mut object| object.take()).map_err(|_| Errno::BUSY)
    }
}
