/* The header's structures lie in memory as compiled plugins have them. There is nothing to run. */
#include <crosvm.h>
#include <stddef.h>

#define AT(type, member, offset) \
	static_assert(offsetof(struct type, member) == (offset), #type "." #member " is at " #offset)

AT(crosvm_net_config, tap_fd, 0);
AT(crosvm_net_config, host_ip, 4);
AT(crosvm_net_config, netmask, 8);
AT(crosvm_net_config, host_mac_address, 12);

AT(crosvm_irq_route, irq_id, 0);
AT(crosvm_irq_route, kind, 4);
AT(crosvm_irq_route, irqchip.irqchip, 8);
AT(crosvm_irq_route, irqchip.pin, 12);
AT(crosvm_irq_route, msi.address, 8);
AT(crosvm_irq_route, msi.data, 16);

AT(crosvm_hint_detail, match_rax, 0);
AT(crosvm_hint_detail, match_rbx, 1);
AT(crosvm_hint_detail, match_rcx, 2);
AT(crosvm_hint_detail, match_rdx, 3);
AT(crosvm_hint_detail, rax, 8);
AT(crosvm_hint_detail, rbx, 16);
AT(crosvm_hint_detail, rcx, 24);
AT(crosvm_hint_detail, rdx, 32);
AT(crosvm_hint_detail, send_sregs, 40);
AT(crosvm_hint_detail, send_debugregs, 41);

AT(crosvm_hint, hint_version, 0);
AT(crosvm_hint, _reserved, 4);
AT(crosvm_hint, address_space, 8);
AT(crosvm_hint, address_flags, 12);
AT(crosvm_hint, details_count, 14);
AT(crosvm_hint, address, 16);
AT(crosvm_hint, details, 24);

AT(crosvm_vcpu_event, kind, 0);
AT(crosvm_vcpu_event, io_access.address_space, 8);
AT(crosvm_vcpu_event, io_access.address, 16);
AT(crosvm_vcpu_event, io_access.data, 24);
AT(crosvm_vcpu_event, io_access.length, 32);
AT(crosvm_vcpu_event, io_access.is_write, 36);
AT(crosvm_vcpu_event, io_access.no_resume, 37);
AT(crosvm_vcpu_event, user, 8);
AT(crosvm_vcpu_event, hyperv_call.input, 8);
AT(crosvm_vcpu_event, hyperv_call.result, 16);
AT(crosvm_vcpu_event, hyperv_call.params, 24);
AT(crosvm_vcpu_event, hyperv_synic.msr, 8);
AT(crosvm_vcpu_event, hyperv_synic.control, 16);
AT(crosvm_vcpu_event, hyperv_synic.evt_page, 24);
AT(crosvm_vcpu_event, hyperv_synic.msg_page, 32);

/* All functions, each with the arguments that it has always had. */
int (*const connect_)(struct crosvm **) = crosvm_connect;
int (*const new_connection)(struct crosvm *, struct crosvm **) = crosvm_new_connection;
int (*const destroy_connection)(struct crosvm **) = crosvm_destroy_connection;
int (*const get_shutdown_eventfd)(struct crosvm *) = crosvm_get_shutdown_eventfd;
int (*const check_extension)(struct crosvm *, uint32_t, bool *) = crosvm_check_extension;
int (*const enable_capability)(struct crosvm *, uint32_t, uint32_t, uint64_t[4]) = crosvm_enable_capability;
int (*const cpuid[])(struct crosvm *, uint32_t, struct kvm_cpuid_entry2 *, uint32_t *) = {
	crosvm_get_supported_cpuid, crosvm_get_emulated_cpuid };
int (*const hyperv_cpuid)(struct crosvm_vcpu *, uint32_t, struct kvm_cpuid_entry2 *, uint32_t *) =
	crosvm_get_hyperv_cpuid;
int (*const msr_index_list)(struct crosvm *, uint32_t, uint32_t *, uint32_t *) = crosvm_get_msr_index_list;
int (*const net_get_config)(struct crosvm *, struct crosvm_net_config *) = crosvm_net_get_config;
int (*const reserve[])(struct crosvm *, uint32_t, uint64_t, uint64_t) = { crosvm_reserve_range,
									  crosvm_reserve_async_write_range };
int (*const set_irq)(struct crosvm *, uint32_t, bool) = crosvm_set_irq;
int (*const set_irq_routing)(struct crosvm *, uint32_t, const struct crosvm_irq_route *) = crosvm_set_irq_routing;
int (*const set_hypercall_hint)(struct crosvm *, uint32_t, const struct crosvm_hint *) = crosvm_set_hypercall_hint;
int (*const get_pic_state)(struct crosvm *, bool, struct kvm_pic_state *) = crosvm_get_pic_state;
int (*const set_pic_state)(struct crosvm *, bool, const struct kvm_pic_state *) = crosvm_set_pic_state;
int (*const get_ioapic_state)(struct crosvm *, struct kvm_ioapic_state *) = crosvm_get_ioapic_state;
int (*const set_ioapic_state)(struct crosvm *, const struct kvm_ioapic_state *) = crosvm_set_ioapic_state;
int (*const get_pit_state)(struct crosvm *, struct kvm_pit_state2 *) = crosvm_get_pit_state;
int (*const set_pit_state)(struct crosvm *, const struct kvm_pit_state2 *) = crosvm_set_pit_state;
int (*const get_clock)(struct crosvm *, struct kvm_clock_data *) = crosvm_get_clock;
int (*const set_clock)(struct crosvm *, const struct kvm_clock_data *) = crosvm_set_clock;
int (*const set_identity_map_addr)(struct crosvm *, uint32_t) = crosvm_set_identity_map_addr;
int (*const pause_vcpus)(struct crosvm *, uint64_t, void *) = crosvm_pause_vcpus;
int (*const start)(struct crosvm *) = crosvm_start;
int (*const create_io_event)(struct crosvm *, uint32_t, uint64_t, uint32_t, const uint8_t *, struct crosvm_io **) =
	crosvm_create_io_event;
int (*const destroy_io_event)(struct crosvm *, struct crosvm_io **) = crosvm_destroy_io_event;
int (*const io_event_fd)(struct crosvm_io *) = crosvm_io_event_fd;
int (*const create_memory)(struct crosvm *, int, uint64_t, uint64_t, uint64_t, bool, bool, struct crosvm_memory **) =
	crosvm_create_memory;
int (*const destroy_memory)(struct crosvm *, struct crosvm_memory **) = crosvm_destroy_memory;
int (*const get_dirty_log)(struct crosvm *, struct crosvm_memory *, uint8_t *) = crosvm_memory_get_dirty_log;
int (*const create_irq_event)(struct crosvm *, uint32_t, struct crosvm_irq **) = crosvm_create_irq_event;
int (*const destroy_irq_event)(struct crosvm *, struct crosvm_irq **) = crosvm_destroy_irq_event;
int (*const irq_event_fds[])(const struct crosvm_irq *) = { crosvm_irq_event_get_fd,
							    crosvm_irq_event_get_resample_fd };
int (*const get_vcpu)(struct crosvm *, uint32_t, struct crosvm_vcpu **) = crosvm_get_vcpu;
int (*const vcpu_wait)(struct crosvm_vcpu *, struct crosvm_vcpu_event *) = crosvm_vcpu_wait;
int (*const vcpu_resume)(struct crosvm_vcpu *) = crosvm_vcpu_resume;
#define STATE(name, type) \
	int (*const get_##name)(struct crosvm_vcpu *, struct type *) = crosvm_vcpu_get_##name; \
	int (*const set_##name)(struct crosvm_vcpu *, const struct type *) = crosvm_vcpu_set_##name
STATE(regs, kvm_regs);
STATE(sregs, kvm_sregs);
STATE(fpu, kvm_fpu);
STATE(debugregs, kvm_debugregs);
STATE(xcrs, kvm_xcrs);
STATE(lapic_state, kvm_lapic_state);
STATE(mp_state, kvm_mp_state);
STATE(vcpu_events, kvm_vcpu_events);
int (*const get_msrs)(struct crosvm_vcpu *, uint32_t, struct kvm_msr_entry *, uint32_t *) = crosvm_vcpu_get_msrs;
int (*const set_msrs)(struct crosvm_vcpu *, uint32_t, const struct kvm_msr_entry *) = crosvm_vcpu_set_msrs;
int (*const set_cpuid)(struct crosvm_vcpu *, uint32_t, const struct kvm_cpuid_entry2 *) = crosvm_vcpu_set_cpuid;
int (*const vcpu_enable_capability)(struct crosvm_vcpu *, uint32_t, uint32_t, uint64_t[4]) =
	crosvm_vcpu_enable_capability;

/* And those beyond. */
int (*const get_io_items)(struct crosvm_vcpu *, uint32_t *, uint32_t *) = outboard_vcpu_get_io_items;

static_assert(OUTBOARD_API_VERSION == 1, "1");

static_assert(CROSVM_API_MAJOR == 0 && CROSVM_API_MINOR == 22 && CROSVM_API_PATCH == 0, "0.22.0");
static_assert(CROSVM_MAX_HINT_COUNT == 1 && CROSVM_MAX_HINT_DETAIL_COUNT == 32 && CROSVM_HINT_ON_WRITE == 1, "hints");
static_assert(CROSVM_ADDRESS_SPACE_IOPORT == 0 && CROSVM_ADDRESS_SPACE_MMIO == 1, "crosvm_address_space");
static_assert(CROSVM_IRQ_ROUTE_IRQCHIP == 0 && CROSVM_IRQ_ROUTE_MSI == 1, "crosvm_irq_route_kind");
static_assert(CROSVM_VCPU_EVENT_KIND_INIT == 0 && CROSVM_VCPU_EVENT_KIND_IO_ACCESS == 1 &&
	      CROSVM_VCPU_EVENT_KIND_PAUSED == 2 && CROSVM_VCPU_EVENT_KIND_HYPERV_HCALL == 3 &&
	      CROSVM_VCPU_EVENT_KIND_HYPERV_SYNIC == 4, "crosvm_vcpu_event_kind");

/* By these types, so that a variable of each enumeration can be had. */
enum crosvm_address_space space;
enum crosvm_irq_route_kind route_kind;
enum crosvm_vcpu_event_kind event_kind;

int main(void)
{
	return 0;
}
