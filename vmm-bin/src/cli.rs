//! The command line.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{EnumValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueHint, value_parser};

use plugin_runtime::{Transport, Unclaimed};

use crate::backend::{Choice, KvmOptions, MockClock};
use crate::bench::guest::Case;
use crate::bench::links::Link;
use crate::bench::plugin::PluginArgs;
use crate::jail_args::JailArgs;
use crate::net::NetArgs;

/// A virtual machine monitor whose devices live in another process
///
/// Outboard owns the VM and its vCPUs. A plugin, a process of its own, owns everything else: guest memory, devices, the
/// vCPUs' first registers. `outboard demo` shows the two at work.
#[derive(Debug, Parser)]
#[command(name = "outboard", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) logging: Logging,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How much is told on standard error.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Logging {
    /// Tell more: -v debug, -vv trace. OUTBOARD_LOG outweighs it, for example OUTBOARD_LOG=warn,vmm_core=trace
    #[arg(short, long, global = true, display_order = 100, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Tell errors only, whatever -v says
    #[arg(short, long, global = true, display_order = 101)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a VM with a plugin, until the plugin has ended
    Run(RunArgs),
    /// Show a guest, its plugin, and what passes between them; needs nothing but this program
    Demo(DemoArgs),
    /// Measure what an exit costs on each way to the one who answers it
    ///
    /// Eight links are compared: `bare`, answered where the vCPU is run; `line`, the same when a cache line has gone to
    /// another thread and back, the least that an answer over shared memory costs; `channel-inline` and
    /// `channel-thread`, answered in this process behind the channels of a machine, on the vCPU's own thread or on
    /// another; `pipe`, answered by a plugin process in its jail over pipes, `pipe-unjailed` by one without;
    /// `ring-sleep` and `ring-poll`, by one in its jail over rings in shared memory whose waiters sleep at once, or look
    /// first. `start` is the time until such a process makes its first request; its ratio is to a start without a jail.
    /// A time is from one guest entry to the next. Rounds of one block a link, in rotating order, keep what disturbs the
    /// host from hitting one link alone.
    ///
    /// `median` is that of the blocks' medians; its `noise` is where it would come to lie again, 19 times of 20. The ratio is the
    /// median over rounds of the block's median against that of the first link in the same round. Time on processors is
    /// that of the whole process of the VMM, and of all processes of the plugin's jail.
    Bench(BenchArgs),
    /// Run random guests under load until something is wrong or the time is up
    ///
    /// A round is one VM of eight vCPUs with a plugin process: on KVM and on the mock in turns, over pipes and over rings, in a
    /// jail or without one. Its guests write, post, read, move strings, and number each step; the plugin sees whether one is
    /// lost, comes twice, or comes out of order. Meanwhile vCPUs are paused, memory is taken away and given back, lines and
    /// irqfds interrupt, ranges and connections come and go. Some plugins are killed, some quit, some guests fault. After each
    /// round this process must hold no more than in the first rounds: descriptors, threads, mappings, memory.
    ///
    /// What a round does depends on the seed and the round's number alone. What fails is told with the command that repeats
    /// its round. At the end it is told how many cases of each kind ran.
    Soak(SoakArgs),
    /// The plugin of `demo`
    #[command(hide = true)]
    DemoPlugin {
        /// The hypervisor's name
        backend: String,
    },
    /// The plugin of `bench`
    #[command(hide = true)]
    BenchPlugin(PluginArgs),
    /// The plugin of `soak`
    #[command(hide = true)]
    SoakPlugin {
        /// The soak's seed
        seed: u64,
        /// The round's number
        round: u64,
        /// The file for its numbers
        sheet: PathBuf,
    },
    /// Write the manual pages and the completions of shells
    #[command(hide = true)]
    Generate {
        /// Where the manual pages go
        #[arg(long, value_name = "DIR")]
        man: PathBuf,
        /// Where the completions go
        #[arg(long, value_name = "DIR")]
        completions: PathBuf,
    },
}

