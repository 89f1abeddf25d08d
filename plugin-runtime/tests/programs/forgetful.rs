//! A program that runs VMs and has forgotten that its `main` must be able to be the helper. Not an example to follow.
//!
//! It writes a line to the file `FORGETFUL_LOG` each time it is started, and does nothing from the tenth time on. Where
//! `FORGETFUL_SILENT` is set it only runs a VM when it is started without arguments.

use std::num::NonZeroU32;
use std::process::ExitCode;
use std::{env, fs, io::Write};

use hypervisor::mock::{Mock, Script};
use plugin_runtime::jail::JailConfig;
use plugin_runtime::{Config, PluginCommand, Sandbox, run};

fn main() -> ExitCode {
    let Some(log) = env::var_os("FORGETFUL_LOG") else { return ExitCode::from(99) };
    let written = fs::File::options().append(true).create(true).open(&log).and_then(|mut file| file.write_all(b"x\n"));
    let starts = fs::read_to_string(log).unwrap_or_default().lines().count();
    if written.is_err() || starts >= 10 {
        return ExitCode::from(98);
    }
    if env::var_os("FORGETFUL_SILENT").is_some() && env::args().len() > 1 {
        return ExitCode::SUCCESS;
    }
    // One that tries again, as services do.
    for _ in 0..2 {
        let plugin = PluginCommand { path: "/bin/true".into(), args: Vec::new() };
        let config = Config::new(NonZeroU32::MIN, Sandbox::Jail(Box::<JailConfig>::default()));
        match run(&Mock::new(Script::nothing()), &plugin, config) {
            Ok(()) => println!("ended well"),
            Err(error) => println!("{error}"),
        }
    }
    ExitCode::SUCCESS
}
