//! `outboard run`: a VM with a plugin.

use std::path::Path;
use std::sync::Arc;

use hypervisor::Hypervisor;
use hypervisor::mock::{Mock, Script};
use plugin_runtime::{Cgroup, Config, PluginCommand, read_text};

use crate::backend::{Backend, MockClock};
use crate::cli::RunArgs;
use crate::error::Error;
use crate::huge_pages;

pub(crate) fn run(args: &RunArgs) -> Result<(), Error> {
    let backend = Backend::open_as(args.hypervisor, &args.kvm_options())?;
    if args.hugepages && matches!(backend, Backend::Kvm(_)) {
        huge_pages::warn_where_there_are_none();
    }
    if args.mock_clock == MockClock::Virtual && matches!(backend, Backend::Kvm(_)) {
        return Err(Error::OnlyOnMock("--mock-clock virtual"));
    }
    let hypervisor = match &args.script {
        Some(path) => scripted(&backend, path, args.mock_clock)?,
        None => backend.hypervisor_with(args.mock_clock),
    };
    let plugin = PluginCommand { path: args.plugin.clone(), args: args.plugin_args() };
    let config = Config {
        vcpus: args.cpus,
        exit_timeout: args.exit_timeout,
        vcpu_cgroup: args.vcpu_cgroup_path.as_deref().map(Cgroup::open).transpose()?.map(Arc::new),
        unclaimed: args.unclaimed.into(),
        transport: args.transport.into(),
        poll_us: args.poll_us,
        max_memory: args.max_memory,
        tap: args.net.tap()?,
        sandbox: args.jail.sandbox(args.cpus)?,
        confine: true,
    };
    Ok(plugin_runtime::run(&*hypervisor, &plugin, config)?)
}

/// The mock, whose vCPUs make the accesses of a script in place of guest code.
fn scripted(backend: &Backend, path: &Path, clock: MockClock) -> Result<Arc<dyn Hypervisor>, Error> {
    if let Backend::Kvm(_) = backend {
        return Err(Error::OnlyOnMock("--script"));
    }
    let text = read_text(path).map_err(Error::system(format!("reading the script {}", path.display())))?;
    let script = Script::parse(&text).map_err(|source| Error::Script { path: path.to_owned(), source })?;
    Ok(Arc::new(Mock::new(script).with_clock(clock.into())))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn refusal(script: &Path) -> String {
        match scripted(&Backend::Mock, script, MockClock::Host) {
            Ok(_) => panic!("{} was taken", script.display()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_script_that_cannot_be_read_or_understood_is_named() {
        let error = refusal(Path::new("/nonexistent"));
        assert!(error.starts_with("reading the script /nonexistent: "), "{error}");

        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"mov 1\njump 2\n").unwrap();
        let error = refusal(file.path());
        assert_eq!(error, format!("{}: script line 2: no step is called `jump`", file.path().display()));
    }
}
