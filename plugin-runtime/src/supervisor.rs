//! The one thread that waits on everything that is not an exit.

use std::collections::{BTreeMap, VecDeque};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hypervisor::Hypervisor;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;
use vmm_core::{Culprit, HandlerThread, JOIN_LIMIT, KICK_INTERVAL, Machine, Notice, Notices, StopReason};

use crate::confine::confine;
use crate::connection::{self, Buffers, Connection, Fault, Request};
use crate::descriptor_limit;
use crate::end::{Due, End};
use crate::error::{Error, Result};
use crate::jail::Sandbox;
use crate::log_budget::{Admission, LogBudget};
use crate::main_requests::{Outgoing, PluginVm, Reply, Then};
use crate::memory_quota::MemoryQuota;
use crate::process::{Heard, PluginProcess};
use crate::quota;
use crate::refusal;
use crate::request_budget::{RequestBudget, may_take_long, thread_time};
use crate::seccomp::{Filter, Listener, OnViolation};
use crate::signals::Signals;
use crate::startup_watch::StartupWatch;
use crate::stderr_log::{Left, StderrLog};
use crate::transport::{PluginHandler, VcpuLinks};
use crate::unread_fds::UnreadFds;
use crate::{Config, PluginCommand};

/// What an epoll event is about: one of these, or a connection's number from `FIRST_CONNECTION` on.
const PLUGIN: u64 = 0;
const SIGNAL: u64 = 1;
const NOTICE: u64 = 2;
const STDERR: u64 = 3;
const JAIL: u64 = 4;
const VIOLATION: u64 = 5;
const FIRST_CONNECTION: u64 = 6;

/// How long requests are served before signals, the plugin's end and what is due get their turn.
const TURN: Duration = Duration::from_millis(50);
/// How long requests are served that the plugin left behind when it ended. They can be many, cost much, and have no end
/// where the plugin's children go on sending.
const LAST_TURN: Duration = Duration::from_millis(500);
/// Bytes of standard error before the others get their turn.
const STDERR_TURN: usize = 0x40000;

/// The code that the dynamic loader exits with, and a shell that does not find a command.
const LOADER_FAILED: i32 = 127;

pub(crate) struct Supervisor<'h> {
    epoll: OwnedFd,
    name: String,
    signals: Signals,
    notices: Notices,
    stderr: StderrLog,
    /// All writers of its standard error are gone.
    stderr_ended: bool,
    connections: BTreeMap<u64, Connection>,
    unread_fds: UnreadFds,
    next_connection: u64,
    buffers: Buffers,
    budget: RequestBudget,
    /// Requests that wait for the budget, of connections that are not watched meanwhile.
    parked: VecDeque<(u64, Request)>,
    log_budget: LogBudget,
    end: End,
    /// The first thing that went wrong.
    failure: Option<Error>,
    /// What has ended the VM first, where it was the guest or a signal: what went wrong, unless the plugin takes it well.
    cause: Option<Error>,
    startup: StartupWatch,
    // Before the VM, whose shutdown event may be read only when the plugin is gone.
    plugin: PluginProcess,
    /// Learns of violations of the plugin's system call filter.
    listener: Option<Listener>,
    on_violation: OnViolation,
    vm: PluginVm<'h>,
}

