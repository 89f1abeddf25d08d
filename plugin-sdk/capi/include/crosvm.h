/*
 * The plugin API, version 0.22: what a plugin process asks of the VMM that started it.
 *
 * A plugin connects, gives the guest memory, reserves the addresses of its devices, and starts the VM. From then on
 * each vCPU reports events: crosvm_vcpu_wait() blocks until there is one, and crosvm_vcpu_resume() lets the vCPU run
 * on.
 *
 * Every function returns 0, or a file descriptor, on success and a negative errno value on failure. What is not said of
 * a function's errors below:
 *
 *   -EINVAL  a pointer is NULL that must not be, or a value has no meaning here
 *   -EBUSY   another thread is inside a call with the same handle
 *   -EPROTO  a vCPU is asked for something while it does not stand at an event; or the VMM's answer makes no sense
 *   -EPIPE   the VMM has disconnected
 *   others   as the VMM, or the kernel below it, answered
 *
 * An `out` argument is written on success only. `out_count` is written always; it is 0 after any error but -E2BIG.
 *
 * A handle is used by one thread at a time. Different handles may be used by different threads at the same time, so a
 * vCPU's thread and another thread with a connection need no lock. File descriptors that come from the VMM are not
 * close-on-exec.
 *
 * Where the VMM knows no shared memory, a vCPU's requests go through a pipe. When the VMM has gone, writing there raises
 * SIGPIPE, which ends a process unless it ignores the signal or handles it: signal(SIGPIPE, SIG_IGN) makes it -EPIPE, as
 * it is without a pipe.
 */
#ifndef CROSVM_H
#define CROSVM_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include <linux/kvm.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this interface. */
#define CROSVM_API_MAJOR 0
#define CROSVM_API_MINOR 22
#define CROSVM_API_PATCH 0

/* The most hints a VM has, and the most details a hint has. */
#define CROSVM_MAX_HINT_COUNT 1
#define CROSVM_MAX_HINT_DETAIL_COUNT 32

/* In crosvm_hint.address_flags: the hint is for writes. Without it, it is for reads. */
#define CROSVM_HINT_ON_WRITE 0x1

/* A connection to the VMM. */
struct crosvm;
/* A vCPU. Its handle is the same on all connections and lives until the last of them is destroyed. */
struct crosvm_vcpu;
/* An eventfd that the guest's writes to an address fire. */
struct crosvm_io;
/* Memory of the guest. */
struct crosvm_memory;
/* A pair of eventfds for an interrupt. */
struct crosvm_irq;

/* Where an address lies. */
enum crosvm_address_space {
	/* Ports: `in` and `out`. */
	CROSVM_ADDRESS_SPACE_IOPORT = 0,
	/* Guest-physical memory. */
	CROSVM_ADDRESS_SPACE_MMIO = 1,
};

/* What the plugin's tap is connected to. */
struct crosvm_net_config {
	/* The tap. It is the caller's to close. */
	int tap_fd;
	/* The host's IPv4 address and netmask, in network byte order. */
	uint32_t host_ip;
	uint32_t netmask;
	uint8_t host_mac_address[6];
	uint8_t _padding[2];
};

enum crosvm_irq_route_kind {
	/* A pin of an interrupt controller. */
	CROSVM_IRQ_ROUTE_IRQCHIP = 0,
	/* A message-signalled interrupt. */
	CROSVM_IRQ_ROUTE_MSI = 1,
};

/* Where an interrupt (GSI) leads to. */
struct crosvm_irq_route {
	uint32_t irq_id;
	/* An enum crosvm_irq_route_kind: which member of the union counts. */
	uint32_t kind;
	union {
		struct {
			/* KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE or KVM_IRQCHIP_IOAPIC. */
			uint32_t irqchip;
			uint32_t pin;
		} irqchip;
		struct {
			uint64_t address;
			uint32_t data;
			uint32_t _reserved;
		} msi;
		uint8_t _reserved[16];
	};
};

/* When an access for which there is a hint comes with more than the general registers. */
struct crosvm_hint_detail {
	/* Which of the registers below must have the given value. */
	bool match_rax;
	bool match_rbx;
	bool match_rcx;
	bool match_rdx;
	uint8_t _reserved1[4];
	uint64_t rax;
	uint64_t rbx;
	uint64_t rcx;
	uint64_t rdx;
	/* What comes with the access, when this is the first detail that matches. */
	bool send_sregs;
	bool send_debugregs;
	uint8_t _reserved2[6];
};

