/* Interrupt lines, routes, and irq events, as the chips show them. */
#include "check.h"

static uint32_t ioapic_pending(struct crosvm *crosvm)
{
	struct kvm_ioapic_state state;
	OK(crosvm_get_ioapic_state(crosvm, &state));
	return state.irr;
}

static uint8_t pic_pending(struct crosvm *crosvm, bool primary)
{
	struct kvm_pic_state state;
	OK(crosvm_get_pic_state(crosvm, primary, &state));
	return state.irr;
}

int main(int argc, char **argv)
{
	(void)argc;
	struct vm vm = load(argv);
	struct crosvm *crosvm = vm.crosvm;
	OK(crosvm_reserve_range(crosvm, CROSVM_ADDRESS_SPACE_IOPORT, 0x10, 1));

	OK(crosvm_set_irq(crosvm, 12, true));
	EQUAL(ioapic_pending(crosvm), 1 << 12);
	EQUAL(pic_pending(crosvm, false), 1 << 4);
	OK(crosvm_set_irq(crosvm, 12, false));
	EQUAL(ioapic_pending(crosvm), 0);

	/* An event raises the line until the guest acknowledges, and tells of that. */
	struct crosvm_irq *irq;
	OK(crosvm_create_irq_event(crosvm, 5, &irq));
	int trigger = crosvm_irq_event_get_fd(irq), resample = crosvm_irq_event_get_resample_fd(irq);
	CHECK(trigger >= 0 && resample >= 0 && trigger != resample);
	EQUAL(fcntl(trigger, F_GETFD) | fcntl(resample, F_GETFD), 0);
	go(&vm);
	for (int round = 0; round < 3; round++) {
		await_access(vm.vcpu, 0x10, true);
		fire(trigger);
		while (ioapic_pending(crosvm) != 1 << 5)
			;
		EQUAL(fired(resample), 0);
		OK(crosvm_vcpu_resume(vm.vcpu));
		CHECK(readable(resample, 30000));
		EQUAL(fired(resample), 1);
		EQUAL(ioapic_pending(crosvm), 0);
	}
	OK(crosvm_destroy_irq_event(crosvm, &irq));
	CHECK(irq == NULL);
	REFUSED(EINVAL, crosvm_destroy_irq_event(crosvm, &irq));
	EQUAL(fcntl(trigger, F_GETFD), -1);
	EQUAL(fcntl(resample, F_GETFD), -1);

	/* A table replaces all routes, also a long one. */
	static struct crosvm_irq_route routes[1000];
	for (uint32_t i = 0; i < 1000; i++) {
		routes[i].irq_id = 100 + i;
		routes[i].kind = CROSVM_IRQ_ROUTE_MSI;
		routes[i].msi.address = 0xfee00000;
		routes[i].msi.data = i;
	}
	routes[7].irq_id = 40;
	routes[7].kind = CROSVM_IRQ_ROUTE_IRQCHIP;
	routes[7].irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
	routes[7].irqchip.pin = 9;
	OK(crosvm_set_irq_routing(crosvm, 1000, routes));
	OK(crosvm_set_irq(crosvm, 6, true));
	EQUAL(ioapic_pending(crosvm), 0);
	OK(crosvm_set_irq(crosvm, 40, true));
	EQUAL(ioapic_pending(crosvm), 1 << 9);
	OK(crosvm_set_irq(crosvm, 40, false));
	EQUAL(ioapic_pending(crosvm), 0);

	/* What makes no sense is refused, and the old table stays. */
	struct crosvm_irq_route bad = routes[7];
	bad.kind = 2;
	REFUSED(EINVAL, crosvm_set_irq_routing(crosvm, 1, &bad));
	bad = routes[7];
	bad.irqchip.irqchip = 3;
	REFUSED(EINVAL, crosvm_set_irq_routing(crosvm, 1, &bad));
	bad = routes[7];
	bad.irqchip.pin = 24;
	REFUSED(EINVAL, crosvm_set_irq_routing(crosvm, 1, &bad));
	REFUSED(EINVAL, crosvm_set_irq_routing(crosvm, 1, NULL));
	OK(crosvm_set_irq(crosvm, 40, true));
	EQUAL(ioapic_pending(crosvm), 1 << 9);
	OK(crosvm_set_irq(crosvm, 40, false));

	OK(crosvm_set_irq_routing(crosvm, 0, NULL));
	OK(crosvm_set_irq(crosvm, 40, true));
	EQUAL(ioapic_pending(crosvm), 0);
	return 0;
}
