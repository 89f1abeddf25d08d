# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_outboard_global_optspecs
    string join \n v/verbose q/quiet h/help V/version
end

function __fish_outboard_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_outboard_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_outboard_using_subcommand
    set -l cmd (__fish_outboard_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c outboard -n "__fish_outboard_needs_command" -s v -l verbose -d 'Tell more: -v debug, -vv trace. OUTBOARD_LOG outweighs it, for example OUTBOARD_LOG=warn,vmm_core=trace'
complete -c outboard -n "__fish_outboard_needs_command" -s q -l quiet -d 'Tell errors only, whatever -v says'
complete -c outboard -n "__fish_outboard_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c outboard -n "__fish_outboard_needs_command" -s V -l version -d 'Print version'
complete -c outboard -n "__fish_outboard_needs_command" -f -a "run" -d 'Run a VM with a plugin, until the plugin has ended'
complete -c outboard -n "__fish_outboard_needs_command" -f -a "demo" -d 'Show a guest, its plugin, and what passes between them; needs nothing but this program'
complete -c outboard -n "__fish_outboard_needs_command" -f -a "bench" -d 'Measure what an exit costs on each way to the one who answers it'
complete -c outboard -n "__fish_outboard_needs_command" -f -a "soak" -d 'Run random guests under load until something is wrong or the time is up'
complete -c outboard -n "__fish_outboard_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c outboard -n "__fish_outboard_using_subcommand run" -l plugin -d 'The plugin\'s executable' -r -F
complete -c outboard -n "__fish_outboard_using_subcommand run" -s p -l params -d 'An argument for the plugin, handed over as it is, before those after `--`; may be given more than once' -r
complete -c outboard -n "__fish_outboard_using_subcommand run" -l exit-timeout -d 'How long the plugin may take to answer an access, in seconds, fractions allowed; without it, as long as it likes' -r
complete -c outboard -n "__fish_outboard_using_subcommand run" -l transport -d 'How exits reach the plugin: `auto` takes rings in shared memory where the plugin\'s library knows them' -r -f -a "auto\t'Rings where the plugin\'s library knows them, else pipes'
pipe\t'Pipes'
ring\t'Rings; a plugin that asks for pipes is refused'"
complete -c outboard -n "__fish_outboard_using_subcommand run" -l poll-us -d 'How long, in microseconds, either side of a ring looks before it sleeps; 0 never looks. Without it, what suits the processors there are. OUTBOARD_POLL_US in the plugin\'s environment says it for the plugin\'s side' -r
complete -c outboard -n "__fish_outboard_using_subcommand run" -s c -l cpus -d 'Number of vCPUs, 1 to 254' -r
complete -c outboard -n "__fish_outboard_using_subcommand run" -l hypervisor -d 'What runs the guest' -r -f -a "auto\t'KVM if /dev/kvm opens, else the mock'
kvm\t'/dev/kvm'
mock\t'No device, no privilege: guest code is interpreted'"
complete -c outboard -n "__fish_outboard_using_subcommand run" -l kvm-device -d 'The KVM device, in place of /dev/kvm; asks for KVM, unless --hypervisor says mock' -r -F
complete -c outboard -n "__fish_outboard_using_subcommand run" -l max-memory -d 'How much guest memory the plugin may map in all: bytes, or a number with K, M, G or T (powers of 1024); without it, as much as the host has RAM. More is refused with ENOMEM' -r
complete -c outboard -n "__fish_outboard_using_subcommand run" -l unclaimed -d 'What becomes of the guest\'s accesses to what the plugin has not reserved' -r -f -a "ignore\t'Reads get zeros, writes vanish; the first access to each address is logged at debug'
log\t'The same, logged as a warning'
stop\t'The vCPU stops: the guest has failed'"
complete -c outboard -n "__fish_outboard_using_subcommand run" -l vcpu-cgroup-path -d 'A control group, of version 1 or 2, whose directory is PATH: the thread of each vCPU joins it before its vCPU runs' -r -f -a "(__fish_complete_directories)"
complete -c outboard -n "__fish_outboard_using_subcommand run" -l mock-clock -d 'What moves the mock\'s clock, by which its timers and time-stamp counters count' -r -f -a "host\t'The host\'s clock'
virtual\t'The guest\'s instructions, a nanosecond each; while all vCPUs halt it jumps to the next timer, whatever the plugin does meanwhile'"
complete -c outboard -n "__fish_outboard_using_subcommand run" -l script -d 'What every vCPU of the mock does in place of guest code: a file of exits, one a line (--help shows the steps)' -r -F
complete -c outboard -n "__fish_outboard_using_subcommand run" -l plugin-root -d 'The plugin\'s root directory, read-only, in which --plugin is looked up; it has directories `proc` and `dev`, and the plugin\'s libraries. Without it the root is empty but for the plugin and the system\'s libraries' -r -F
complete -c outboard -n "__fish_outboard_using_subcommand run" -l plugin-mount -d 'Show the plugin a file or directory, at the same place or at DST; read-only, unless WRITABLE is 1 or true' -r
complete -c outboard -n "__fish_outboard_using_subcommand run" -l plugin-mount-file -d 'The same from a file with one mount a line; `#` begins a comment' -r -F
complete -c outboard -n "__fish_outboard_using_subcommand run" -l plugin-gid-map -d 'Make the plugin a member of COUNT groups (1) that are from INNER on in the jail, from OUTER (INNER) on outside; for root only' -r
complete -c outboard -n "__fish_outboard_using_subcommand run" -l plugin-gid-map-file -d 'The same from a file with one map a line; `#` begins a comment' -r -F
complete -c outboard -n "__fish_outboard_using_subcommand run" -l plugin-user -d 'Who the plugin is outside the jail, for root only; without it root\'s plugin has an id of its own, of --plugin-id-range, and another user\'s is that user' -r
complete -c outboard -n "__fish_outboard_using_subcommand run" -l plugin-id-range -d 'The ids of which root\'s plugin gets one, as user and as group, that no other live plugin has; 2130706432:65536' -r
complete -c outboard -n "__fish_outboard_using_subcommand run" -l plugin-max-descriptors -d 'How many descriptors each process of the plugin may have open; 2048, fewer where the host has little memory' -r
complete -c outboard -n "__fish_outboard_using_subcommand run" -l plugin-max-processes -d 'How many processes and threads may be in the jail, one of which is its own; 128 and one to each vCPU' -r
complete -c outboard -n "__fish_outboard_using_subcommand run" -l seccomp-policy-dir -d 'Take the system calls the plugin may make from plugin.policy in this directory, not from the built-in policy' -r -F
complete -c outboard -n "__fish_outboard_using_subcommand run" -l host-ip -d 'Make a tap for the plugin, with this address on the host\'s side' -r
complete -c outboard -n "__fish_outboard_using_subcommand run" -l netmask -d 'The netmask of --host-ip' -r
complete -c outboard -n "__fish_outboard_using_subcommand run" -l mac -d 'The MAC address of the tap that is made' -r
complete -c outboard -n "__fish_outboard_using_subcommand run" -l tap-name -d 'Give the plugin this tap, as it is set up' -r
complete -c outboard -n "__fish_outboard_using_subcommand run" -l tap-fd -d 'Give the plugin the tap behind this inherited descriptor, as it is set up' -r
complete -c outboard -n "__fish_outboard_using_subcommand run" -l hugepages -d 'Back guest memory by huge pages where the kernel can, on KVM'
complete -c outboard -n "__fish_outboard_using_subcommand run" -l disable-sandbox -d 'Run the plugin without a jail: it can do all that this user can. The other options here have no effect then'
complete -c outboard -n "__fish_outboard_using_subcommand run" -l plugin-realtime -d 'Let the plugin keep this program\'s real-time priority, negative nice value, and protection from the OOM killer'
complete -c outboard -n "__fish_outboard_using_subcommand run" -l plugin-stdio -d 'Let the plugin have this program\'s standard input and output, not /dev/null'
complete -c outboard -n "__fish_outboard_using_subcommand run" -l seccomp-log -d 'Tell of system calls that the policy does not allow, and let them be made'
complete -c outboard -n "__fish_outboard_using_subcommand run" -s v -l verbose -d 'Tell more: -v debug, -vv trace. OUTBOARD_LOG outweighs it, for example OUTBOARD_LOG=warn,vmm_core=trace'
complete -c outboard -n "__fish_outboard_using_subcommand run" -s q -l quiet -d 'Tell errors only, whatever -v says'
complete -c outboard -n "__fish_outboard_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c outboard -n "__fish_outboard_using_subcommand demo" -l hypervisor -d 'What runs the guest' -r -f -a "auto\t'KVM if /dev/kvm opens, else the mock'
kvm\t'/dev/kvm'
mock\t'No device, no privilege: guest code is interpreted'"
complete -c outboard -n "__fish_outboard_using_subcommand demo" -s v -l verbose -d 'Tell more: -v debug, -vv trace. OUTBOARD_LOG outweighs it, for example OUTBOARD_LOG=warn,vmm_core=trace'
complete -c outboard -n "__fish_outboard_using_subcommand demo" -s q -l quiet -d 'Tell errors only, whatever -v says'
complete -c outboard -n "__fish_outboard_using_subcommand demo" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c outboard -n "__fish_outboard_using_subcommand bench" -s n -l exits -d 'Exits in a block, at least; 10000, or 2000 with --jail-cost' -r
complete -c outboard -n "__fish_outboard_using_subcommand bench" -l blocks -d 'Blocks of each link that count, after one that warms up' -r
complete -c outboard -n "__fish_outboard_using_subcommand bench" -l starts -d 'Starts of a plugin, without a jail and with one; with --jail-cost, in each case. None where cases or links were chosen' -r
complete -c outboard -n "__fish_outboard_using_subcommand bench" -l case -d 'What the guest does; without it, each of these. May be given more than once' -r -f -a "sync-write\t'Writes a byte to a port'
sync-read\t'Reads a byte from a port'
regs\t'Writes a byte to a port; the registers are got and set within'
regs-read\t'Reads a byte from a port; the registers are got and set within'
posted\t'Writes bytes to a port without waiting, and after 255 one that it waits for'
coalesced\t'Writes bytes to a port whose writes are coalesced, and after 169 one that it waits for'"
complete -c outboard -n "__fish_outboard_using_subcommand bench" -l link -d 'A link; without it, all that make sense. May be given more than once; ratios are to the first' -r -f -a "bare\t'None: the answer is given where the vCPU is run'
line\t'None, but a cache line goes to another thread and back before an answer that is waited for: the least that shared memory costs on this host'
channel-inline\t'The channels of a machine, answered on the vCPU\'s own thread'
channel-thread\t'The channels of a machine, answered on another thread'
pipe-unjailed\t'The channels of a machine, and from there the pipes to a plugin process without a jail'
pipe\t'The same in its jail, as plugins run by default'
ring-sleep\t'The same over rings whose waiters sleep at once'
ring-poll\t'The same over rings as they are by default: whose waiters look for a while first, where there are processors for it'"
complete -c outboard -n "__fish_outboard_using_subcommand bench" -l pin -d 'The processor that the VMM keeps to, and that of the plugin; of one, both keep to it' -r
complete -c outboard -n "__fish_outboard_using_subcommand bench" -l reservations -d 'Measure, in place of the table, an exit with N reserved ranges against one with a single range' -r
complete -c outboard -n "__fish_outboard_using_subcommand bench" -l vcpus -d 'Measure, in place of the table, how many exits N vCPUs make together, against 2' -r
complete -c outboard -n "__fish_outboard_using_subcommand bench" -l idle -d 'Measure, in place of the table, what a guest without exits costs, for so long on each link' -r
complete -c outboard -n "__fish_outboard_using_subcommand bench" -l hypervisor -d 'What runs the guest' -r -f -a "auto\t'KVM if /dev/kvm opens, else the mock'
kvm\t'/dev/kvm'
mock\t'No device, no privilege: guest code is interpreted'"
complete -c outboard -n "__fish_outboard_using_subcommand bench" -l jail-cost -d 'Measure, in place of the table, what the jail adds to a start and to an exit, over pipes and over rings'
complete -c outboard -n "__fish_outboard_using_subcommand bench" -l json -d 'Print a JSON array instead of a table'
complete -c outboard -n "__fish_outboard_using_subcommand bench" -s v -l verbose -d 'Tell more: -v debug, -vv trace. OUTBOARD_LOG outweighs it, for example OUTBOARD_LOG=warn,vmm_core=trace'
complete -c outboard -n "__fish_outboard_using_subcommand bench" -s q -l quiet -d 'Tell errors only, whatever -v says'
complete -c outboard -n "__fish_outboard_using_subcommand bench" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c outboard -n "__fish_outboard_using_subcommand soak" -s m -l minutes -d 'How long, in minutes, fractions allowed; the round that is under way then is finished' -r
complete -c outboard -n "__fish_outboard_using_subcommand soak" -s s -l seed -d 'What all that is random comes from; without it, another each time, which is told' -r
complete -c outboard -n "__fish_outboard_using_subcommand soak" -l round -d 'Only the round of this number, from 0, whatever --minutes says; --hypervisor says what it runs on' -r
complete -c outboard -n "__fish_outboard_using_subcommand soak" -l hypervisor -d 'What runs the guests; `auto` takes KVM and the mock in turns, or the mock where there is no KVM' -r -f -a "auto\t'KVM if /dev/kvm opens, else the mock'
kvm\t'/dev/kvm'
mock\t'No device, no privilege: guest code is interpreted'"
complete -c outboard -n "__fish_outboard_using_subcommand soak" -s v -l verbose -d 'Tell more: -v debug, -vv trace. OUTBOARD_LOG outweighs it, for example OUTBOARD_LOG=warn,vmm_core=trace'
complete -c outboard -n "__fish_outboard_using_subcommand soak" -s q -l quiet -d 'Tell errors only, whatever -v says'
complete -c outboard -n "__fish_outboard_using_subcommand soak" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c outboard -n "__fish_outboard_using_subcommand help; and not __fish_seen_subcommand_from run demo bench soak help" -f -a "run" -d 'Run a VM with a plugin, until the plugin has ended'
complete -c outboard -n "__fish_outboard_using_subcommand help; and not __fish_seen_subcommand_from run demo bench soak help" -f -a "demo" -d 'Show a guest, its plugin, and what passes between them; needs nothing but this program'
complete -c outboard -n "__fish_outboard_using_subcommand help; and not __fish_seen_subcommand_from run demo bench soak help" -f -a "bench" -d 'Measure what an exit costs on each way to the one who answers it'
complete -c outboard -n "__fish_outboard_using_subcommand help; and not __fish_seen_subcommand_from run demo bench soak help" -f -a "soak" -d 'Run random guests under load until something is wrong or the time is up'
complete -c outboard -n "__fish_outboard_using_subcommand help; and not __fish_seen_subcommand_from run demo bench soak help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
