/* The state of the chips and the clock. */
#include "check.h"

int main(void)
{
	struct crosvm *crosvm;
	OK(crosvm_connect(&crosvm));

	/* Each of the two by itself. */
	struct kvm_pic_state pics[2], pic;
	for (int primary = 0; primary <= 1; primary++) {
		OK(crosvm_get_pic_state(crosvm, primary, &pics[primary]));
		pics[primary].irq_base = 0x20 + 8 * primary;
		pics[primary].imr = 0xf0 + primary;
		OK(crosvm_set_pic_state(crosvm, primary, &pics[primary]));
	}
	for (int primary = 0; primary <= 1; primary++) {
		OK(crosvm_get_pic_state(crosvm, primary, &pic));
		EQUAL(pic.irq_base, 0x20 + 8 * primary);
		EQUAL(pic.imr, 0xf0 + primary);
	}

	struct kvm_ioapic_state ioapic, ioapic_again;
	OK(crosvm_get_ioapic_state(crosvm, &ioapic));
	ioapic.id = 5;
	ioapic.redirtbl[3].bits = 0x10033;
	OK(crosvm_set_ioapic_state(crosvm, &ioapic));
	OK(crosvm_get_ioapic_state(crosvm, &ioapic_again));
	EQUAL(memcmp(&ioapic, &ioapic_again, sizeof ioapic), 0);

	struct kvm_pit_state2 pit, pit_again;
	OK(crosvm_get_pit_state(crosvm, &pit));
	pit.channels[2].count = 0x1234;
	OK(crosvm_set_pit_state(crosvm, &pit));
	OK(crosvm_get_pit_state(crosvm, &pit_again));
	EQUAL(pit_again.channels[2].count, 0x1234);

	struct kvm_clock_data clock, later;
	OK(crosvm_get_clock(crosvm, &clock));
	memset(&clock, 0, sizeof clock);
	clock.clock = 1000000000000;
	OK(crosvm_set_clock(crosvm, &clock));
	OK(crosvm_get_clock(crosvm, &later));
	CHECK(later.clock >= clock.clock);
	clock.flags = 0x80000000;
	REFUSED(EINVAL, crosvm_set_clock(crosvm, &clock));

	OK(crosvm_set_identity_map_addr(crosvm, 0xfffbc000));
	OK(crosvm_start(crosvm));
	REFUSED(EINVAL, crosvm_set_identity_map_addr(crosvm, 0xfffbc000));
	return 0;
}