const SCRIPT_HELP: &str = "\
Script of the mock, one step a line; `#` begins a comment, numbers are decimal or 0x hexadecimal:
  mov VALUE                RAX becomes VALUE
  in PORT WIDTH            read 1, 2 or 4 bytes from a port into RAX
  out PORT WIDTH           write RAX's low 1, 2 or 4 bytes to a port
  ins PORT WIDTH COUNT     read COUNT items from a port in one exit
  load ADDRESS WIDTH       read 1 to 8 bytes of guest-physical memory into RAX
  store ADDRESS WIDTH      write RAX's low 1 to 8 bytes to guest-physical memory
  shutdown                 a triple fault
  again                    as the last line: start over
A vCPU at the end of its script halts.";

#[derive(Args, Debug)]
#[command(after_long_help = SCRIPT_HELP)]
pub(crate) struct RunArgs {
    /// The plugin's executable
    #[arg(long, value_name = "PATH", help_heading = "Plugin", value_hint = ValueHint::ExecutablePath)]
    pub(crate) plugin: PathBuf,
    /// An argument for the plugin, handed over as it is, before those after `--`; may be given more than once
    #[arg(short, long, value_name = "ARG", help_heading = "Plugin", allow_hyphen_values = true)]
    pub(crate) params: Vec<OsString>,
    /// How long the plugin may take to answer an access, in seconds, fractions allowed; without it, as long as it likes
    #[arg(long, value_name = "SECONDS", help_heading = "Plugin", value_parser = seconds)]
    pub(crate) exit_timeout: Option<Duration>,
    /// How exits reach the plugin: `auto` takes rings in shared memory where the plugin's library knows them
    #[arg(long, value_enum, help_heading = "Plugin", default_value = "auto")]
    pub(crate) transport: TransportChoice,
    /// How long, in microseconds, either side of a ring looks before it sleeps; 0 never looks. Without it, what suits the
    /// processors there are. OUTBOARD_POLL_US in the plugin's environment says it for the plugin's side
    #[arg(long, value_name = "N", help_heading = "Plugin", value_parser = value_parser!(u32).range(..=10_000))]
    pub(crate) poll_us: Option<u32>,
    /// Number of vCPUs, 1 to 254
    #[arg(short, long, value_name = "N", help_heading = "Machine", default_value = "1",
          value_parser = value_parser!(u32).range(1..=254).try_map(NonZeroU32::try_from))]
    pub(crate) cpus: NonZeroU32,
    /// What runs the guest
    #[arg(long, value_enum, help_heading = "Machine", default_value = "auto")]
    pub(crate) hypervisor: Choice,
    /// The KVM device, in place of /dev/kvm; asks for KVM, unless --hypervisor says mock
    #[arg(long, value_name = "PATH", help_heading = "Machine", value_hint = ValueHint::FilePath)]
    pub(crate) kvm_device: Option<PathBuf>,
    /// Back guest memory by huge pages where the kernel can, on KVM
    ///
    /// Guest memory belongs to the plugin, which makes it as it likes. What this program adds is advice to the kernel, for
    /// its own mappings of that memory (MADV_HUGEPAGE). The kernel honours it where
    /// /sys/kernel/mm/transparent_hugepage/shmem_enabled is `advise`, `within_size` or `always`.
    #[arg(long, help_heading = "Machine")]
    pub(crate) hugepages: bool,
    /// How much guest memory the plugin may map in all: bytes, or a number with K, M, G or T (powers of 1024); without it, as much
    /// as the host has RAM. More is refused with ENOMEM
    ///
    /// The kernel needs memory of its own for each page of guest memory, whether it is touched or not: up to 0.25 % of it. It
    /// counts that for this program.
    #[arg(long, value_name = "SIZE", help_heading = "Machine", value_parser = size)]
    pub(crate) max_memory: Option<u64>,
    /// What becomes of the guest's accesses to what the plugin has not reserved
    #[arg(long, value_enum, help_heading = "Machine", default_value = "ignore")]
    pub(crate) unclaimed: UnclaimedChoice,
    /// A control group, of version 1 or 2, whose directory is PATH: the thread of each vCPU joins it before its vCPU runs
    ///
    /// A group of version 2 must be threaded to take single threads.
    #[arg(long, value_name = "PATH", help_heading = "Machine", value_hint = ValueHint::DirPath)]
    pub(crate) vcpu_cgroup_path: Option<PathBuf>,
    /// What moves the mock's clock, by which its timers and time-stamp counters count
    #[arg(long, value_enum, value_name = "CLOCK", help_heading = "Machine", default_value = "host")]
    pub(crate) mock_clock: MockClock,
    /// What every vCPU of the mock does in place of guest code: a file of exits, one a line (--help shows the steps)
    #[arg(long, value_name = "FILE", help_heading = "Machine", value_hint = ValueHint::FilePath)]
    pub(crate) script: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) jail: Box<JailArgs>,
    #[command(flatten)]
    pub(crate) net: NetArgs,
    /// Arguments for the plugin, handed over as they are
    #[arg(last = true, value_name = "PLUGIN ARGS", help_heading = "Plugin")]
    pub(crate) plugin_args: Vec<OsString>,
}