/* An access that is reported with registers, so that asking for them takes no round trip. */
struct crosvm_hint {
	/* 0. */
	uint32_t hint_version;
	uint32_t _reserved;
	/* The access: an enum crosvm_address_space, an address that is not 0, and 0 or CROSVM_HINT_ON_WRITE. */
	uint32_t address_space;
	uint16_t address_flags;
	/* How many details there are at `details`. */
	uint16_t details_count;
	uint64_t address;
	union {
		struct crosvm_hint_detail *details;
		uint64_t _details_word;
	};
};

enum crosvm_vcpu_event_kind {
	/* The vCPU is there and has not run yet. The first event of each. */
	CROSVM_VCPU_EVENT_KIND_INIT = 0,
	/* The guest has accessed a reserved range. */
	CROSVM_VCPU_EVENT_KIND_IO_ACCESS = 1,
	/* The vCPU is stopped because of crosvm_pause_vcpus(). */
	CROSVM_VCPU_EVENT_KIND_PAUSED = 2,
	/* The guest has made a Hyper-V hypercall. */
	CROSVM_VCPU_EVENT_KIND_HYPERV_HCALL = 3,
	/* The guest has changed a register of Hyper-V's synthetic interrupt controller. */
	CROSVM_VCPU_EVENT_KIND_HYPERV_SYNIC = 4,
};

struct crosvm_vcpu_event {
	/* An enum crosvm_vcpu_event_kind: which member of the union counts. */
	uint32_t kind;
	uint32_t _padding;
	union {
		/* CROSVM_VCPU_EVENT_KIND_IO_ACCESS */
		struct {
			/* An enum crosvm_address_space. */
			uint32_t address_space;
			uint32_t _padding;
			uint64_t address;
			/*
			 * What the guest writes; or where the plugin puts what the guest reads, all zeros at
			 * first. It stays there until the next resume or wait of the vCPU.
			 */
			uint8_t *data;
			/* How many bytes: up to 8, or up to 4096 for a string instruction. */
			uint32_t length;
			/* 1 for a write, 0 for a read. */
			uint8_t is_write;
			/* 1 if the guest has run on already. There is nothing to resume: wait again. */
			uint8_t no_resume;
			uint8_t _reserved[2];
		} io_access;

		/* CROSVM_VCPU_EVENT_KIND_PAUSED: as given to crosvm_pause_vcpus(). */
		void *user;

		/* CROSVM_VCPU_EVENT_KIND_HYPERV_HCALL */
		struct {
			uint64_t input;
			/* Where the plugin puts the call's result, 0 at first. It stays as io_access.data does. */
			uint64_t *result;
			uint64_t params[2];
		} hyperv_call;

		/* CROSVM_VCPU_EVENT_KIND_HYPERV_SYNIC */
		struct {
			uint32_t msr;
			uint32_t _reserved;
			uint64_t control;
			uint64_t evt_page;
			uint64_t msg_page;
		} hyperv_synic;

		uint8_t _reserved[64];
	};
};

static_assert(sizeof(struct crosvm_net_config) == 20, "crosvm_net_config has 20 bytes");
static_assert(sizeof(struct crosvm_irq_route) == 24, "crosvm_irq_route has 24 bytes");
static_assert(sizeof(struct crosvm_hint_detail) == 48, "crosvm_hint_detail has 48 bytes");
static_assert(sizeof(struct crosvm_hint) == 32, "crosvm_hint has 32 bytes");
static_assert(sizeof(struct crosvm_vcpu_event) == 72, "crosvm_vcpu_event has 72 bytes");

/* ---- Connections ---- */

/*
 * Takes over the socket that the VMM left for this process, and fetches the channels of all vCPUs.
 *
 *   -ENOTCONN  CROSVM_SOCKET is not in the environment: no VMM started this process
 *   -EINVAL    CROSVM_SOCKET is no number of a descriptor
 *   -EBUSY     the socket was taken over before
 *   -E2BIG     the VM has more than 16 vCPUs
 */
