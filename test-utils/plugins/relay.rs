//! A plugin that the test controls: it passes its main socket to the test, and obeys. Its standard input is a socket to the
//! test (`SOCK_SEQPACKET`); what it can be told is said at [`obey`](test_utils::raw::obey).

use std::process::ExitCode;

fn main() -> ExitCode {
    test_utils::raw::obey(rustix::stdio::stdin()).into()
}
