/* The items of an access: how many, and how wide. */
#include "check.h"

static void expect_items(struct crosvm_vcpu *vcpu, struct crosvm_vcpu_event event, uint32_t width)
{
	uint32_t got_width = 99, count = 99;
	OK(outboard_vcpu_get_io_items(vcpu, &got_width, &count));
	EQUAL(got_width, width);
	EQUAL(width * count, event.io_access.length);
}

int main(int argc, char **argv)
{
	(void)argc;
	struct vm vm = load(argv);
	struct crosvm_vcpu *vcpu = vm.vcpu;
	OK(crosvm_reserve_range(vm.crosvm, CROSVM_ADDRESS_SPACE_IOPORT, 0x10, 2));
	OK(crosvm_reserve_async_write_range(vm.crosvm, CROSVM_ADDRESS_SPACE_IOPORT, 0x12, 1));

	uint32_t width, count;
	REFUSED(EPROTO, outboard_vcpu_get_io_items(vcpu, &width, &count));
	OK(crosvm_start(vm.crosvm));
	boot(vcpu);
	REFUSED(EPROTO, outboard_vcpu_get_io_items(vcpu, &width, &count));
	REFUSED(EINVAL, outboard_vcpu_get_io_items(NULL, &width, &count));
	REFUSED(EINVAL, outboard_vcpu_get_io_items(vcpu, NULL, &count));
	REFUSED(EINVAL, outboard_vcpu_get_io_items(vcpu, &width, NULL));
	OK(crosvm_vcpu_resume(vcpu));

	for (int round = 0; round < 3; round++) {
		/* rep insb of two */
		for (uint32_t left = 2; left > 0;) {
			struct crosvm_vcpu_event event = await_access(vcpu, 0x10, false);
			expect_items(vcpu, event, 1);
			/* As often as one likes, also when the event is reported again. */
			expect_items(vcpu, await_access(vcpu, 0x10, false), 1);
			left -= event.io_access.length;
			OK(crosvm_vcpu_resume(vcpu));
			REFUSED(EPROTO, outboard_vcpu_get_io_items(vcpu, &width, &count));
		}
		/* in ax, dx */
		struct crosvm_vcpu_event event = await_access(vcpu, 0x11, false);
		EQUAL(event.io_access.length, 2);
		expect_items(vcpu, event, 2);
		OK(crosvm_vcpu_resume(vcpu));
		/* A posted write. */
		event = await_access(vcpu, 0x12, true);
		EQUAL(event.io_access.no_resume, 1);
		EQUAL(event.io_access.length, 4);
		expect_items(vcpu, event, 4);
	}
	return 0;
}
