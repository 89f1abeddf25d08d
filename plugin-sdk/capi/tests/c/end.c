/* The end of the VM: the shutdown event, and a VMM that hangs up. */
#include "check.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

static struct vm vm;

static void *await_end(void *unused)
{
	(void)unused;
	/* The guest halts: nothing happens until the VMM hangs up. */
	struct crosvm_vcpu_event event;
	int result;
	while ((result = crosvm_vcpu_wait(vm.vcpu, &event)) == -EBUSY)
		;
	EQUAL(result, -EINVAL);
	REFUSED(EINVAL, crosvm_vcpu_wait(vm.vcpu, &event));
	return NULL;
}

/* A process that has done nothing about SIGPIPE ends by it where there are pipes; rings raise no signal. */
static void check_broken_pipe(struct crosvm_vcpu *vcpu)
{
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		signal(SIGPIPE, SIG_DFL);
		_exit(crosvm_vcpu_resume(vcpu) == -EPIPE ? 0 : 1);
	}
	int status;
	CHECK(waitpid(child, &status, 0) == child);
#ifdef PIPES
	CHECK(WIFSIGNALED(status));
	EQUAL(WTERMSIG(status), SIGPIPE);
#else
	CHECK(WIFEXITED(status));
	EQUAL(WEXITSTATUS(status), 0);
#endif
}

int main(int argc, char **argv)
{
	(void)argc;
	signal(SIGPIPE, SIG_IGN);
	vm = load(argv);
	struct crosvm_vcpu *second;
	OK(crosvm_get_vcpu(vm.crosvm, 1, &second));
	OK(crosvm_reserve_range(vm.crosvm, CROSVM_ADDRESS_SPACE_IOPORT, 0x10, 1));
	struct crosvm_io *io;
	OK(crosvm_create_io_event(vm.crosvm, CROSVM_ADDRESS_SPACE_IOPORT, 0x70, 0, NULL, &io));
	int shutdown = crosvm_get_shutdown_eventfd(vm.crosvm);
	OK(crosvm_start(vm.crosvm));
	boot(vm.vcpu);
	boot(second);
	OK(crosvm_vcpu_resume(vm.vcpu));
	OK(crosvm_vcpu_resume(second));
	await_access(second, 0x10, true);
	pass(vm.vcpu, 0x10, true);
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, await_end, NULL) == 0);

	/* The handle is that thread's as soon as it is inside; before that, the vCPU does not are stopped. */
	struct kvm_mp_state mp;
	int result;
	while ((result = crosvm_vcpu_get_mp_state(vm.vcpu, &mp)) == -EPROTO)
		;
	EQUAL(result, -EBUSY);

	ask_for_the_end();
	CHECK(readable(shutdown, 30000));
	/* Requests are answered for a second; then the VMM hangs up. */
	CHECK(pthread_join(thread, NULL) == 0);
	bool has;
	while (crosvm_check_extension(vm.crosvm, 0, &has) == 0)
		;
	REFUSED(EPIPE, crosvm_check_extension(vm.crosvm, 0, &has));
	REFUSED(EPIPE, crosvm_start(vm.crosvm));
	CHECK(crosvm_get_shutdown_eventfd(vm.crosvm) == -EPIPE);
	check_broken_pipe(second);
	REFUSED(EPIPE, crosvm_vcpu_get_mp_state(second, &mp));
	REFUSED(EPIPE, crosvm_vcpu_resume(second));

	/* What could not be destroyed keeps its handle, for another try. */
	REFUSED(EPIPE, crosvm_destroy_io_event(vm.crosvm, &io));
	CHECK(io != NULL);
	REFUSED(EBADF, crosvm_io_event_fd(io));
	OK(crosvm_destroy_io_event(vm.crosvm, &io));
	CHECK(io == NULL);
	OK(crosvm_destroy_connection(&vm.crosvm));
	puts("all as it should be");
	return 0;
}
