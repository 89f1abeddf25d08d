/* Writes that the guest does not wait for. */
#include "check.h"

int main(int argc, char **argv)
{
	(void)argc;
	struct vm vm = load(argv);
	OK(crosvm_reserve_async_write_range(vm.crosvm, CROSVM_ADDRESS_SPACE_IOPORT, 0x10, 1));
	OK(crosvm_reserve_async_write_range(vm.crosvm, CROSVM_ADDRESS_SPACE_MMIO, 0x9000, 0x10));
	OK(crosvm_reserve_range(vm.crosvm, CROSVM_ADDRESS_SPACE_IOPORT, 0x11, 1));
	go(&vm);
	for (int round = 0; round < 5; round++) {
		struct crosvm_vcpu_event event = await_access(vm.vcpu, 0x10, true);
		EQUAL(event.io_access.no_resume, 1);
		EQUAL(event.io_access.length, 1);
		EQUAL(event.io_access.data[0], 1);
		/* The vCPU runs: there is nothing to resume and no state to be had. */
		struct kvm_regs regs;
		REFUSED(EPROTO, crosvm_vcpu_resume(vm.vcpu));
		REFUSED(EPROTO, crosvm_vcpu_get_regs(vm.vcpu, &regs));
		memset(&regs, 0, sizeof regs);
		REFUSED(EPROTO, crosvm_vcpu_set_regs(vm.vcpu, &regs));

		event = await_access(vm.vcpu, 0x9000, true);
		EQUAL(event.io_access.no_resume, 1);
		EQUAL(event.io_access.length, 2);
		EQUAL(event.io_access.data[0] | event.io_access.data[1] << 8, 2);
		/* The read behind them waits. */
		pass(vm.vcpu, 0x11, false);
	}
	return 0;
}