/// The names of [`Unclaimed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum UnclaimedChoice {
    /// Reads get zeros, writes vanish; the first access to each address is logged at debug
    Ignore,
    /// The same, logged as a warning
    Log,
    /// The vCPU stops: the guest has failed
    Stop,
}

impl From<UnclaimedChoice> for Unclaimed {
    fn from(choice: UnclaimedChoice) -> Self {
        match choice {
            UnclaimedChoice::Ignore => Self::Ignore,
            UnclaimedChoice::Log => Self::Log,
            UnclaimedChoice::Stop => Self::Stop,
        }
    }
}

/// The names of [`Transport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum TransportChoice {
    /// Rings where the plugin's library knows them, else pipes
    Auto,
    /// Pipes
    Pipe,
    /// Rings; a plugin that asks for pipes is refused
    Ring,
}

impl From<TransportChoice> for Transport {
    fn from(choice: TransportChoice) -> Self {
        match choice {
            TransportChoice::Auto => Self::Auto,
            TransportChoice::Pipe => Self::Pipe,
            TransportChoice::Ring => Self::Ring,
        }
    }
}

impl RunArgs {
    /// How KVM is used.
    pub(crate) fn kvm_options(&self) -> KvmOptions {
        KvmOptions { device: self.kvm_device.clone(), huge_pages: self.hugepages }
    }

    /// All arguments for the plugin, in order.
    pub(crate) fn plugin_args(&self) -> Vec<OsString> {
        [&self.params[..], &self.plugin_args].concat()
    }
}

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// What runs the guest
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) hypervisor: Choice,
}

#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// Exits in a block, at least; 10000, or 2000 with --jail-cost
    #[arg(short = 'n', long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub(crate) exits: Option<u32>,
    /// Blocks of each link that count, after one that warms up
    #[arg(long, value_name = "BLOCKS", default_value = "9", value_parser = value_parser!(u32).range(1..))]
    pub(crate) blocks: u32,
    /// Measure, in place of the table, what the jail adds to a start and to an exit, over pipes and over rings
    ///
    /// Plugins with and without a jail are started in turn and take turns with blocks of exits; others without one are
    /// compared with those without, which tells the noise of the measurement.
    #[arg(long)]
    pub(crate) jail_cost: bool,
    /// Starts of a plugin, without a jail and with one; with --jail-cost, in each case. None where cases or links were chosen
    #[arg(long, value_name = "N", default_value = "20")]
    pub(crate) starts: u32,
    /// What the guest does; without it, each of these. May be given more than once
    #[arg(long, value_name = "CASE", value_parser = EnumValueParser::<Case>::new().try_map(case_with_exits))]
    pub(crate) case: Vec<Case>,
    /// A link; without it, all that make sense. May be given more than once; ratios are to the first
    #[arg(long, value_enum, value_name = "LINK")]
    pub(crate) link: Vec<Link>,
    /// The processor that the VMM keeps to, and that of the plugin; of one, both keep to it
    #[arg(long, value_name = "VMM[,PLUGIN]", value_parser = Pin::parse)]
    pub(crate) pin: Option<Pin>,
    /// Measure, in place of the table, an exit with N reserved ranges against one with a single range
    #[arg(long, value_name = "N", conflicts_with = "jail_cost",
          value_parser = value_parser!(u32).range(2..=131_000).try_map(NonZeroU32::try_from))]
    pub(crate) reservations: Option<NonZeroU32>,
    /// Measure, in place of the table, how many exits N vCPUs make together, against 2
    #[arg(long, value_name = "N", conflicts_with_all = ["jail_cost", "reservations"],
          value_parser = value_parser!(u32).range(2..=254).try_map(NonZeroU32::try_from))]
    pub(crate) vcpus: Option<NonZeroU32>,
    /// Measure, in place of the table, what a guest without exits costs, for so long on each link
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["jail_cost", "reservations", "vcpus"], value_parser = seconds)]
    pub(crate) idle: Option<Duration>,
    /// What runs the guest
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) hypervisor: Choice,
    /// Print a JSON array instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `bench` measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// An exit of each case on each link.
    Table,
    /// An exit with so many reserved ranges.
    Reservations(NonZeroU32),
    /// The exits of so many vCPUs together.
    Together(NonZeroU32),
    /// No exits for so long.
    Idle(Duration),
    /// What the jail adds.
    JailCost,
}

