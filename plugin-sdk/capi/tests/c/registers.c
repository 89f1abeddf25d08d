/* Registers that are set travel with the resume, or with the next look at them. */
#include "check.h"

#include <signal.h>

int main(int argc, char **argv)
{
	(void)argc;
	struct vm vm = load(argv);
	struct crosvm_vcpu *vcpu = vm.vcpu;
	OK(crosvm_reserve_range(vm.crosvm, CROSVM_ADDRESS_SPACE_IOPORT, 0x10, 1));
	go(&vm);

	struct kvm_regs regs, again;
	struct kvm_sregs sregs;
	struct kvm_debugregs debugregs;
	for (uint64_t round = 1; round <= 3; round++) {
		await_access(vcpu, 0x10, true);
		OK(crosvm_vcpu_get_regs(vcpu, &regs));
		OK(crosvm_vcpu_get_sregs(vcpu, &sregs));
		OK(crosvm_vcpu_get_debugregs(vcpu, &debugregs));
		EQUAL(regs.rax, 0x1234);

		/* A set needs no VMM. */
		CHECK(kill(getppid(), SIGSTOP) == 0);
		regs.rbx = round;
		sregs.ds.base = 0x100 * round;
		debugregs.db[1] = round;
		OK(crosvm_vcpu_set_regs(vcpu, &regs));
		OK(crosvm_vcpu_set_sregs(vcpu, &sregs));
		OK(crosvm_vcpu_set_debugregs(vcpu, &debugregs));
		OK(crosvm_vcpu_resume(vcpu));
		CHECK(kill(getppid(), SIGCONT) == 0);

		await_access(vcpu, 0x10, true);
		OK(crosvm_vcpu_get_regs(vcpu, &again));
		EQUAL(again.rbx, round);
		OK(crosvm_vcpu_get_sregs(vcpu, &sregs));
		EQUAL(sregs.ds.base, 0x100 * round);
		sregs.ds.base = 0;
		OK(crosvm_vcpu_set_sregs(vcpu, &sregs));
		OK(crosvm_vcpu_get_debugregs(vcpu, &debugregs));
		EQUAL(debugregs.db[1], round);

		/* A look applies first what was set; the last one set counts. */
		again.rbx = 0x55;
		OK(crosvm_vcpu_set_regs(vcpu, &again));
		again.rbx = 0x66;
		OK(crosvm_vcpu_set_regs(vcpu, &again));
		memset(&regs, 0, sizeof regs);
		OK(crosvm_vcpu_get_regs(vcpu, &regs));
		EQUAL(regs.rbx, 0x66);
		OK(crosvm_vcpu_resume(vcpu));
	}

	/* Registers that the kernel refuses are told of by the look that applies them, and then forgotten. */
	await_access(vcpu, 0x10, true);
	OK(crosvm_vcpu_get_debugregs(vcpu, &debugregs));
	debugregs.dr6 = UINT64_MAX;
	OK(crosvm_vcpu_set_debugregs(vcpu, &debugregs));
	REFUSED(EINVAL, crosvm_vcpu_get_debugregs(vcpu, &debugregs));
	OK(crosvm_vcpu_get_debugregs(vcpu, &debugregs));
	EQUAL(debugregs.db[1], 3);
	OK(crosvm_vcpu_resume(vcpu));
	await_access(vcpu, 0x10, true);
	return 0;
}
