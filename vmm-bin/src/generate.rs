//! Manual pages and completions of shells, from the command line's own definition.

use std::path::Path;
use std::{fs, io};

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::Cli;
use crate::error::Error;

/// The shells that there are completions for.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Fish, Shell::Zsh];

/// What `outboard generate` does.
pub(crate) fn run(man: &Path, completions: &Path) -> Result<(), Error> {
    for directory in [man, completions] {
        fs::create_dir_all(directory).map_err(Error::system(format!("making {}", directory.display())))?;
    }
    pages(man).map_err(Error::system(format!("writing manual pages to {}", man.display())))?;
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut command(), "outboard", completions)
            .map_err(Error::system(format!("writing completions to {}", completions.display())))?;
    }
    Ok(())
}

/// A page for the command, and one for each of its subcommands.
fn pages(directory: &Path) -> io::Result<()> {
    let mut command = command().disable_help_subcommand(true);
    command.build();
    for page in command.get_subcommands().chain([&command]) {
        let source = concat!("Outboard ", env!("CARGO_PKG_VERSION"));
        let man = Man::new(page.clone()).source(source).manual("Outboard");
        let mut text = Vec::new();
        man.render(&mut text)?;
        text.extend(sections_of(page.get_name()).as_bytes());
        fs::write(directory.join(man.get_filename()), text)?;
    }
    Ok(())
}

/// What a page has beside what the command line's definition says.
fn sections_of(page: &str) -> &'static str {
    match page {
        "outboard" | "run" => include_str!("manual.roff"),
        _ => include_str!("see_also.roff"),
    }
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
