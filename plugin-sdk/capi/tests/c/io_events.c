/* Eventfds that the guest's writes fire. */
#include "check.h"

int main(int argc, char **argv)
{
	(void)argc;
	struct vm vm = load(argv);
	struct crosvm *crosvm = vm.crosvm, *other;
	const uint32_t port = CROSVM_ADDRESS_SPACE_IOPORT, mmio = CROSVM_ADDRESS_SPACE_MMIO;
	OK(crosvm_new_connection(crosvm, &other));

	/* The bytes that are compared need no alignment. */
	uint8_t data[32] = { 0, 1, 2, 0 };
	struct crosvm_io *byte, *word, *any, *refused = NULL;
	OK(crosvm_create_io_event(crosvm, port, 0x70, 1, &data[1], &byte));
	OK(crosvm_create_io_event(other, port, 0x70, 2, &data[1 + 1], &word));
	OK(crosvm_create_io_event(crosvm, mmio, 0x9000, 0, NULL, &any));
	int fds[] = { crosvm_io_event_fd(byte), crosvm_io_event_fd(word), crosvm_io_event_fd(any) };
	for (int i = 0; i < 3; i++) {
		CHECK(fds[i] >= 0);
		EQUAL(fcntl(fds[i], F_GETFD), 0);
		EQUAL(fired(fds[i]), 0);
	}
	EQUAL(crosvm_io_event_fd(byte), fds[0]);

	const uint32_t bad[] = { 3, 5, 6, 7, 9, 16, UINT32_MAX };
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		REFUSED(EINVAL, crosvm_create_io_event(crosvm, port, 0x80, bad[i], data, &refused));
	REFUSED(EINVAL, crosvm_create_io_event(crosvm, port, 0x80, 1, NULL, &refused));
	REFUSED(EINVAL, crosvm_create_io_event(crosvm, 2, 0x80, 1, data, &refused));
	REFUSED(EEXIST, crosvm_create_io_event(crosvm, port, 0x70, 1, &data[1], &refused));
	CHECK(refused == NULL);
	struct crosvm_io *widest;
	OK(crosvm_create_io_event(crosvm, mmio, 0xa000, 8, data, &widest));
	OK(crosvm_destroy_io_event(other, &widest));
	CHECK(widest == NULL);
	REFUSED(EINVAL, crosvm_destroy_io_event(other, &widest));

	OK(crosvm_reserve_range(crosvm, port, 0x70, 2));
	OK(crosvm_reserve_range(crosvm, port, 0x10, 1));
	go(&vm);
	/* A write of 1 as one byte, and of 2 as two, go to the events; the others do not. */
	EQUAL(await_access(vm.vcpu, 0x70, true).io_access.length, 2);
	EQUAL(fired(fds[0]), 1);
	OK(crosvm_vcpu_resume(vm.vcpu));
	EQUAL(await_access(vm.vcpu, 0x70, true).io_access.length, 1);
	EQUAL(fired(fds[1]), 0);
	OK(crosvm_vcpu_resume(vm.vcpu));
	await_access(vm.vcpu, 0x10, true);
	EQUAL(fired(fds[0]), 0);
	EQUAL(fired(fds[1]), 1);
	EQUAL(fired(fds[2]), 1);

	/* Destroyed, it closes its descriptor, and the writes are accesses again. */
	OK(crosvm_destroy_io_event(crosvm, &byte));
	CHECK(byte == NULL);
	EQUAL(fcntl(fds[0], F_GETFD), -1);
	OK(crosvm_vcpu_resume(vm.vcpu));
	EQUAL(await_access(vm.vcpu, 0x70, true).io_access.data[0], 1);
	return 0;
}
