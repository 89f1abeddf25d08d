/* Hints: registers that come with an access, and are there while the VMM cannot answer. */
#include "check.h"

#include <signal.h>
#include <sys/wait.h>

/* Whether the process that runs this has been stopped. */
static void await_stopped(pid_t pid)
{
	char path[64], state = 0;
	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	/* 't' where it is traced. */
	while (state != 'T' && state != 't') {
		FILE *file = fopen(path, "r");
		CHECK(file && fscanf(file, "%*d (%*[^)]) %c", &state) == 1);
		fclose(file);
	}
}

static void check_validation(struct crosvm *crosvm)
{
	struct crosvm_hint_detail details[CROSVM_MAX_HINT_DETAIL_COUNT + 1] = { 0 };
	struct crosvm_hint good = {
		.address_space = CROSVM_ADDRESS_SPACE_IOPORT,
		.address = 0x10,
		.address_flags = CROSVM_HINT_ON_WRITE,
		.details = details,
		.details_count = CROSVM_MAX_HINT_DETAIL_COUNT,
	};
	struct crosvm_hint two[2] = { good, good };
	OK(crosvm_set_hypercall_hint(crosvm, 1, &good));
	REFUSED(EINVAL, crosvm_set_hypercall_hint(crosvm, 2, two));
	REFUSED(EINVAL, crosvm_set_hypercall_hint(crosvm, 1, NULL));

	struct crosvm_hint bad = good;
	bad.hint_version = 1;
	REFUSED(EINVAL, crosvm_set_hypercall_hint(crosvm, 1, &bad));
	bad = good;
	bad._reserved = 1;
	REFUSED(EINVAL, crosvm_set_hypercall_hint(crosvm, 1, &bad));
	bad = good;
	bad.address = 0;
	REFUSED(EINVAL, crosvm_set_hypercall_hint(crosvm, 1, &bad));
	bad = good;
	bad.address_flags = 2;
	REFUSED(EINVAL, crosvm_set_hypercall_hint(crosvm, 1, &bad));
	bad.address_flags = 3;
	REFUSED(EINVAL, crosvm_set_hypercall_hint(crosvm, 1, &bad));
	bad = good;
	bad.address_space = 2;
	REFUSED(EINVAL, crosvm_set_hypercall_hint(crosvm, 1, &bad));
	bad = good;
	bad.details_count = CROSVM_MAX_HINT_DETAIL_COUNT + 1;
	REFUSED(EINVAL, crosvm_set_hypercall_hint(crosvm, 1, &bad));
	bad = good;
	bad.details = NULL;
	REFUSED(EINVAL, crosvm_set_hypercall_hint(crosvm, 1, &bad));
	bad.details_count = 0;
	OK(crosvm_set_hypercall_hint(crosvm, 1, &bad));

	OK(crosvm_set_hypercall_hint(crosvm, 0, NULL));
}

int main(int argc, char **argv)
{
	(void)argc;
	struct vm vm = load(argv);
	check_validation(vm.crosvm);
	OK(crosvm_reserve_range(vm.crosvm, CROSVM_ADDRESS_SPACE_IOPORT, 0x10, 1));
	struct crosvm_hint_detail details[] = {
		{ .match_rax = true, .rax = 2, .send_sregs = true },
		{ .match_rax = true, .rax = 3, .send_debugregs = true },
	};
	struct crosvm_hint hint = {
		.address_space = CROSVM_ADDRESS_SPACE_IOPORT,
		.address = 0x10,
		.address_flags = CROSVM_HINT_ON_WRITE,
		.details = details,
		.details_count = 2,
	};
	OK(crosvm_set_hypercall_hint(vm.crosvm, 1, &hint));
	go(&vm);

	for (int round = 0; round < 2; round++) {
		for (uint8_t value = 1; value <= 3; value++) {
			struct crosvm_vcpu_event event = await_access(vm.vcpu, 0x10, true);
			EQUAL(event.io_access.data[0], value);
			/* What came is there without the VMM, and what is set waits for the resume. */
			CHECK(kill(getppid(), SIGSTOP) == 0);
			await_stopped(getppid());
			struct kvm_regs regs;
			OK(crosvm_vcpu_get_regs(vm.vcpu, &regs));
			EQUAL(regs.rax, value);
			regs.rbx = 0x1000 + value;
			struct kvm_sregs sregs;
			struct kvm_debugregs debugregs;
			if (value == 2) {
				OK(crosvm_vcpu_get_sregs(vm.vcpu, &sregs));
				EQUAL(sregs.cs.base, 0);
				OK(crosvm_vcpu_set_sregs(vm.vcpu, &sregs));
			}
			if (value == 3) {
				OK(crosvm_vcpu_get_debugregs(vm.vcpu, &debugregs));
				debugregs.db[0] = 0x77;
				OK(crosvm_vcpu_set_debugregs(vm.vcpu, &debugregs));
			}
			OK(crosvm_vcpu_set_regs(vm.vcpu, &regs));
			OK(crosvm_vcpu_resume(vm.vcpu));
			CHECK(kill(getppid(), SIGCONT) == 0);
		}
		/* No hint for the read: its registers are asked for. */
		await_access(vm.vcpu, 0x10, false);
		struct kvm_regs regs;
		OK(crosvm_vcpu_get_regs(vm.vcpu, &regs));
		EQUAL(regs.rbx, 0x1003);
		struct kvm_debugregs debugregs;
		OK(crosvm_vcpu_get_debugregs(vm.vcpu, &debugregs));
		EQUAL(debugregs.db[0], 0x77);
		OK(crosvm_vcpu_resume(vm.vcpu));
	}
	return 0;
}