impl BenchArgs {
    /// What was asked for.
    pub(crate) fn what(&self) -> What {
        let jail_cost = self.jail_cost.then_some(What::JailCost);
        jail_cost
            .or(self.reservations.map(What::Reservations))
            .or(self.vcpus.map(What::Together))
            .or(self.idle.map(What::Idle))
            .unwrap_or(What::Table)
    }

    /// Exits in a block.
    pub(crate) fn exits(&self) -> u32 {
        self.exits.unwrap_or(if self.jail_cost { 2_000 } else { 10_000 })
    }
}

/// The processors of the VMM and of the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pin(pub(crate) [usize; 2]);

impl Pin {
    fn parse(text: &str) -> Result<Self, std::num::ParseIntError> {
        let (vmm, plugin) = text.split_once(',').unwrap_or((text, text));
        Ok(Self([vmm.parse()?, plugin.parse()?]))
    }
}

fn case_with_exits(case: Case) -> Result<Case, &'static str> {
    if case.has_exits() { Ok(case) } else { Err("there is nothing to measure: see --idle") }
}

#[derive(Args, Debug)]
pub(crate) struct SoakArgs {
    /// How long, in minutes, fractions allowed; the round that is under way then is finished
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = minutes)]
    pub(crate) minutes: f64,
    /// What all that is random comes from; without it, another each time, which is told
    #[arg(short, long, value_name = "S")]
    pub(crate) seed: Option<u64>,
    /// Only the round of this number, from 0, whatever --minutes says; --hypervisor says what it runs on
    #[arg(long, value_name = "N", requires = "seed")]
    pub(crate) round: Option<u64>,
    /// What runs the guests; `auto` takes KVM and the mock in turns, or the mock where there is no KVM
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) hypervisor: Choice,
}

impl Cli {
    /// Reads the command line.
    ///
    /// # Errors
    ///
    /// What clap makes of bad usage, and of a call for help or the version.
    pub(crate) fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let cli = Self::try_parse_from(args)?;
        let message = match &cli.command {
            Command::Run(RunArgs { hypervisor: Choice::Kvm, script: Some(_), .. }) => {
                "--script says what the mock does and cannot be used with --hypervisor kvm"
            }
            Command::Run(RunArgs { kvm_device: Some(_), script: Some(_), .. }) => {
                "--script says what the mock does and cannot be used with --kvm-device"
            }
            Command::Run(RunArgs { hypervisor: Choice::Kvm, mock_clock: MockClock::Virtual, .. }) => {
                "--mock-clock says what moves the mock's clock and cannot be used with --hypervisor kvm"
            }
            _ => return Ok(cli),
        };
        Err(usage_error("run", ErrorKind::ArgumentConflict, message))
    }
}

