/* What the examples share: memory with a guest's code in it, and a vCPU that begins there. */
#ifndef GUEST_H
#define GUEST_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <crosvm.h>

/* Where the code lies in guest-physical memory, how much memory there is, and where the stack begins, downwards. */
#define GUEST_ADDRESS 0x1000
#define GUEST_MEMORY 0x10000
#define GUEST_STACK 0x8000

/* Ends the process when a call of the library has failed; otherwise gives what it returned. */
static inline int check(int result, const char *call)
{
	if (result < 0) {
		fprintf(stderr, "%s: %s\n", call, strerror(-result));
		exit(1);
	}
	return result;
}
#define CHECK(call) check(call, #call)

/* Gives the guest memory that begins at address 0, with `code` in it. */
static inline void give_memory(struct crosvm *crosvm, const void *code, size_t length)
{
	/* The VMM takes memfds that cannot shrink. It keeps this one open by itself. */
	int memfd = memfd_create("guest-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (memfd < 0 || ftruncate(memfd, GUEST_MEMORY) < 0 || fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK) < 0 ||
	    pwrite(memfd, code, length, GUEST_ADDRESS) != (ssize_t)length) {
		perror("guest memory");
		exit(1);
	}
	struct crosvm_memory *memory;
	CHECK(crosvm_create_memory(crosvm, memfd, 0, GUEST_MEMORY, 0, false, false, &memory));
	close(memfd);
}

/* At its first event, puts a vCPU at the code, in 16-bit real mode: below 64 KiB with the code segment at 0. */
static inline void boot(struct crosvm_vcpu *vcpu)
{
	struct kvm_sregs sregs;
	CHECK(crosvm_vcpu_get_sregs(vcpu, &sregs));
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	CHECK(crosvm_vcpu_set_sregs(vcpu, &sregs));
	struct kvm_regs regs;
	CHECK(crosvm_vcpu_get_regs(vcpu, &regs));
	regs.rip = GUEST_ADDRESS;
	regs.rsp = GUEST_STACK;
	CHECK(crosvm_vcpu_set_regs(vcpu, &regs));
}

#endif
