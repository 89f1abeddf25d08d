//! The options of `outboard run` that are about the plugin's jail.

use clap::Args;

#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Jail")]
pub(crate) struct JailArgs {
    /// Run the plugin without a jail: it can do all that this user can. So far there is no other way
    #[arg(long)]
    disable_sandbox: bool,
}