impl<'h> Supervisor<'h> {
    /// Makes the VM and starts the plugin.
    pub(crate) fn new(hypervisor: &'h dyn Hypervisor, command: &PluginCommand, config: Config) -> Result<Self> {
        descriptor_limit::raise();
        let signals = Signals::new()?;
        let name = command.name();
        let machine_config = vmm_core::Config {
            vcpus: config.vcpus,
            exit_timeout: config.exit_timeout,
            cgroup: config.vcpu_cgroup,
            unclaimed: config.unclaimed,
        };
        let (mut machine, notices) = Machine::new(hypervisor.create_vm()?, &machine_config)?;
        let links = Arc::new(VcpuLinks::new(config.vcpus.get(), config.poll_us)?);
        let stop = machine.stop_signal().clone();
        let owner = machine.attach(&name, HandlerThread::Vcpu, |vcpu| {
            Box::new(PluginHandler::new(Arc::clone(&links), vcpu.index(), stop.clone()))
        })?;
        let memory = MemoryQuota::new(config.max_memory);
        let budget = RequestBudget::new(memory.most(), Instant::now());
        let vm = PluginVm::new(hypervisor, machine, owner, links, config.transport, config.tap, memory)?;
        let (first, plugins_end) = connection::pair().map_err(Error::set_up("making the plugin's socket"))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(Error::set_up("making an epoll descriptor"))?;
        let on_violation = match &config.sandbox {
            Sandbox::Jail(config) => config.seccomp.as_ref().map_or(OnViolation::Kill, Filter::on_violation),
            Sandbox::None => OnViolation::Kill,
        };
        if matches!(&config.sandbox, Sandbox::Jail(config) if !config.stdio) {
            tracing::debug!(plugin = name, "its standard output is discarded; --plugin-stdio lets it through");
        }
        let (plugin, stderr) = PluginProcess::start(command, &config.sandbox, plugins_end)?;
        let mut supervisor = Self {
            epoll,
            stderr: StderrLog::new(name.clone(), stderr),
            stderr_ended: false,
            name,
            signals,
            notices,
            connections: BTreeMap::new(),
            unread_fds: UnreadFds::default(),
            next_connection: FIRST_CONNECTION,
            buffers: Buffers::new(),
            budget,
            parked: VecDeque::new(),
            log_budget: LogBudget::new(),
            end: End::new(),
            failure: None,
            cause: None,
            startup: StartupWatch::new(Instant::now()),
            plugin,
            listener: None,
            on_violation,
            vm,
        };
        supervisor.watch(&supervisor.plugin, PLUGIN)?;
        supervisor.watch(&supervisor.signals, SIGNAL)?;
        supervisor.watch(&supervisor.notices, NOTICE)?;
        supervisor.watch(&supervisor.stderr, STDERR)?;
        if let Some(reports) = supervisor.plugin.reports() {
            supervisor.watch(reports, JAIL)?;
        }
        supervisor.serve(first)?;
        if config.confine {
            confine()?;
        }
        supervisor.vm.shutdown.make_ready()?;
        Ok(supervisor)
    }

    fn watch(&self, source: impl AsFd, token: u64) -> Result<()> {
        epoll::add(&self.epoll, source, epoll::EventData::new_u64(token), epoll::EventFlags::IN)
            .map_err(Error::set_up("watching a descriptor with epoll"))
    }

    fn unwatch(&self, source: impl AsFd) {
        // It was watched, so this cannot fail.
        let _ = epoll::delete(&self.epoll, source);
    }

    /// Serves until the plugin has ended, and tells how it all went.
    pub(crate) fn run(mut self) -> Result<()> {
        match self.serve_until_plugin_ended() {
            Ok(()) => self.take_in_the_rest(),
            Err(error) => drop(self.failure.get_or_insert(error)),
        }
        // vCPUs see the stop before they could enter the guest again, and are gone before the plugin's status is read.
        self.join_vcpus();
        let result = match self.failure.take() {
            Some(failure) => Err(failure),
            None => self.verdict(),
        };
        result.map_err(|error| self.explain(error))
    }

    fn verdict(&mut self) -> Result<()> {
        let status = self.plugin.wait()?;
        if self.plugin.was_unnamed_violation(status) {
            return Err(Error::UnnamedViolation { plugin: self.name.clone() });
        }
        // One that a terminal sends to all of its processes may have ended the plugin before it was seen here.
        self.note_signal();
        self.end.verdict(self.name.clone(), status, self.cause.take())
    }

    /// Shows what the plugin has said last, where it failed, and makes more of its error by it.
    fn explain(&self, error: Error) -> Error {
        if error.culprit() != Culprit::Owner {
            return error;
        }
        self.stderr.log_last_lines_as_errors();
        match &error {
            Error::Exited { code: LOADER_FAILED, plugin } => {
                let library = self.stderr.last_lines().find_map(|line| missing_library(&line).map(str::to_owned));
                library.map(|library| Error::MissingLibrary { plugin: plugin.clone(), library })
            }
            _ => None,
        }
        .unwrap_or(error)
    }

    fn note_signal(&mut self) {
        if let Some(signal) = self.signals.received() {
            self.cause.get_or_insert(Error::Signal { signal });
        }
    }

    fn serve_until_plugin_ended(&mut self) -> Result<()> {
        loop {
            let mut plugin_ended = false;
            let ready = self.wait()?;
            let begun = Instant::now();
            for token in ready {
                match token {
                    PLUGIN => plugin_ended = true,
                    SIGNAL => self.told_to_end(),
                    NOTICE => self.take_notices(),
                    STDERR => self.log_stderr(),
                    JAIL => self.hear_jail()?,
                    VIOLATION => self.take_violations()?,
                    // One request each. Those that there is no time for stay ready.
                    connection if begun.elapsed() < TURN => drop(self.serve_request(connection)),
                    _ => {}
                }
            }
            if plugin_ended {
                return Ok(());
            }
            let now = Instant::now();
            self.serve_parked(begun);
            if let Some(due) = self.end.due(now) {
                self.act(due);
            }
            if let Some(warning) = self.startup.due(now) {
                tracing::warn!(plugin = self.name, "{warning}");
            }
        }
    }