int crosvm_connect(struct crosvm **out);

/* Another connection to the same VM, for use on another thread. */
int crosvm_new_connection(struct crosvm *self, struct crosvm **out);

/*
 * Closes a connection and sets *self to NULL. Memory, reservations and the like belong to the VM and stay. With the
 * last connection the vCPUs' handles go too; only a thread that waits with one already does so until the VMM hangs up.
 */
int crosvm_destroy_connection(struct crosvm **self);

/*
 * An eventfd that becomes readable when the plugin should exit. It is the caller's to close. The VMM only ever writes
 * it, so a plugin may write it too, to wake its own main thread.
 */
int crosvm_get_shutdown_eventfd(struct crosvm *self);

/* Starts the VM: each vCPU reports its first event. A second start gives -EINVAL. */
int crosvm_start(struct crosvm *self);

/*
 * Asks each vCPU whose bit is set in cpu_mask to stop with CROSVM_VCPU_EVENT_KIND_PAUSED, and does not wait for it. Of
 * several pauses that a vCPU has not reported yet, it reports the newest.
 */
int crosvm_pause_vcpus(struct crosvm *self, uint64_t cpu_mask, void *user);

/* The vCPU with the number cpu_id; -ENOENT past the last. */
int crosvm_get_vcpu(struct crosvm *self, uint32_t cpu_id, struct crosvm_vcpu **out);

/* ---- What the hypervisor can do ---- */

/* Whether KVM_CHECK_EXTENSION says more than 0 of `extension`. */
int crosvm_check_extension(struct crosvm *self, uint32_t extension, bool *out);

/* No capability of a VM can be enabled: always -EINVAL. */
int crosvm_enable_capability(struct crosvm *self, uint32_t capability, uint32_t flags, uint64_t args[4]);

/*
 * What CPUID the hypervisor can show a guest, in hardware or by emulation. `entries` has room for `count`; when that is
 * too little the result is -E2BIG and *out_count what is needed.
 */
int crosvm_get_supported_cpuid(struct crosvm *self, uint32_t count, struct kvm_cpuid_entry2 *entries,
			       uint32_t *out_count);
int crosvm_get_emulated_cpuid(struct crosvm *self, uint32_t count, struct kvm_cpuid_entry2 *entries,
			      uint32_t *out_count);

/* The MSRs that belong to a vCPU's state; room as for CPUID. */
int crosvm_get_msr_index_list(struct crosvm *self, uint32_t count, uint32_t *indices, uint32_t *out_count);

/* The network that the VM was given, and its tap; -ENODATA when it was given none. */
int crosvm_net_get_config(struct crosvm *self, struct crosvm_net_config *out);

/* ---- Addresses ---- */

/*
 * Reserves `length` addresses from `start` on for this plugin: accesses whose first byte is there become events. A
 * length of 0 ends the reservation that begins at `start` (-ENOENT: none does).
 *
 *   -EPERM   a part of the range is reserved already
 *   -EINVAL  no such space, or the range passes the last address
 */
int crosvm_reserve_range(struct crosvm *self, uint32_t space, uint64_t start, uint64_t length);

/*
 * The same for writes alone, which the guest does not wait for: their events have no_resume set. Reads of the range are
 * not reported.
 */
int crosvm_reserve_async_write_range(struct crosvm *self, uint32_t space, uint64_t start, uint64_t length);

/*
 * Sets the VM's one hint. A count of 0 removes it; more than CROSVM_MAX_HINT_COUNT, or a hint that the comments at its
 * structure do not allow, gives -EINVAL.
 */
int crosvm_set_hypercall_hint(struct crosvm *self, uint32_t count, const struct crosvm_hint *hints);

/*
 * An eventfd that a write to `addr` fires in place of an event. A `len` of 1, 2, 4 or 8 takes only writes of so many
 * bytes that are those at `datamatch`, which may be unaligned; 0 takes any write, whatever `datamatch` is. Other
 * lengths give -EINVAL.
 */
int crosvm_create_io_event(struct crosvm *self, uint32_t space, uint64_t addr, uint32_t len, const uint8_t *datamatch,
			   struct crosvm_io **out);

