//! Descriptors that the plugin was sent and has not read, on connections that are served and on those that are not any more.
//!
//! The kernel counts them for the user who sent them, which is the VMM's, until they are read or the peer is closed. The VMM cannot
//! take them back; closing its own end changes nothing. So it keeps its end of a connection that ended before all were read: by
//! that end alone it can learn how many are left.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use crate::connection::Connection;
use crate::quota::UNREAD_FDS;

/// The count of them, and the connections that ended with some.
#[derive(Debug, Default)]
pub(crate) struct UnreadFds {
    /// As many as there can be. They are counted anew where that is too many, since it takes a system call for each connection.
    most: usize,
    /// Each of these has a descriptor at least, so the limit bounds their number.
    ended: Vec<Connection>,
}

impl UnreadFds {
    /// Takes over a connection that is served no more, and ends it for the plugin.
    pub(crate) fn end(&mut self, connection: Connection) {
        if connection.unread_fds() > 0 {
            connection.shut_down();
            self.ended.push(connection);
        }
    }

    /// Whether the plugin may be sent so many descriptors, which are then counted. Beside those that ended, it has the `served`
    /// connections.
    pub(crate) fn admit<'c>(&mut self, fds: usize, served: impl Iterator<Item = &'c Connection>) -> bool {
        let sum = |sum: usize, connection: &Connection| sum.saturating_add(connection.unread_fds());
        if fds == 0 {
            return true;
        }
        self.ended.retain(|connection| connection.unread_fds() > 0);
        if self.most.saturating_add(fds) > UNREAD_FDS {
            self.most = self.ended.iter().fold(served.fold(0, sum), sum);
        }
        let most = self.most.saturating_add(fds);
        let is_admitted = most <= UNREAD_FDS;
        if is_admitted {
            self.most = most;
        }
        is_admitted
    }
}
