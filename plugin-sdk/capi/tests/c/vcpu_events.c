/* What a vCPU reports, and how it is answered. */
#include "check.h"

int main(int argc, char **argv)
{
	(void)argc;
	struct vm vm = load(argv);
	struct crosvm_vcpu *vcpu = vm.vcpu;
	OK(crosvm_reserve_range(vm.crosvm, CROSVM_ADDRESS_SPACE_IOPORT, 0x10, 4));
	OK(crosvm_reserve_range(vm.crosvm, CROSVM_ADDRESS_SPACE_MMIO, 0x9000, 0x10));

	/* Nothing but waiting before the first event. */
	struct kvm_regs regs;
	REFUSED(EPROTO, crosvm_vcpu_resume(vcpu));
	REFUSED(EPROTO, crosvm_vcpu_get_regs(vcpu, &regs));
	OK(crosvm_start(vm.crosvm));
	boot(vcpu);

	/* An event is reported again until it is resumed, with what was set. */
	struct crosvm_vcpu_event event;
	memset(&event, 0xff, sizeof event);
	OK(crosvm_vcpu_wait(vcpu, &event));
	EQUAL(event.kind, CROSVM_VCPU_EVENT_KIND_INIT);
	OK(crosvm_vcpu_resume(vcpu));
	REFUSED(EPROTO, crosvm_vcpu_resume(vcpu));

	for (uint8_t round = 1; round <= 3; round++) {
		event = await_access(vcpu, 0x10, true);
		EQUAL(event.io_access.length, 2);
		EQUAL(event.io_access.no_resume, 0);
		EQUAL(event.io_access.data[0], 0x34);
		EQUAL(event.io_access.data[1], 0x12);
		OK(crosvm_vcpu_resume(vcpu));

		event = await_access(vcpu, 0x11, false);
		EQUAL(event.io_access.length, 4);
		for (int i = 0; i < 4; i++) {
			EQUAL(event.io_access.data[i], 0);
			event.io_access.data[i] = round + i;
		}
		/* The answer stays when the event is looked at again. */
		struct crosvm_vcpu_event again = await_access(vcpu, 0x11, false);
		CHECK(again.io_access.data == event.io_access.data);
		EQUAL(again.io_access.data[3], round + 3);
		OK(crosvm_vcpu_resume(vcpu));

		event = await_access(vcpu, 0x10, true);
		EQUAL(event.io_access.length, 4);
		for (int i = 0; i < 4; i++)
			EQUAL(event.io_access.data[i], round + i);
		OK(crosvm_vcpu_resume(vcpu));

		/* A string instruction reads many at once. */
		uint32_t left = 1000;
		while (left > 0) {
			event = await_access(vcpu, 0x12, false);
			CHECK(event.io_access.length > 0 && event.io_access.length <= left);
			for (uint32_t i = 0; i < event.io_access.length; i++)
				event.io_access.data[i] = round;
			left -= event.io_access.length;
			OK(crosvm_vcpu_resume(vcpu));
		}

		event = await_access(vcpu, 0x9000, false);
		EQUAL(event.io_access.address_space, CROSVM_ADDRESS_SPACE_MMIO);
		EQUAL(event.io_access.length, 4);
		memcpy(event.io_access.data, "mmio", 4);
		OK(crosvm_vcpu_resume(vcpu));
		event = await_access(vcpu, 0x9008, true);
		EQUAL(memcmp(event.io_access.data, "mmio", 4), 0);
		OK(crosvm_vcpu_resume(vcpu));
	}
	return 0;
}
