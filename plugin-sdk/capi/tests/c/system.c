/* What the hypervisor can do, and lists whose length is found out by asking. */
#include "check.h"

typedef int (*get_cpuid)(struct crosvm *, uint32_t, struct kvm_cpuid_entry2 *, uint32_t *);

static void check_cpuid(struct crosvm *crosvm, get_cpuid get, bool may_be_empty)
{
	uint32_t needed = 77;
	int result = get(crosvm, 0, NULL, &needed);
	if (may_be_empty && result == 0) {
		EQUAL(needed, 0);
		return;
	}
	EQUAL(result, -E2BIG);
	CHECK(needed > 0);

	struct kvm_cpuid_entry2 *entries = calloc(needed + 1, sizeof *entries);
	uint32_t count = 77;
	if (needed > 1) {
		entries[0].function = 0x12345678;
		REFUSED(E2BIG, get(crosvm, 1, entries, &count));
		EQUAL(count, needed);
		REFUSED(E2BIG, get(crosvm, needed - 1, entries, &count));
		EQUAL(count, needed);
		EQUAL(entries[0].function, 0x12345678);
	}
	for (uint32_t more = 0; more <= 1; more++) {
		count = 77;
		OK(get(crosvm, needed + more, entries, &count));
		EQUAL(count, needed);
	}
	/* No more was written than there is. */
	EQUAL(entries[needed].function | entries[needed].eax, 0);
	count = 77;
	REFUSED(EINVAL, get(crosvm, needed, NULL, &count));
	EQUAL(count, 0);
	REFUSED(EINVAL, get(crosvm, needed, entries, NULL));
	free(entries);
}

static void check_msrs(struct crosvm *crosvm)
{
	uint32_t needed = 77, count = 77;
	uint32_t one = 0x12345678;
	REFUSED(E2BIG, crosvm_get_msr_index_list(crosvm, 0, NULL, &needed));
	CHECK(needed > 1);
	REFUSED(E2BIG, crosvm_get_msr_index_list(crosvm, 1, &one, &count));
	EQUAL(count, needed);
	EQUAL(one, 0x12345678);
	uint32_t *indices = calloc(needed, sizeof *indices);
	OK(crosvm_get_msr_index_list(crosvm, needed, indices, &count));
	EQUAL(count, needed);
	bool found = false;
	for (uint32_t i = 0; i < count; i++)
		found = found || indices[i] == 0x174; /* IA32_SYSENTER_CS */
	CHECK(found);
	free(indices);
}

int main(void)
{
	struct crosvm *crosvm;
	OK(crosvm_connect(&crosvm));

	bool has = false;
	OK(crosvm_check_extension(crosvm, KVM_CAP_IRQCHIP, &has));
	CHECK(has);
	/* A number above 1. */
	has = false;
	OK(crosvm_check_extension(crosvm, KVM_CAP_NR_MEMSLOTS, &has));
	CHECK(has);
	OK(crosvm_check_extension(crosvm, UINT32_MAX, &has));
	CHECK(!has);

	uint64_t args[4] = { 0 };
	REFUSED(EINVAL, crosvm_enable_capability(crosvm, KVM_CAP_SPLIT_IRQCHIP, 0, args));

	check_cpuid(crosvm, crosvm_get_supported_cpuid, false);
	check_cpuid(crosvm, crosvm_get_emulated_cpuid, true);
	check_msrs(crosvm);

	struct crosvm_net_config net = { .tap_fd = -5 };
	REFUSED(ENODATA, crosvm_net_get_config(crosvm, &net));
	EQUAL(net.tap_fd, -5);
	return 0;
}
