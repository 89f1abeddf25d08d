/* What a guest says to Hyper-V. */
#include "check.h"

int main(int argc, char **argv)
{
	(void)argc;
	struct vm vm = load(argv);
	struct crosvm_vcpu *vcpu = vm.vcpu;
	OK(crosvm_reserve_range(vm.crosvm, CROSVM_ADDRESS_SPACE_IOPORT, 0x10, 4));
	go(&vm);
	for (uint64_t round = 1; round <= 3; round++) {
		struct crosvm_vcpu_event event;
		OK(crosvm_vcpu_wait(vcpu, &event));
		EQUAL(event.kind, CROSVM_VCPU_EVENT_KIND_HYPERV_HCALL);
		EQUAL(event.hyperv_call.input, 0x1005c);
		EQUAL(event.hyperv_call.params[0], 0x1122334455667788);
		EQUAL(event.hyperv_call.params[1], 2);
		EQUAL(*event.hyperv_call.result, 0);
		*event.hyperv_call.result = 0x500 + round;
		OK(crosvm_vcpu_resume(vcpu));
		/* The guest shows the result. */
		event = await_access(vcpu, 0x10, true);
		uint32_t shown;
		memcpy(&shown, event.io_access.data, sizeof shown);
		EQUAL(shown, 0x500 + round);
		OK(crosvm_vcpu_resume(vcpu));

		OK(crosvm_vcpu_wait(vcpu, &event));
		EQUAL(event.kind, CROSVM_VCPU_EVENT_KIND_HYPERV_SYNIC);
		EQUAL(event.hyperv_synic.msr, 0x40000080);
		EQUAL(event.hyperv_synic.control, 1);
		EQUAL(event.hyperv_synic.evt_page, 0x5001);
		EQUAL(event.hyperv_synic.msg_page, 0x6001);

		struct kvm_cpuid_entry2 entries[64];
		uint32_t needed = 77, count;
		int result = crosvm_get_hyperv_cpuid(vcpu, 1, entries, &needed);
		if (result == -E2BIG) {
			OK(crosvm_get_hyperv_cpuid(vcpu, needed, entries, &count));
			EQUAL(count, needed);
			EQUAL(entries[0].function, 0x40000000);
		} else {
			CHECK(result < 0);
			EQUAL(needed, 0);
		}
		OK(crosvm_vcpu_resume(vcpu));
	}
	return 0;
}