/* Destroys the eventfd and sets *io to NULL. */
int crosvm_destroy_io_event(struct crosvm *self, struct crosvm_io **io);

/* The eventfd. It stays the handle's: it is closed when the handle is destroyed. */
int crosvm_io_event_fd(struct crosvm_io *io);

/* ---- Memory ---- */

/*
 * Shows `length` bytes of a memfd, from `offset` on, to the guest at the guest-physical address `start`. Both must be
 * multiples of 4096. `fd` stays the caller's. With read_only the guest's writes are MMIO accesses; with dirty_log it is
 * remembered which pages the guest writes.
 *
 *   -EINVAL  not whole pages, or past the memfd's end
 *   -EPERM   the memfd lacks the seal F_SEAL_SHRINK
 *   -EEXIST  there is memory already
 */
int crosvm_create_memory(struct crosvm *self, int fd, uint64_t offset, uint64_t length, uint64_t start, bool read_only,
			 bool dirty_log, struct crosvm_memory **out);

/* Takes the memory from the guest and sets *memory to NULL. */
int crosvm_destroy_memory(struct crosvm *self, struct crosvm_memory **memory);

/*
 * Which pages the guest has written since the last call: bit n of byte m for page 8 * m + n. `log` has room for a bit a
 * page, rounded up to whole bytes. -ENOENT for memory without dirty_log.
 */
int crosvm_memory_get_dirty_log(struct crosvm *self, struct crosvm_memory *memory, uint8_t *log);

/* ---- Interrupts ---- */

/* Sets the level of an interrupt line (GSI). */
int crosvm_set_irq(struct crosvm *self, uint32_t irq_id, bool active);

/* Replaces all routes. A count of 0, for which `routes` may be NULL, leaves none. */
int crosvm_set_irq_routing(struct crosvm *self, uint32_t count, const struct crosvm_irq_route *routes);

/*
 * Two eventfds for the interrupt irq_id: writing the first raises it, and the second fires when the guest has dealt
 * with it.
 */
int crosvm_create_irq_event(struct crosvm *self, uint32_t irq_id, struct crosvm_irq **out);

/* Destroys both and sets *irq to NULL. */
int crosvm_destroy_irq_event(struct crosvm *self, struct crosvm_irq **irq);

/* The first and the second eventfd. They stay the handle's. */
int crosvm_irq_event_get_fd(const struct crosvm_irq *irq);
int crosvm_irq_event_get_resample_fd(const struct crosvm_irq *irq);

/* ---- The machine's state ---- */

int crosvm_get_pic_state(struct crosvm *self, bool primary, struct kvm_pic_state *out);
int crosvm_set_pic_state(struct crosvm *self, bool primary, const struct kvm_pic_state *state);
int crosvm_get_ioapic_state(struct crosvm *self, struct kvm_ioapic_state *out);
int crosvm_set_ioapic_state(struct crosvm *self, const struct kvm_ioapic_state *state);
int crosvm_get_pit_state(struct crosvm *self, struct kvm_pit_state2 *out);
int crosvm_set_pit_state(struct crosvm *self, const struct kvm_pit_state2 *state);
int crosvm_get_clock(struct crosvm *self, struct kvm_clock_data *out);
int crosvm_set_clock(struct crosvm *self, const struct kvm_clock_data *clock);

/* Where KVM may put the page tables that some processors need in real mode. Only before the start. */
int crosvm_set_identity_map_addr(struct crosvm *self, uint32_t addr);

/* ---- vCPUs ---- */

/*
 * Blocks until the vCPU has something to report. While it stands at an event, that event is reported again. When the VM
 * has ended and the VMM hangs up, the result is -EINVAL; the shutdown eventfd alone does not end the wait.
 */
int crosvm_vcpu_wait(struct crosvm_vcpu *self, struct crosvm_vcpu_event *out);

/* Lets the vCPU run on from its event, with the registers that were set. Not after an event with no_resume. */
int crosvm_vcpu_resume(struct crosvm_vcpu *self);

/*
 * The vCPU's state, while it stands at an event.
 *
 * Setting regs, sregs and debugregs asks the VMM for nothing: what was set is kept here and goes with the resume. A get
 * of the same registers at the same event applies it first, by a request. Registers that came with the event because of
 * a hint are got without a request.
 */
