/* The guest's memory. */
#include "check.h"

#define PAGE 0x1000

int main(int argc, char **argv)
{
	(void)argc;
	struct vm vm = load(argv);
	struct crosvm *crosvm = vm.crosvm;
	int fd = sealed_memfd(9 * PAGE);
	uint8_t *bytes = mmap(NULL, 9 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(bytes != MAP_FAILED);

	struct crosvm_memory *refused = NULL;
	REFUSED(EINVAL, crosvm_create_memory(crosvm, fd, 1, PAGE, 0x8000, false, false, &refused));
	REFUSED(EINVAL, crosvm_create_memory(crosvm, fd, 0, PAGE - 1, 0x8000, false, false, &refused));
	REFUSED(EINVAL, crosvm_create_memory(crosvm, fd, 0, 0, 0x8000, false, false, &refused));
	REFUSED(EINVAL, crosvm_create_memory(crosvm, fd, PAGE, 9 * PAGE, 0x8000, false, false, &refused));
	REFUSED(EOVERFLOW, crosvm_create_memory(crosvm, fd, -(uint64_t)PAGE, 2 * PAGE, 0x8000, false, false, &refused));
	REFUSED(EEXIST, crosvm_create_memory(crosvm, fd, 0, PAGE, ENTRY, false, false, &refused));
	REFUSED(EBADF, crosvm_create_memory(crosvm, -1, 0, PAGE, 0x8000, false, false, &refused));
	REFUSED(EBADF, crosvm_create_memory(crosvm, 1000000, 0, PAGE, 0x8000, false, false, &refused));
	int unsealed = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	CHECK(ftruncate(unsealed, PAGE) == 0);
	REFUSED(EPERM, crosvm_create_memory(crosvm, unsealed, 0, PAGE, 0x8000, false, false, &refused));
	CHECK(refused == NULL);

	struct crosvm_memory *logged, *read_only;
	/* Four pages from 0x8000 on, and 4 of a log of 9 pages behind them. */
	OK(crosvm_create_memory(crosvm, fd, 0, 4 * PAGE, 0x8000, false, true, &logged));
	OK(crosvm_create_memory(crosvm, fd, 5 * PAGE, PAGE, 0xc000, true, false, &read_only));
	CHECK(fcntl(fd, F_GETFD) >= 0);
	OK(crosvm_reserve_range(crosvm, CROSVM_ADDRESS_SPACE_MMIO, 0xc000, PAGE));
	OK(crosvm_reserve_range(crosvm, CROSVM_ADDRESS_SPACE_IOPORT, 0x10, 1));

	uint8_t log[3] = { 0x55, 0x55, 0x55 };
	OK(crosvm_memory_get_dirty_log(crosvm, logged, log));
	EQUAL(log[0], 0);
	EQUAL(log[1], 0x55);
	REFUSED(ENOENT, crosvm_memory_get_dirty_log(crosvm, read_only, log));
	EQUAL(log[0], 0);

	go(&vm);
	/* The guest writes pages 0 and 2; its write to read-only memory is an access. */
	pass(vm.vcpu, 0xc000, true);
	await_access(vm.vcpu, 0x10, true);
	EQUAL(bytes[0], 0x41);
	EQUAL(bytes[2 * PAGE + 0x123], 0x41);
	EQUAL(bytes[5 * PAGE], 0);
	OK(crosvm_memory_get_dirty_log(crosvm, logged, log));
	EQUAL(log[0], 0x5);
	EQUAL(log[1], 0x55);
	OK(crosvm_memory_get_dirty_log(crosvm, logged, log));
	EQUAL(log[0], 0);

	/* 9 pages make 2 bytes. */
	struct crosvm_memory *nine;
	OK(crosvm_create_memory(crosvm, fd, 0, 9 * PAGE, 0x100000, false, true, &nine));
	OK(crosvm_memory_get_dirty_log(crosvm, nine, log));
	EQUAL(log[0] | log[1], 0);
	EQUAL(log[2], 0x55);
	OK(crosvm_destroy_memory(crosvm, &nine));
	CHECK(nine == NULL);

	/* Memory that was taken away can be given again. */
	OK(crosvm_destroy_memory(crosvm, &logged));
	REFUSED(EINVAL, crosvm_destroy_memory(crosvm, &logged));
	OK(crosvm_create_memory(crosvm, fd, 4 * PAGE, 4 * PAGE, 0x8000, false, false, &logged));
	OK(crosvm_vcpu_resume(vm.vcpu));
	pass(vm.vcpu, 0xc000, true);
	await_access(vm.vcpu, 0x10, true);
	EQUAL(bytes[4 * PAGE], 0x41);
	return 0;
}
