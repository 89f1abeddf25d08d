/* NULL where something must be gives -EINVAL, in each function, and does nothing. */
#include "check.h"

#define NONE(call) REFUSED(EINVAL, call)

int main(int argc, char **argv)
{
	(void)argc;
	struct vm vm = load(argv);
	struct crosvm *c = vm.crosvm;
	OK(crosvm_reserve_range(c, CROSVM_ADDRESS_SPACE_IOPORT, 0x10, 1));
	go(&vm);
	await_access(vm.vcpu, 0x10, true);
	struct crosvm_vcpu *v = vm.vcpu;

	uint64_t args[4] = { 0 };
	uint8_t bytes[8] = { 0 };
	uint32_t count;

	NONE(crosvm_connect(NULL));
	struct crosvm *connection = NULL;
	NONE(crosvm_new_connection(NULL, &connection));
	NONE(crosvm_new_connection(c, NULL));
	NONE(crosvm_destroy_connection(NULL));
	NONE(crosvm_destroy_connection(&connection));
	NONE(crosvm_get_shutdown_eventfd(NULL));
	NONE(crosvm_start(NULL));
	NONE(crosvm_pause_vcpus(NULL, 1, NULL));
	struct crosvm_vcpu *vcpu;
	NONE(crosvm_get_vcpu(NULL, 0, &vcpu));
	NONE(crosvm_get_vcpu(c, 0, NULL));

	bool has;
	NONE(crosvm_check_extension(NULL, 0, &has));
	NONE(crosvm_check_extension(c, 0, NULL));
	NONE(crosvm_enable_capability(NULL, 0, 0, args));
	NONE(crosvm_enable_capability(c, 0, 0, NULL));
	struct kvm_cpuid_entry2 cpuid[1];
	count = 77;
	NONE(crosvm_get_supported_cpuid(NULL, 1, cpuid, &count));
	EQUAL(count, 0);
	NONE(crosvm_get_supported_cpuid(c, 1, NULL, &count));
	NONE(crosvm_get_supported_cpuid(c, 1, cpuid, NULL));
	count = 77;
	NONE(crosvm_get_emulated_cpuid(NULL, 1, cpuid, &count));
	EQUAL(count, 0);
	NONE(crosvm_get_emulated_cpuid(c, 1, NULL, &count));
	NONE(crosvm_get_emulated_cpuid(c, 1, cpuid, NULL));
	count = 77;
	NONE(crosvm_get_msr_index_list(NULL, 1, &count, &count));
	EQUAL(count, 0);
	NONE(crosvm_get_msr_index_list(c, 1, NULL, &count));
	NONE(crosvm_get_msr_index_list(c, 1, &count, NULL));
	struct crosvm_net_config net;
	NONE(crosvm_net_get_config(NULL, &net));
	NONE(crosvm_net_get_config(c, NULL));

	NONE(crosvm_reserve_range(NULL, 0, 0x20, 1));
	NONE(crosvm_reserve_async_write_range(NULL, 0, 0x20, 1));
	struct crosvm_hint hint = { .address = 1 };
	NONE(crosvm_set_hypercall_hint(NULL, 1, &hint));
	NONE(crosvm_set_hypercall_hint(c, 1, NULL));

	struct crosvm_io *io = NULL;
	NONE(crosvm_create_io_event(NULL, 0, 0x70, 1, bytes, &io));
	NONE(crosvm_create_io_event(c, 0, 0x70, 1, NULL, &io));
	NONE(crosvm_create_io_event(c, 0, 0x70, 1, bytes, NULL));
	NONE(crosvm_destroy_io_event(c, NULL));
	NONE(crosvm_destroy_io_event(c, &io));
	NONE(crosvm_io_event_fd(NULL));
	/* Nothing was made: the place is free. A handle without a connection stays. */
	OK(crosvm_create_io_event(c, 0, 0x70, 1, bytes, &io));
	NONE(crosvm_destroy_io_event(NULL, &io));
	CHECK(crosvm_io_event_fd(io) >= 0);
	OK(crosvm_destroy_io_event(c, &io));

	struct crosvm_memory *memory = NULL;
	int fd = sealed_memfd(0x1000);
	NONE(crosvm_create_memory(NULL, fd, 0, 0x1000, 0x100000, false, true, &memory));
	NONE(crosvm_create_memory(c, fd, 0, 0x1000, 0x100000, false, true, NULL));
	NONE(crosvm_destroy_memory(c, NULL));
	NONE(crosvm_destroy_memory(c, &memory));
	NONE(crosvm_memory_get_dirty_log(c, NULL, bytes));
	OK(crosvm_create_memory(c, fd, 0, 0x1000, 0x100000, false, true, &memory));
	NONE(crosvm_memory_get_dirty_log(NULL, memory, bytes));
	NONE(crosvm_memory_get_dirty_log(c, memory, NULL));
	NONE(crosvm_destroy_memory(NULL, &memory));
	OK(crosvm_memory_get_dirty_log(c, memory, bytes));
	OK(crosvm_destroy_memory(c, &memory));

	NONE(crosvm_set_irq(NULL, 5, true));
	struct crosvm_irq_route route = { .irq_id = 5, .kind = CROSVM_IRQ_ROUTE_MSI };
	NONE(crosvm_set_irq_routing(NULL, 1, &route));
	NONE(crosvm_set_irq_routing(NULL, 0, NULL));
	NONE(crosvm_set_irq_routing(c, 1, NULL));
	struct crosvm_irq *irq = NULL;
	NONE(crosvm_create_irq_event(NULL, 5, &irq));
	NONE(crosvm_create_irq_event(c, 5, NULL));
	NONE(crosvm_destroy_irq_event(c, NULL));
	NONE(crosvm_destroy_irq_event(c, &irq));
	NONE(crosvm_irq_event_get_fd(NULL));
	NONE(crosvm_irq_event_get_resample_fd(NULL));
	OK(crosvm_create_irq_event(c, 5, &irq));
	NONE(crosvm_destroy_irq_event(NULL, &irq));
	CHECK(crosvm_irq_event_get_fd(irq) >= 0);
	OK(crosvm_destroy_irq_event(c, &irq));

	struct kvm_pic_state pic;
	NONE(crosvm_get_pic_state(NULL, true, &pic));
	NONE(crosvm_get_pic_state(c, true, NULL));
	OK(crosvm_get_pic_state(c, true, &pic));
	NONE(crosvm_set_pic_state(NULL, true, &pic));
	NONE(crosvm_set_pic_state(c, true, NULL));
	NONE(crosvm_set_identity_map_addr(NULL, 0));

	struct crosvm_vcpu_event event;
	NONE(crosvm_vcpu_wait(NULL, &event));
	NONE(crosvm_vcpu_wait(v, NULL));
	NONE(crosvm_vcpu_resume(NULL));

	/* Getters and setters of a connection or vCPU and one structure. */
#define BOTH(handle, getter, setter, type) \
	do { \
		struct type state; \
		NONE(getter(NULL, &state)); \
		NONE(getter(handle, NULL)); \
		memset(&state, 0, sizeof state); \
		NONE(setter(NULL, &state)); \
		NONE(setter(handle, NULL)); \
		OK(getter(handle, &state)); \
	} while (0)
	BOTH(c, crosvm_get_ioapic_state, crosvm_set_ioapic_state, kvm_ioapic_state);
	BOTH(c, crosvm_get_pit_state, crosvm_set_pit_state, kvm_pit_state2);
	BOTH(c, crosvm_get_clock, crosvm_set_clock, kvm_clock_data);
	BOTH(v, crosvm_vcpu_get_regs, crosvm_vcpu_set_regs, kvm_regs);
	BOTH(v, crosvm_vcpu_get_sregs, crosvm_vcpu_set_sregs, kvm_sregs);
	BOTH(v, crosvm_vcpu_get_fpu, crosvm_vcpu_set_fpu, kvm_fpu);
	BOTH(v, crosvm_vcpu_get_debugregs, crosvm_vcpu_set_debugregs, kvm_debugregs);
	BOTH(v, crosvm_vcpu_get_xcrs, crosvm_vcpu_set_xcrs, kvm_xcrs);
	BOTH(v, crosvm_vcpu_get_lapic_state, crosvm_vcpu_set_lapic_state, kvm_lapic_state);
	BOTH(v, crosvm_vcpu_get_mp_state, crosvm_vcpu_set_mp_state, kvm_mp_state);
	BOTH(v, crosvm_vcpu_get_vcpu_events, crosvm_vcpu_set_vcpu_events, kvm_vcpu_events);

	struct kvm_msr_entry msr = { .index = 0x174 };
	count = 77;
	NONE(crosvm_vcpu_get_msrs(NULL, 1, &msr, &count));
	EQUAL(count, 0);
	NONE(crosvm_vcpu_get_msrs(v, 1, NULL, &count));
	NONE(crosvm_vcpu_get_msrs(v, 1, &msr, NULL));
	NONE(crosvm_vcpu_set_msrs(NULL, 1, &msr));
	NONE(crosvm_vcpu_set_msrs(v, 1, NULL));
	NONE(crosvm_vcpu_set_cpuid(NULL, 1, cpuid));
	NONE(crosvm_vcpu_set_cpuid(v, 1, NULL));
	count = 77;
	NONE(crosvm_get_hyperv_cpuid(NULL, 1, cpuid, &count));
	EQUAL(count, 0);
	NONE(crosvm_get_hyperv_cpuid(v, 1, NULL, &count));
	NONE(crosvm_get_hyperv_cpuid(v, 1, cpuid, NULL));
	NONE(crosvm_vcpu_enable_capability(NULL, KVM_CAP_HYPERV_SYNIC, 0, args));
	NONE(crosvm_vcpu_enable_capability(v, KVM_CAP_HYPERV_SYNIC, 0, NULL));

	/* The guest has lost nothing by all that. */
	OK(crosvm_vcpu_resume(v));
	EQUAL(await_access(v, 0x10, true).io_access.data[0], 0x34);
	return 0;
}
