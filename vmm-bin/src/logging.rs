//! What goes to standard error while the command works.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::cli::Logging;
use crate::error::Error;

/// The variable that says in detail what to log; it outweighs the options.
const VARIABLE: &str = "OUTBOARD_LOG";

/// Logs to standard error from here on, as wished: where nothing was, at `otherwise`.
pub(crate) fn init(wish: &Logging, otherwise: &'static str) -> Result<(), Error> {
    let filter = match std::env::var_os(VARIABLE).filter(|directives| !directives.is_empty()) {
        Some(directives) => EnvFilter::builder().parse(directives.to_string_lossy())?,
        None => EnvFilter::new(level(wish, otherwise)),
    };
    // https://no-color.org: set and not empty means no colours, whatever the terminal.
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    tracing_subscriber::fmt()
        .compact()
        .without_time()
        .with_target(false)
        .with_ansi(io::stderr().is_terminal() && !no_color)
        .with_writer(io::stderr)
        // That a line could not be written would be told on standard error too, by a macro that panics where it cannot.
        .log_internal_errors(false)
        .with_env_filter(filter)
        .init();
    Ok(())
}

fn level(wish: &Logging, otherwise: &'static str) -> &'static str {
    match (wish.quiet, wish.verbose) {
        (true, _) => "error",
        (false, 0) => otherwise,
        (false, 1) => "debug",
        (false, _) => "trace",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_v_tells_more_and_q_only_errors() {
        let of = |verbose, quiet| level(&Logging { verbose, quiet }, "info");
        assert_eq!([of(0, false), of(1, false), of(2, false), of(3, false)], ["info", "debug", "trace", "trace"]);
        assert_eq!(of(0, true), "error");
    }
}
