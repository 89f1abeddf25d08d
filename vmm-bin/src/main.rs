//! The command `outboard`.

mod backend;
mod bench;
mod cli;
mod demo;
mod error;
mod exit_code;
mod file_size;
mod generate;
mod huge_pages;
mod inherited;
mod jail_args;
mod logging;
mod net;
mod processes;
mod run;
mod soak;
mod statistics;

use std::io::{self, Write};
use std::process::ExitCode;

use cli::{Cli, Command};
use error::Error;

fn main() -> ExitCode {
    if let Some(code) = plugin_runtime::jail::helper_main() {
        return code;
    }
    let cli = Cli::from_args(std::env::args_os()).unwrap_or_else(|error| error.exit());
    match execute(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With standard error closed, the exit code has to do.
            let _ = writeln!(io::stderr(), "outboard: error: {error}");
            error.exit_code()
        }
    }
}

fn execute(cli: &Cli) -> Result<(), Error> {
    inherited::reset()?;
    // A soak's VMs have ends that would alarm where they were not planned.
    let level = if matches!(cli.command, Command::Soak(_)) { "off" } else { "info" };
    logging::init(&cli.logging, level)?;
    file_size::let_writes_past_the_limit_fail()?;
    match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Soak(args) => soak::run(args),
        Command::DemoPlugin { backend } => demo::plugin::run(backend),
        Command::BenchPlugin(args) => bench::plugin::run(*args),
        Command::SoakPlugin { seed, round, sheet } => soak::plugin::run(*seed, *round, sheet),
        Command::Generate { man, completions } => generate::run(man, completions),
    }
}