int crosvm_vcpu_get_regs(struct crosvm_vcpu *self, struct kvm_regs *out);
int crosvm_vcpu_set_regs(struct crosvm_vcpu *self, const struct kvm_regs *regs);
int crosvm_vcpu_get_sregs(struct crosvm_vcpu *self, struct kvm_sregs *out);
int crosvm_vcpu_set_sregs(struct crosvm_vcpu *self, const struct kvm_sregs *sregs);
int crosvm_vcpu_get_fpu(struct crosvm_vcpu *self, struct kvm_fpu *out);
int crosvm_vcpu_set_fpu(struct crosvm_vcpu *self, const struct kvm_fpu *fpu);
int crosvm_vcpu_get_debugregs(struct crosvm_vcpu *self, struct kvm_debugregs *out);
int crosvm_vcpu_set_debugregs(struct crosvm_vcpu *self, const struct kvm_debugregs *debugregs);
int crosvm_vcpu_get_xcrs(struct crosvm_vcpu *self, struct kvm_xcrs *out);
int crosvm_vcpu_set_xcrs(struct crosvm_vcpu *self, const struct kvm_xcrs *xcrs);
int crosvm_vcpu_get_lapic_state(struct crosvm_vcpu *self, struct kvm_lapic_state *out);
int crosvm_vcpu_set_lapic_state(struct crosvm_vcpu *self, const struct kvm_lapic_state *state);
int crosvm_vcpu_get_mp_state(struct crosvm_vcpu *self, struct kvm_mp_state *out);
int crosvm_vcpu_set_mp_state(struct crosvm_vcpu *self, const struct kvm_mp_state *state);
int crosvm_vcpu_get_vcpu_events(struct crosvm_vcpu *self, struct kvm_vcpu_events *out);
int crosvm_vcpu_set_vcpu_events(struct crosvm_vcpu *self, const struct kvm_vcpu_events *events);

/*
 * Reads the MSRs whose numbers are in the entries' `index` and puts their values into `data`, in order, up to the first
 * that the kernel does not know. *out_count says how many there were.
 */
int crosvm_vcpu_get_msrs(struct crosvm_vcpu *self, uint32_t count, struct kvm_msr_entry *entries, uint32_t *out_count);

/* Writes MSRs, in order, up to the first that the kernel does not take. That is no error. */
int crosvm_vcpu_set_msrs(struct crosvm_vcpu *self, uint32_t count, const struct kvm_msr_entry *entries);

/* Sets what the guest's `cpuid` shows. */
int crosvm_vcpu_set_cpuid(struct crosvm_vcpu *self, uint32_t count, const struct kvm_cpuid_entry2 *entries);

/* The CPUID of Hyper-V's interface; room as for crosvm_get_supported_cpuid(). */
int crosvm_get_hyperv_cpuid(struct crosvm_vcpu *self, uint32_t count, struct kvm_cpuid_entry2 *entries,
			    uint32_t *out_count);

/*
 * Enables KVM_CAP_HYPERV_SYNIC or KVM_CAP_HYPERV_SYNIC2. Another capability, a flag, or an argument that is not 0 gives
 * -EINVAL.
 */
int crosvm_vcpu_enable_capability(struct crosvm_vcpu *self, uint32_t capability, uint32_t flags, uint64_t args[4]);

/* ---- Beyond crosvm's API: its library has none of what begins with outboard_ ---- */

/* How much of it there is: 1 for all below. Functions are added, and the number grows; none is taken away. */
#define OUTBOARD_API_VERSION 1

/*
 * The items of the access that crosvm_vcpu_wait() reported last: *width bytes each, 1 to 8, and *count of them. The length
 * of the access is their product. "in ax, dx" reads one item of two bytes; "rep insb" with CX = 2 reads two items of one
 * byte, which for a device are two reads. It asks the VMM for nothing.
 *
 * A VMM that does not report items is taken at the length: up to 8 bytes are one item, more are items of one byte.
 *
 *   -EPROTO  no access was reported, or the vCPU was resumed since
 */
int outboard_vcpu_get_io_items(struct crosvm_vcpu *self, uint32_t *width, uint32_t *count);

#ifdef __cplusplus
}
#endif

#endif /* CROSVM_H */
