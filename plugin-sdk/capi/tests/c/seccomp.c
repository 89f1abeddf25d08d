/*
 * The library makes no system calls but those that the protocol promises, so that a plugin may lock itself down to
 * them: any other kills this process.
 */
#include "check.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/* Bytes of memory that a plugin does not use up here. */
#define HEAP (16 << 20)

#define ALLOW(number) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##number, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static void lock_down(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		ALLOW(sendmsg), ALLOW(recvmsg), ALLOW(read), ALLOW(write), ALLOW(close),
		ALLOW(mmap), ALLOW(munmap),
#ifdef RINGS
		/* The heap is large enough from the start: memory management is these two alone. */
		ALLOW(futex), ALLOW(sched_yield),
#else
		ALLOW(mremap), ALLOW(brk), ALLOW(madvise), ALLOW(mprotect),
#endif
#ifdef DEBUG_LIBRARY
		/* Where it has debug assertions, the standard library asks whether what it closes is open. */
		ALLOW(fcntl),
#endif
		/* The end of the process. */
		ALLOW(exit_group),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = { .len = sizeof filter / sizeof *filter, .filter = filter };
	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

int main(int argc, char **argv)
{
	(void)argc;
	int memfd = sealed_memfd(RAM_LENGTH);
	for (size_t i = 0; argv[1][2 * i]; i++) {
		uint8_t byte;
		CHECK(sscanf(argv[1] + 2 * i, "%2hhx", &byte) == 1);
		CHECK(pwrite(memfd, &byte, 1, (off_t)i) == 1);
	}
#ifdef RINGS
	/* All comes from one heap, which grows once and is never trimmed. */
	CHECK(mallopt(M_MMAP_MAX, 0) && mallopt(M_TOP_PAD, HEAP) && mallopt(M_TRIM_THRESHOLD, 2 * HEAP));
#endif
	/* The allocator's first call asks for random bytes. */
	free(malloc(1));
	lock_down();

	struct crosvm *first, *crosvm;
	OK(crosvm_connect(&first));
	OK(crosvm_new_connection(first, &crosvm));
	OK(crosvm_destroy_connection(&first));
	CHECK(close(crosvm_get_shutdown_eventfd(crosvm)) == 0);
	struct kvm_cpuid_entry2 entries[300];
	uint32_t count, indices[2000];
	OK(crosvm_get_supported_cpuid(crosvm, 300, entries, &count));
	OK(crosvm_get_msr_index_list(crosvm, 2000, indices, &count));
	struct crosvm_memory *memory;
	OK(crosvm_create_memory(crosvm, memfd, 0, RAM_LENGTH, ENTRY, false, true, &memory));
	struct crosvm_io *io;
	OK(crosvm_create_io_event(crosvm, CROSVM_ADDRESS_SPACE_IOPORT, 0x70, 0, NULL, &io));
	struct crosvm_irq *irq;
	OK(crosvm_create_irq_event(crosvm, 5, &irq));
	OK(crosvm_set_irq(crosvm, 6, true));
	OK(crosvm_reserve_range(crosvm, CROSVM_ADDRESS_SPACE_IOPORT, 0x10, 1));
	struct kvm_clock_data clock;
	OK(crosvm_get_clock(crosvm, &clock));
	struct crosvm_vcpu *vcpu;
	OK(crosvm_get_vcpu(crosvm, 0, &vcpu));
	OK(crosvm_start(crosvm));
	boot(vcpu);
	OK(crosvm_pause_vcpus(crosvm, 1, NULL));
	OK(crosvm_vcpu_resume(vcpu));
	struct crosvm_vcpu_event event;
	OK(crosvm_vcpu_wait(vcpu, &event));
	EQUAL(event.kind, CROSVM_VCPU_EVENT_KIND_PAUSED);
	struct kvm_lapic_state lapic;
	OK(crosvm_vcpu_get_lapic_state(vcpu, &lapic));
	OK(crosvm_vcpu_resume(vcpu));
	for (int i = 0; i < 100; i++)
		pass(vcpu, 0x10, true);
	uint8_t log[1];
	OK(crosvm_memory_get_dirty_log(crosvm, memory, log));
	OK(crosvm_destroy_irq_event(crosvm, &irq));
	OK(crosvm_destroy_io_event(crosvm, &io));
	OK(crosvm_destroy_memory(crosvm, &memory));
	OK(crosvm_destroy_connection(&crosvm));
	_exit(0);
}
