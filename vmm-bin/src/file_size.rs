//! The limit of file sizes (`ulimit -f`): a write past it fails like one to a full disk, and does not kill.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::SIGXFSZ;

use crate::error::Error;

/// Makes writes past the limit fail with `EFBIG`. By default the kernel sends SIGXFSZ with it, which kills: a log that has
/// reached the limit would end the VM, and what is written to the log is the plugin's choice.
pub(crate) fn let_writes_past_the_limit_fail() -> Result<(), Error> {
    // A handler, unlike an ignored signal, does not go to the programs that are started.
    let nobody_asks = Arc::new(AtomicBool::new(false));
    let set = signal_hook::flag::register(SIGXFSZ, nobody_asks);
    set.map(drop).map_err(Error::system("setting the handler of SIGXFSZ"))
}