    /// What is ready, or nothing when something is due.
    fn wait(&mut self) -> Result<Vec<u64>> {
        let deadline = self.end.deadline().into_iter().chain(self.startup.deadline()).min();
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // A vCPU that has not left the guest after a kick is kicked again.
        let again = self.vm.machine.repeat_kicks().then_some(KICK_INTERVAL);
        let affordable = (!self.parked.is_empty()).then(|| self.budget.time_left(Instant::now()));
        let timeout = [timeout, again, affordable].into_iter().flatten().min();
        // The end's seconds always fit.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut space = [MaybeUninit::uninit(); 32];
        match epoll::wait(&self.epoll, &mut space, timeout.as_ref()) {
            Ok((events, _)) => Ok(events.iter().map(|event| event.data.u64()).collect()),
            Err(Errno::INTR) => Ok(Vec::new()),
            Err(errno) => Err(Error::Poll(errno.into())),
        }
    }

    /// Waits for the ends of the vCPUs' threads. The plugin has ended, or is about to be killed.
    fn join_vcpus(&mut self) {
        if let Err(error) = self.vm.machine.join_within(JOIN_LIMIT) {
            tracing::error!(plugin = self.name, "{error}");
            self.failure.get_or_insert(error.into());
        }
    }

    fn told_to_end(&mut self) {
        // Once is enough: the byte stays, and the descriptor would be ready for ever.
        self.unwatch(&self.signals);
        self.note_signal();
        tracing::debug!("a signal ends the VM");
        self.begin_end();
    }

    fn begin_end(&mut self) {
        self.startup.finish();
        if let Some(due) = self.end.begin(Instant::now()) {
            self.act(due);
        }
    }

    fn act(&mut self, due: Due) {
        match due {
            Due::Tell => {
                self.vm.machine.stop();
                self.vm.shutdown.fire();
            }
            Due::HangUp => {
                // The vCPUs' threads hold the channels too, until they end. They are not waited for: what keeps one from it must
                // not keep the plugin alive.
                self.vm.links = None;
                self.connections.clear();
            }
            Due::Kill => {
                tracing::warn!(plugin = self.name, "it did not exit in time after it was told to, and is killed");
                self.plugin.kill();
            }
        }
    }

    fn take_notices(&mut self) {
        self.notices.clear();
        while let Ok(notice) = self.notices.channel.try_recv() {
            if let Notice::Stopped(vcpu, reason) = notice {
                self.vcpu_stopped(vcpu, reason);
            }
        }
    }

    fn vcpu_stopped(&mut self, vcpu: hypervisor::VcpuId, reason: StopReason) {
        if let StopReason::Asked = reason {
            return;
        }
        let registers = reason.state().map(|state| state.registers());
        match (&reason, reason.culprit()) {
            // Guests also end themselves so.
            (StopReason::Halted | StopReason::Shutdown { .. }, _) => {
                tracing::warn!(%vcpu, plugin = self.name, "the guest ended: {reason}");
                registers.iter().for_each(|all| tracing::warn!(%vcpu, plugin = self.name, "registers: {all}"));
            }
            (_, Some(_)) => {
                tracing::error!(%vcpu, plugin = self.name, "{reason}");
                registers.iter().for_each(|all| tracing::error!(%vcpu, plugin = self.name, "registers: {all}"));
            }
            (_, None) => tracing::debug!(%vcpu, plugin = self.name, "stopped: {reason}"),
        }
        let is_failure = reason.is_failure();
        if reason.culprit().is_some() {
            let place = if is_failure { &mut self.failure } else { &mut self.cause };
            place.get_or_insert(Error::Vcpu { vcpu, reason });
        }
        self.begin_end();
    }

    fn log_stderr(&mut self) {
        if self.stderr.log_available(STDERR_TURN) == Left::Ended {
            self.stderr.finish();
            self.stderr_ended = true;
            self.unwatch(&self.stderr);
        }
    }

