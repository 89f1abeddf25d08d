/* Checks that end the program with the place and the numbers, and a VM with a guest about to run. */
#ifndef CHECK_H
#define CHECK_H

#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "crosvm.h"

/* Where a guest's program begins, and how much memory it has from there on. */
#define ENTRY 0x1000
#define RAM_LENGTH 0x4000

#define CHECK(condition) \
	do { \
		if (!(condition)) \
			fail(__FILE__, __LINE__, #condition, 0, 0); \
	} while (0)

#define EQUAL(got, wanted) \
	do { \
		long long got_ = (long long)(got), wanted_ = (long long)(wanted); \
		if (got_ != wanted_) \
			fail(__FILE__, __LINE__, #got " == " #wanted, got_, wanted_); \
	} while (0)

/* A call that succeeds, and one that fails. */
#define OK(call) EQUAL(call, 0)
#define REFUSED(number, call) EQUAL(call, -(number))

static inline void fail(const char *file, int line, const char *what, long long got, long long wanted)
{
	fprintf(stderr, "%s:%d: %s does not hold: %#llx, %#llx\n", file, line, what, got, wanted);
	exit(1);
}

/* Has the test end the VM, as a user does who presses ^C. */
static inline void ask_for_the_end(void)
{
	puts("end");
	fflush(stdout);
}

/* A VM whose first vCPU is about to run. */
struct vm {
	struct crosvm *crosvm;
	struct crosvm_vcpu *vcpu;
	struct crosvm_memory *memory;
	int memfd;
	uint8_t *ram;
};

/* A memfd as the VMM wants it. */
static inline int sealed_memfd(uint64_t length)
{
	int fd = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	CHECK(fd >= 0);
	CHECK(ftruncate(fd, (off_t)length) == 0);
	CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
	return fd;
}

/* Connects, and gives the guest memory with the program whose bytes, in hexadecimal digits, are argv[1]. */
static inline struct vm load(char **argv)
{
	struct vm vm = { 0 };
	OK(crosvm_connect(&vm.crosvm));
	OK(crosvm_get_vcpu(vm.crosvm, 0, &vm.vcpu));
	vm.memfd = sealed_memfd(RAM_LENGTH);
	void *mapped = mmap(NULL, RAM_LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, vm.memfd, 0);
	CHECK(mapped != MAP_FAILED);
	vm.ram = mapped;
	for (size_t i = 0; argv[1][2 * i]; i++)
		CHECK(sscanf(argv[1] + 2 * i, "%2hhx", &vm.ram[i]) == 1);
	OK(crosvm_create_memory(vm.crosvm, vm.memfd, 0, RAM_LENGTH, ENTRY, false, false, &vm.memory));
	return vm;
}

/* Takes a vCPU's first event and says where its program is. */
static inline void boot(struct crosvm_vcpu *vcpu)
{
	struct crosvm_vcpu_event event;
	OK(crosvm_vcpu_wait(vcpu, &event));
	EQUAL(event.kind, CROSVM_VCPU_EVENT_KIND_INIT);
	struct kvm_sregs sregs;
	OK(crosvm_vcpu_get_sregs(vcpu, &sregs));
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	OK(crosvm_vcpu_set_sregs(vcpu, &sregs));
	struct kvm_regs regs;
	OK(crosvm_vcpu_get_regs(vcpu, &regs));
	regs.rip = ENTRY;
	regs.rflags = 2;
	OK(crosvm_vcpu_set_regs(vcpu, &regs));
	struct kvm_mp_state running = { .mp_state = KVM_MP_STATE_RUNNABLE };
	OK(crosvm_vcpu_set_mp_state(vcpu, &running));
}

/* Starts the VM and lets its first vCPU run. */
static inline void go(struct vm *vm)
{
	OK(crosvm_start(vm->crosvm));
	boot(vm->vcpu);
	OK(crosvm_vcpu_resume(vm->vcpu));
}

/* Waits for an access. */
static inline struct crosvm_vcpu_event await_access(struct crosvm_vcpu *vcpu, uint64_t address, bool is_write)
{
	struct crosvm_vcpu_event event;
	OK(crosvm_vcpu_wait(vcpu, &event));
	EQUAL(event.kind, CROSVM_VCPU_EVENT_KIND_IO_ACCESS);
	EQUAL(event.io_access.address, address);
	EQUAL(event.io_access.is_write, is_write);
	return event;
}

/* Waits for an access and resumes from it. */
static inline void pass(struct crosvm_vcpu *vcpu, uint64_t address, bool is_write)
{
	EQUAL(await_access(vcpu, address, is_write).io_access.no_resume, 0);
	OK(crosvm_vcpu_resume(vcpu));
}

static inline bool readable(int fd, int milliseconds)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
	int ready = poll(&poll_fd, 1, milliseconds);
	CHECK(ready >= 0);
	return ready == 1;
}

/* How often an eventfd has fired since it was asked last. */
static inline uint64_t fired(int fd)
{
	uint64_t count = 0;
	if (readable(fd, 0))
		CHECK(read(fd, &count, sizeof count) == sizeof count);
	return count;
}

static inline void fire(int fd)
{
	uint64_t one = 1;
	CHECK(write(fd, &one, sizeof one) == sizeof one);
}

static inline int open_descriptors(void)
{
	int count = 0;
	for (int fd = 0; fd < 4096; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

#endif