/// Bad usage of `subcommand` that clap cannot see by itself.
fn usage_error(subcommand: &str, kind: ErrorKind, message: &str) -> clap::Error {
    let mut command = Cli::command();
    command.build();
    match command.find_subcommand_mut(subcommand) {
        Some(subcommand) => subcommand.error(kind, message),
        None => command.error(kind, message),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(Duration::ZERO) => Err("must be more than 0".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

/// A number of bytes.
fn size(text: &str) -> Result<u64, String> {
    let units = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let unit = units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(*unit)?, 1_u64 << shift)));
    let (number, unit) = unit.unwrap_or((text, 1));
    let number: u64 = number.parse().map_err(|_| "not a number, or one with K, M, G or T".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "more than 64 bits".into())
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        // A year.
        Ok(minutes) if minutes > 0.0 && minutes <= 525_600.0 => Ok(minutes),
        _ => Err("not a number of minutes above 0".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::from_args(format!("outboard {line}").split_whitespace().map(OsString::from))
    }

    fn run_args(line: &str) -> RunArgs {
        match parse(line).unwrap().command {
            Command::Run(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_plugin_alone_is_enough() {
        let args = run_args("run --plugin ./p");
        assert_eq!((args.cpus.get(), args.hypervisor), (1, Choice::Auto));
        assert!(args.script.is_none() && args.exit_timeout.is_none() && args.plugin_args.is_empty());
    }

    #[test]
    fn what_follows_the_dashes_is_the_plugins_even_if_it_looks_like_ours() {
        let args = run_args("run --plugin ./p -c 2 -- -c --help x");
        assert_eq!(args.cpus.get(), 2);
        assert_eq!(args.plugin_args, ["-c", "--help", "x"]);
    }

    #[test]
    fn params_are_arguments_of_the_plugin_unsplit_and_before_the_others() {
        let args = Cli::from_args(
            ["outboard", "run", "-p", "a b,c", "--plugin", "p", "--params=--cpus=9", "-p", "-v", "--", "last"]
                .map(OsString::from),
        );
        let Command::Run(args) = args.unwrap().command else { panic!("another command") };
        assert_eq!(args.plugin_args(), ["a b,c", "--cpus=9", "-v", "last"]);
    }

    /// As they stood in scripts that called the program this one follows.
    #[test]
    fn the_old_names_of_options_are_known() {
        let args = run_args(
            "run -c 2 --plugin p --host-ip 10.0.0.1 --netmask 255.0.0.0 --mac 70:5d:cc:fe:00:01 -p x --hugepages \
             --kvm-device /dev/kvm2 --vcpu-cgroup-path /sys/fs/cgroup/x --disable-sandbox",
        );
        let options = KvmOptions { device: Some("/dev/kvm2".into()), huge_pages: true };
        assert_eq!((args.kvm_options(), args.vcpu_cgroup_path), (options, Some("/sys/fs/cgroup/x".into())));
        run_args("run --cpus 2 --plugin p --tap-name tap0 --params x");
        assert_eq!(run_args("run --plugin p").kvm_options(), KvmOptions::default());
    }

    #[test]
    fn a_tap_is_made_from_all_three_addresses_or_is_named() {
        assert!(parse("run --plugin p --host-ip 10.0.0.1 --netmask 255.0.0.0 --mac 70:5d:cc:fe:00:01").is_ok());
        for bad in [
            "--host-ip 10.0.0.1",
            "--host-ip 10.0.0.1 --netmask 255.0.0.0",
            "--netmask 255.0.0.0",
            "--mac 70:5d:cc:fe:00:01",
            "--host-ip 10.0.0.1 --netmask 255.0.0.0 --mac 70:5d:cc:fe:00:01 --tap-name tap0",
            "--tap-name tap0 --tap-fd 3",
            "--host-ip ten --netmask 255.0.0.0 --mac 70:5d:cc:fe:00:01",
            "--tap-fd 2",
        ] {
            assert!(parse(&format!("run --plugin p {bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_kvm_device_excludes_a_script_and_is_moot_for_the_mock() {
        let error = parse("run --plugin p --kvm-device d --script s").unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (ErrorKind::ArgumentConflict, 2));
        assert_eq!(run_args("run --plugin p --kvm-device d --hypervisor mock").hypervisor, Choice::Mock);
        assert!(parse("run --plugin p --kvm-device d --hypervisor kvm").is_ok());
    }

    #[test]
    fn cpus_are_1_to_254() {
        assert_eq!(run_args("run --plugin p --cpus 254").cpus.get(), 254);
        for bad in ["0", "255", "-1", "x"] {
            assert!(parse(&format!("run --plugin p --cpus={bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_exit_timeout_is_a_positive_number_of_seconds() {
        let timeout = run_args("run --plugin p --exit-timeout 0.25").exit_timeout;
        assert_eq!(timeout, Some(Duration::from_millis(250)));
        for bad in ["0", "-1", "nan", "inf", "1e30", "soon"] {
            assert!(parse(&format!("run --plugin p --exit-timeout={bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_size_is_a_number_of_bytes_or_has_a_unit() {
        let most = |text: &str| run_args(&format!("run --plugin p --max-memory {text}")).max_memory;
        assert_eq!([most("0"), most("4096"), most("3K")], [Some(0), Some(4096), Some(3072)]);
        assert_eq!([most("2M"), most("16G"), most("1T")], [Some(2 << 20), Some(16 << 30), Some(1 << 40)]);
        assert_eq!(run_args("run --plugin p").max_memory, None);
        for bad in ["", "G", "-1", "1.5G", "1GB", "1 G", "16777216T"] {
            assert!(
                Cli::from_args(["outboard", "run", "--plugin", "p", "--max-memory", bad].map(OsString::from)).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_virtual_clock_is_the_mocks_alone() {
        let error = parse("run --plugin p --hypervisor kvm --mock-clock virtual").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ArgumentConflict);
        assert_eq!(run_args("run --plugin p --mock-clock virtual").mock_clock, MockClock::Virtual);
    }

    #[test]
    fn a_script_does_not_go_with_kvm() {
        let error = parse("run --plugin p --hypervisor kvm --script s").unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (ErrorKind::ArgumentConflict, 2));
        assert!(error.to_string().contains("outboard run"), "{error}");
        assert!(run_args("run --plugin p --script s").script.is_some());
        assert!(run_args("run --plugin p --hypervisor mock --script s").script.is_some());
    }

    #[test]
    fn logging_options_stand_anywhere_and_may_be_together() {
        assert_eq!(parse("-v demo -v").unwrap().logging.verbose, 1);
        assert_eq!(parse("demo -vv").unwrap().logging.verbose, 2);
        assert!(parse("demo --quiet").unwrap().logging.quiet);
        assert!(parse("demo -q -v").unwrap().logging.quiet);
    }

    #[test]
    fn a_block_counts_and_there_is_at_least_one() {
        assert!(parse("bench --blocks 0").is_err());
        assert!(parse("bench --blocks 1 -n 1 --json").is_ok());
    }

    fn bench_args(line: &str) -> BenchArgs {
        match parse(line).unwrap().command {
            Command::Bench(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn processors_are_one_for_both_or_one_each() {
        assert_eq!(bench_args("bench --pin 1").pin, Some(Pin([1, 1])));
        assert_eq!(bench_args("bench --pin 0,1").pin, Some(Pin([0, 1])));
        assert!(parse("bench --pin 0,").is_err() && parse("bench --pin x").is_err());
    }

    #[test]
    fn bench_measures_one_thing_at_a_time() {
        let n = NonZeroU32::new(64).unwrap();
        assert_eq!(bench_args("bench --case regs --link pipe").what(), What::Table);
        assert_eq!(bench_args("bench --reservations 64").what(), What::Reservations(n));
        assert_eq!(bench_args("bench --vcpus 64").what(), What::Together(n));
        assert_eq!(bench_args("bench --jail-cost").what(), What::JailCost);
        assert_eq!(bench_args("bench --idle 0.5").what(), What::Idle(Duration::from_millis(500)));
        for bad in ["--vcpus 4 --idle 1", "--vcpus 4 --reservations 5", "--vcpus 1", "--case idle"] {
            assert!(parse(&format!("bench {bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_soak_lasts_for_minutes_or_is_one_round_of_a_seed() {
        assert!(parse("soak --minutes 0.33").is_ok() && parse("soak --seed 1 --round 2").is_ok());
        assert!(parse("soak --seed 1 --round 2 --minutes 1").is_ok());
        for bad in ["--minutes 0", "--minutes nan", "--minutes inf", "--round 2"] {
            assert!(parse(&format!("soak {bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn help_names_the_steps_of_a_script_and_hides_our_own_plugins() {
        let mut command = Cli::command();
        let run = command.find_subcommand_mut("run").unwrap().render_long_help().to_string();
        assert!(run.contains("store ADDRESS WIDTH"), "{run}");
        for heading in ["Plugin:", "Machine:", "Network:", "Jail:"] {
            assert!(run.contains(&format!("\n{heading}\n")), "{heading} {run}");
        }
        let help = command.render_long_help().to_string();
        assert!(help.contains("bench") && !help.contains("bench-plugin"), "{help}");
    }

    #[test]
    fn bad_usage_is_exit_code_2() {
        for bad in ["", "run", "fly", "run --plugin p extra"] {
            assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }
}
