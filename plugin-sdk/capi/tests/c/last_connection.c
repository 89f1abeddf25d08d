/* A thread that waits for its vCPU outlives the last connection. */
#include "check.h"

#include <pthread.h>

static void *await_end(void *vcpu)
{
	struct crosvm_vcpu_event event;
	int result;
	while ((result = crosvm_vcpu_wait(vcpu, &event)) == -EBUSY)
		;
	/* The VMM has disconnected. */
	EQUAL(result, -EINVAL);
	return NULL;
}

int main(int argc, char **argv)
{
	(void)argc;
	struct vm vm = load(argv);
	OK(crosvm_reserve_range(vm.crosvm, CROSVM_ADDRESS_SPACE_IOPORT, 0x10, 1));
	go(&vm);
	pass(vm.vcpu, 0x10, true);
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, await_end, vm.vcpu) == 0);
	int result;
	while ((result = crosvm_vcpu_resume(vm.vcpu)) != -EBUSY)
		EQUAL(result, -EPROTO);
	OK(crosvm_destroy_connection(&vm.crosvm));
	ask_for_the_end();
	CHECK(pthread_join(thread, NULL) == 0);
	puts("all as it should be");
	return 0;
}