    fn hear_jail(&mut self) -> Result<()> {
        match self.plugin.hear()? {
            Heard::Filtered(listener) => {
                let listener = Listener::new(listener).map_err(Error::set_up("listening for seccomp violations"))?;
                self.watch(&listener, VIOLATION)?;
                self.listener = Some(listener);
            }
            Heard::FilteredWithoutListener => {
                let instead = match self.on_violation {
                    OnViolation::Kill => {
                        "kills the plugin for a call that its policy does not allow, and names it in its log"
                    }
                    OnViolation::Log => "notes calls that its policy does not allow in its log",
                };
                tracing::warn!(
                    plugin = self.name,
                    "no seccomp listener can be had here, in a container or under WSL: the kernel alone {instead} (type=1326)"
                );
            }
            Heard::Nothing => {}
            Heard::All => self.plugin.reports().iter().for_each(|reports| self.unwatch(reports)),
        }
        Ok(())
    }

    fn take_violations(&mut self) -> Result<()> {
        let Some(listener) = &self.listener else { return Ok(()) };
        let begun = Instant::now();
        // Where violations are only logged, a plugin with several threads never stops making them. The others stay ready.
        while begun.elapsed() < TURN
            && let Some(violation) = listener.receive().map_err(Error::set_up("receiving a seccomp violation"))?
        {
            let plugin = self.name.clone();
            match self.on_violation {
                OnViolation::Kill => {
                    self.failure.get_or_insert(Error::Violation { plugin, violation });
                    self.plugin.kill();
                }
                OnViolation::Log => {
                    if let Admission::Log { dropped } = self.log_budget.admit(Instant::now()) {
                        let arguments = violation.arguments;
                        tracing::warn!(
                            plugin,
                            dropped,
                            "not allowed by the seccomp policy: {violation}, arguments {arguments:x?}"
                        );
                    }
                    listener.let_go_on(&violation).map_err(Error::set_up("answering a seccomp violation"))?;
                }
            }
        }
        // With the last process under the filter gone it is ready for ever.
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        if poll(&mut fds, Some(&Timespec::default())).is_ok()
            && fds.iter().any(|fd| fd.revents().contains(PollFlags::HUP))
        {
            self.unwatch(listener);
            self.listener = None;
        }
        Ok(())
    }

    fn serve(&mut self, connection: Connection) -> Result<()> {
        let token = self.next_connection;
        // 64 bits of connections do not run out.
        self.next_connection += 1;
        self.watch(&connection, token)?;
        self.connections.insert(token, connection);
        Ok(())
    }

    /// Serves a connection's next request, if there is one: whether there was.
    fn serve_request(&mut self, token: u64) -> bool {
        let Some(connection) = self.connections.get(&token) else { return false };
        let request = match connection.receive(&mut self.buffers) {
            Ok(Some(request)) => request,
            Ok(None) => return false,
            Err(fault) => {
                self.drop_connection(token, &fault);
                return false;
            }
        };
        let takes_long = request.message.message.as_ref().is_some_and(may_take_long);
        if takes_long && self.budget.wait(Instant::now()).is_some() {
            // Its connection's later requests wait behind it. Those of the others are served.
            self.unwatch(connection);
            self.parked.push_back((token, request));
            return false;
        }
        self.reply_to(token, request, takes_long);
        true
    }

    /// Serves requests that waited for the budget, as far as it goes in this turn.
    fn serve_parked(&mut self, begun: Instant) {
        while begun.elapsed() < TURN && self.budget.wait(Instant::now()).is_none() {
            let Some((token, request)) = self.parked.pop_front() else { return };
            self.reply_to(token, request, true);
            let Some(connection) = self.connections.get(&token) else { continue };
            if let Err(error) = self.watch(connection, token) {
                self.connections.remove(&token).into_iter().for_each(|connection| self.unread_fds.end(connection));
                self.log_dropped(&error);
            }
        }
    }

    /// Does what a request asks for, and sends the reply.
    fn reply_to(&mut self, token: u64, request: Request, takes_long: bool) {
        if request.message.has_new_connection() {
            self.forget_closed_connections();
        }
        if !self.connections.contains_key(&token) {
            return;
        }
        let begun = if takes_long { thread_time() } else { Duration::ZERO };
        let reply = self.vm.handle(request, self.connections.len());
        if takes_long {
            self.budget.charge(thread_time().saturating_sub(begun));
        }
        self.startup.requested(Instant::now(), self.vm.has_given_vcpus(), self.vm.is_started());
        self.log_reply(&reply);
        let may_send = self.unread_fds.admit(reply.fds.len(), self.connections.values());
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let sent = match &reply.response {
            _ if !may_send => Err(Fault::UnreadElsewhere),
            Outgoing::Message(response) => connection.send(response, &reply.fds, &mut self.buffers),
            Outgoing::Encoded(response) => connection.send_encoded(response, &reply.fds),
        };
        if let Err(fault) = sent {
            self.drop_connection(token, &fault);
        }
        match reply.then {
            Then::Nothing => {}
            Then::Serve(connection) => {
                // The plugin finds it disconnected where it cannot be served.
                if let Err(error) = self.serve(connection) {
                    self.log_dropped(&error);
                }
            }
            Then::Start => self.start(),
        }
    }

