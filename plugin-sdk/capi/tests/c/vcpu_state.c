/* The rest of a vCPU's state, its MSRs, CPUID and capabilities. */
#include "check.h"

#define SYSENTER_CS 0x174
#define SYSENTER_EIP 0x176
#define NOBODYS 0x12345678

static void check_states(struct crosvm_vcpu *vcpu)
{
	struct kvm_fpu fpu;
	OK(crosvm_vcpu_get_fpu(vcpu, &fpu));
	fpu.fcw = 0x27f;
	memcpy(fpu.xmm[3], "sixteen bytes :)", 16);
	OK(crosvm_vcpu_set_fpu(vcpu, &fpu));
	memset(&fpu, 0, sizeof fpu);
	OK(crosvm_vcpu_get_fpu(vcpu, &fpu));
	EQUAL(fpu.fcw, 0x27f);
	EQUAL(memcmp(fpu.xmm[3], "sixteen bytes :)", 16), 0);

	struct kvm_xcrs xcrs;
	OK(crosvm_vcpu_get_xcrs(vcpu, &xcrs));
	EQUAL(xcrs.nr_xcrs, 1);
	OK(crosvm_vcpu_set_xcrs(vcpu, &xcrs));
	xcrs.nr_xcrs = 1000;
	REFUSED(EINVAL, crosvm_vcpu_set_xcrs(vcpu, &xcrs));

	struct kvm_lapic_state lapic;
	OK(crosvm_vcpu_get_lapic_state(vcpu, &lapic));
	lapic.regs[0x350] = 0x32;
	lapic.regs[0x352] = 1;
	OK(crosvm_vcpu_set_lapic_state(vcpu, &lapic));
	memset(&lapic, 0, sizeof lapic);
	OK(crosvm_vcpu_get_lapic_state(vcpu, &lapic));
	EQUAL((uint8_t)lapic.regs[0x350], 0x32);

	struct kvm_mp_state mp;
	OK(crosvm_vcpu_get_mp_state(vcpu, &mp));
	EQUAL(mp.mp_state, KVM_MP_STATE_RUNNABLE);
	mp.mp_state = 0x7fffffff;
	REFUSED(EINVAL, crosvm_vcpu_set_mp_state(vcpu, &mp));

	struct kvm_vcpu_events events;
	OK(crosvm_vcpu_get_vcpu_events(vcpu, &events));
	events.nmi.masked = 1;
	OK(crosvm_vcpu_set_vcpu_events(vcpu, &events));
	memset(&events, 0, sizeof events);
	OK(crosvm_vcpu_get_vcpu_events(vcpu, &events));
	EQUAL(events.nmi.masked, 1);
}

static void check_msrs(struct crosvm_vcpu *vcpu)
{
	const struct kvm_msr_entry set[] = { { .index = SYSENTER_CS, .data = 8 },
					     { .index = SYSENTER_EIP, .data = 0x123456789abc } };
	OK(crosvm_vcpu_set_msrs(vcpu, 2, set));
	struct kvm_msr_entry got[] = { { .index = SYSENTER_EIP, .data = 1 }, { .index = SYSENTER_CS, .data = 2 },
				       { .index = NOBODYS, .data = 3 }, { .index = SYSENTER_CS, .data = 4 } };
	uint32_t count = 77;
	OK(crosvm_vcpu_get_msrs(vcpu, 4, got, &count));
	EQUAL(count, 2);
	EQUAL(got[0].data, 0x123456789abc);
	EQUAL(got[1].data, 8);
	/* From the first unknown one on nothing is touched. */
	EQUAL(got[2].data, 3);
	EQUAL(got[3].data, 4);
	OK(crosvm_vcpu_get_msrs(vcpu, 0, NULL, &count));
	EQUAL(count, 0);
	/* However many were taken. */
	const struct kvm_msr_entry unknown = { .index = NOBODYS, .data = 1 };
	OK(crosvm_vcpu_set_msrs(vcpu, 1, &unknown));
	OK(crosvm_vcpu_set_msrs(vcpu, 0, NULL));

	static struct kvm_msr_entry many[40000];
	for (size_t i = 0; i < sizeof many / sizeof *many; i++)
		many[i].index = SYSENTER_CS;
	count = 77;
	REFUSED(E2BIG, crosvm_vcpu_get_msrs(vcpu, 1000, many, &count));
	REFUSED(E2BIG, crosvm_vcpu_set_msrs(vcpu, 1000, many));
	/* Longer than any request may be. */
	REFUSED(E2BIG, crosvm_vcpu_set_msrs(vcpu, 40000, many));
	OK(crosvm_vcpu_get_msrs(vcpu, 1, many, &count));
	EQUAL(many[0].data, 8);
}

static void check_cpuid(struct crosvm *crosvm, struct crosvm_vcpu *vcpu)
{
	struct kvm_cpuid_entry2 entries[300] = { 0 };
	uint32_t count;
	OK(crosvm_get_supported_cpuid(crosvm, 300, entries, &count));
	OK(crosvm_vcpu_set_cpuid(vcpu, count, entries));
	OK(crosvm_vcpu_set_cpuid(vcpu, 0, NULL));
	REFUSED(E2BIG, crosvm_vcpu_set_cpuid(vcpu, 300, entries));
	OK(crosvm_vcpu_set_cpuid(vcpu, count, entries));
}

static void check_capabilities(struct crosvm *crosvm, struct crosvm_vcpu *vcpu)
{
	uint64_t args[4] = { 0 }, bad[4] = { 0, 0, 0, 1 };
	REFUSED(EINVAL, crosvm_vcpu_enable_capability(vcpu, KVM_CAP_SPLIT_IRQCHIP, 0, args));
	REFUSED(EINVAL, crosvm_vcpu_enable_capability(vcpu, KVM_CAP_HYPERV_SYNIC, 1, args));
	REFUSED(EINVAL, crosvm_vcpu_enable_capability(vcpu, KVM_CAP_HYPERV_SYNIC, 0, bad));
	bool has;
	OK(crosvm_check_extension(crosvm, KVM_CAP_HYPERV_SYNIC, &has));
	EQUAL(crosvm_vcpu_enable_capability(vcpu, KVM_CAP_HYPERV_SYNIC, 0, args), has ? 0 : -EINVAL);
}

int main(int argc, char **argv)
{
	(void)argc;
	struct vm vm = load(argv);
	OK(crosvm_reserve_range(vm.crosvm, CROSVM_ADDRESS_SPACE_IOPORT, 0x10, 1));
	OK(crosvm_start(vm.crosvm));
	boot(vm.vcpu);
	check_cpuid(vm.crosvm, vm.vcpu);
	OK(crosvm_vcpu_resume(vm.vcpu));
	await_access(vm.vcpu, 0x10, true);
	check_states(vm.vcpu);
	check_msrs(vm.vcpu);
	check_capabilities(vm.crosvm, vm.vcpu);
	return 0;
}
