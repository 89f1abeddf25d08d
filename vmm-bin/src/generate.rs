//! Manual pages and completions of shells, from the command line's own definition.

use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::error::Error;

/// The shells that there are completions for.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Fish, Shell::Zsh];

/// What `outboard generate` does.
pub(crate) fn run(man: &Path, completions: &Path) -> Result<(), Error> {
    for directory in [man, completions] {
        fs::create_dir_all(directory).map_err(Error::system(format!("making {}", directory.display())))?;
    }
    clap_mangen::generate_to(command(), man)
        .map_err(Error::system(format!("writing manual pages to {}", man.display())))?;
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut command(), "outboard", completions)
            .map_err(Error::system(format!("writing completions to {}", completions.display())))?;
    }
    Ok(())
}

/// The command without the subcommands that are not for people.
fn command() -> Command {
    let all = Cli::command();
    let visible = all.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
    Command::new("outboard")
        .version(env!("CARGO_PKG_VERSION"))
        .about(all.get_about().cloned().unwrap_or_default())
        .long_about(all.get_long_about().cloned().unwrap_or_default())
        .args(all.get_arguments())
        .subcommands(visible)
}