    fn log_reply(&mut self, reply: &Reply) {
        if let Some(refused) = &reply.refused {
            refusal::log(format_args!("{refused}"));
        }
        for warning in &reply.warnings {
            if let Admission::Log { dropped } = self.log_budget.admit(Instant::now()) {
                tracing::warn!(plugin = self.name, dropped, "{warning}");
            }
        }
    }

    fn start(&mut self) {
        if let Err(error) = self.vm.machine.start() {
            self.failure.get_or_insert(error.into());
            self.begin_end();
        }
    }

    /// Where no further connection is allowed, those that the plugin has closed, with nothing left to be read, go before
    /// their turn, so that a plugin that opens and closes them quickly is not refused.
    fn forget_closed_connections(&mut self) {
        if self.connections.len() < quota::CONNECTIONS {
            return;
        }
        let (tokens, connections): (Vec<u64>, Vec<&Connection>) = self.connections.iter().unzip();
        let mut fds: Vec<_> = connections.iter().map(|connection| PollFd::new(*connection, PollFlags::IN)).collect();
        if poll(&mut fds, Some(&Timespec::default())).is_err() {
            return;
        }
        let is_parked = |token: &u64| self.parked.iter().any(|(parked, _)| parked == token);
        let closed = fds.iter().zip(&connections).zip(tokens).filter(|((fd, connection), token)| {
            let is_closed = fd.revents().contains(PollFlags::HUP) && rustix::io::ioctl_fionread(connection) == Ok(0);
            is_closed && !is_parked(token)
        });
        for token in closed.map(|(_, token)| token).collect::<Vec<_>>() {
            self.drop_connection(token, &Fault::Disconnected);
        }
    }

    /// Ends one connection; the VM and the others live on.
    fn drop_connection(&mut self, token: u64, fault: &Fault) {
        if let Some(connection) = self.connections.remove(&token) {
            self.unwatch(&connection);
            self.unread_fds.end(connection);
        }
        if !matches!(fault, Fault::Disconnected) {
            self.log_dropped(fault);
        }
    }

    fn log_dropped(&mut self, why: &dyn std::error::Error) {
        if let Admission::Log { dropped } = self.log_budget.admit(Instant::now()) {
            tracing::warn!(plugin = self.name, dropped, "connection dropped: {why}");
        }
    }

    /// What the plugin left behind when it ended is taken in before its end is acted on.
    fn take_in_the_rest(&mut self) {
        self.vm.machine.stop();
        let begun = Instant::now();
        while begun.elapsed() < LAST_TURN
            && let Some((token, request)) = self.parked.pop_front()
        {
            self.reply_to(token, request, false);
        }
        for token in self.connections.keys().copied().collect::<Vec<_>>() {
            while begun.elapsed() < LAST_TURN && self.serve_request(token) {}
        }
        self.join_vcpus();
        self.take_notices();
        if !self.stderr_ended {
            self.stderr.log_rest();
        }
    }
}

/// The library that a line of the dynamic loader's says is missing: glibc's, or musl's.
fn missing_library(line: &str) -> Option<&str> {
    let begun = ["error while loading shared libraries: ", "Error loading shared library "];
    let (_, behind) = begun.iter().find_map(|begun| line.split_once(begun))?;
    behind.split(':').next().filter(|library| !library.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaders_complaint_names_the_library() {
        let glibc =
            "./p: error while loading shared libraries: libx.so.1: cannot open shared object file: No such file";
        let musl = "Error loading shared library libx.so.1: No such file or directory (needed by ./p)";
        for line in [glibc, musl] {
            assert_eq!(missing_library(line), Some("libx.so.1"));
        }
        for line in ["", "error while loading shared libraries: ", "libx.so.1: cannot open", "p: command not found"] {
            assert_eq!(missing_library(line), None, "{line}");
        }
    }
}
