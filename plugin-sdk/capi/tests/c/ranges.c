/* Reservations. */
#include "check.h"

int main(int argc, char **argv)
{
	(void)argc;
	struct vm vm = load(argv);
	struct crosvm *crosvm = vm.crosvm;
	const uint32_t port = CROSVM_ADDRESS_SPACE_IOPORT, mmio = CROSVM_ADDRESS_SPACE_MMIO;

	OK(crosvm_reserve_range(crosvm, port, 0x10, 1));
	OK(crosvm_reserve_range(crosvm, mmio, 0x9000, 0x1000));
	REFUSED(EPERM, crosvm_reserve_range(crosvm, port, 0x8, 9));
	REFUSED(EPERM, crosvm_reserve_range(crosvm, port, 0x10, 1));
	REFUSED(EPERM, crosvm_reserve_async_write_range(crosvm, mmio, 0x9fff, 1));
	REFUSED(EINVAL, crosvm_reserve_range(crosvm, mmio, UINT64_MAX, 2));
	REFUSED(EINVAL, crosvm_reserve_range(crosvm, 2, 0x20, 1));
	REFUSED(EINVAL, crosvm_reserve_async_write_range(crosvm, 2, 0x20, 1));
	REFUSED(EINVAL, crosvm_reserve_range(crosvm, UINT32_MAX, 0x20, 1));

	/* A length of 0 ends the one that begins there. */
	REFUSED(ENOENT, crosvm_reserve_range(crosvm, port, 0x11, 0));
	OK(crosvm_reserve_range(crosvm, port, 0x11, 4));
	REFUSED(ENOENT, crosvm_reserve_range(crosvm, port, 0x12, 0));
	OK(crosvm_reserve_range(crosvm, port, 0x11, 0));
	REFUSED(ENOENT, crosvm_reserve_range(crosvm, port, 0x11, 0));
	OK(crosvm_reserve_range(crosvm, port, 0x12, 1));

	go(&vm);
	for (int round = 0; round < 3; round++) {
		struct crosvm_vcpu_event event = await_access(vm.vcpu, 0x10, true);
		EQUAL(event.io_access.address_space, port);
		EQUAL(event.io_access.length, 1);
		OK(crosvm_vcpu_resume(vm.vcpu));
		/* The write to port 0x11 is nobody's. */
		event = await_access(vm.vcpu, 0x9000, true);
		EQUAL(event.io_access.address_space, mmio);
		OK(crosvm_vcpu_resume(vm.vcpu));
		pass(vm.vcpu, 0x12, true);
	}
	return 0;
}
