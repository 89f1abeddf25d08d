/* Pauses, of two vCPUs, each on its own thread, asked for on two connections. */
#include "check.h"

#include <pthread.h>

#define PAUSES 200

static int marks[PAUSES + 1];

/* Serves a vCPU until it has seen the last pause. */
static void *serve(void *argument)
{
	struct crosvm_vcpu *vcpu = argument;
	int *last = marks;
	for (;;) {
		struct crosvm_vcpu_event event;
		OK(crosvm_vcpu_wait(vcpu, &event));
		if (event.kind == CROSVM_VCPU_EVENT_KIND_PAUSED) {
			int *mark = event.user;
			CHECK(mark >= last && mark <= &marks[PAUSES]);
			last = mark;
			if (mark == &marks[PAUSES])
				return NULL;
		} else {
			EQUAL(event.kind, CROSVM_VCPU_EVENT_KIND_IO_ACCESS);
		}
		struct kvm_regs regs;
		OK(crosvm_vcpu_get_regs(vcpu, &regs));
		OK(crosvm_vcpu_resume(vcpu));
	}
}

int main(int argc, char **argv)
{
	(void)argc;
	struct vm vm = load(argv);
	struct crosvm *other;
	struct crosvm_vcpu *vcpus[2];
	OK(crosvm_new_connection(vm.crosvm, &other));
	OK(crosvm_reserve_range(vm.crosvm, CROSVM_ADDRESS_SPACE_IOPORT, 0x10, 1));
	OK(crosvm_start(vm.crosvm));
	for (uint32_t i = 0; i < 2; i++) {
		OK(crosvm_get_vcpu(vm.crosvm, i, &vcpus[i]));
		boot(vcpus[i]);
	}
	/* Before the vCPUs run, too; bits past the last vCPU mean nothing. */
	OK(crosvm_pause_vcpus(other, ~(uint64_t)1, &marks[0]));
	for (int i = 0; i < 2; i++)
		OK(crosvm_vcpu_resume(vcpus[i]));
	struct crosvm_vcpu_event event;
	OK(crosvm_vcpu_wait(vcpus[1], &event));
	EQUAL(event.kind, CROSVM_VCPU_EVENT_KIND_PAUSED);
	CHECK(event.user == &marks[0]);
	/* None runs until both have been let go. */
	OK(crosvm_vcpu_resume(vcpus[1]));
	pass(vcpus[0], 0x10, true);

	pthread_t threads[2];
	for (int i = 0; i < 2; i++)
		CHECK(pthread_create(&threads[i], NULL, serve, vcpus[i]) == 0);
	for (int i = 1; i <= PAUSES; i++)
		OK(crosvm_pause_vcpus(i % 2 ? vm.crosvm : other, 3, &marks[i]));
	for (int i = 0; i < 2; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	return 0;
}
