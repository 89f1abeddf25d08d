/*
 * A device that adds, in C: adder.rs says it in Rust.
 *
 * The guest hands it two operands, reads their sum, and shows what it has read.
 */
#include "guest.h"

/* The device's ports, one byte each. */
enum {
	OPERAND = 0x10, /* written: an operand; the device keeps the last two */
	SUM = 0x11,     /* read: the sum of the two operands */
	SHOW = 0x12,    /* written: the sum, as the guest has received it */
	DONE = 0x13,    /* written: the guest is done */
};

/* What the guest executes: real-mode code. */
static const uint8_t guest_code[] = {
	0xb0, 2, 0xe6, OPERAND,           /* mov al, 2;  out OPERAND, al */
	0xb0, 3, 0xe6, OPERAND,           /* mov al, 3;  out OPERAND, al */
	0xe4, SUM, 0xe6, SHOW,            /* in al, SUM; out SHOW, al */
	0xb0, 20, 0xe6, OPERAND,          /* mov al, 20; out OPERAND, al */
	0xb0, 22, 0xe6, OPERAND,          /* mov al, 22; out OPERAND, al */
	0xe4, SUM, 0xe6, SHOW, 0xe6, DONE /* in al, SUM; out SHOW, al; out DONE, al */
};

int main(void)
{
	/* The VMM started this process and left it one end of a socket. */
	struct crosvm *crosvm;
	CHECK(crosvm_connect(&crosvm));

	/* The VM has no memory but what the plugin gives it. */
	give_memory(crosvm, guest_code, sizeof guest_code);

	/* From here on, accesses to these ports are ours. */
	CHECK(crosvm_reserve_range(crosvm, CROSVM_ADDRESS_SPACE_IOPORT, OPERAND, 4));

	struct crosvm_vcpu *vcpu;
	CHECK(crosvm_get_vcpu(crosvm, 0, &vcpu));
	CHECK(crosvm_start(crosvm));

	uint8_t operands[2] = { 0 };
	for (;;) {
		struct crosvm_vcpu_event event;
		CHECK(crosvm_vcpu_wait(vcpu, &event));
		if (event.kind == CROSVM_VCPU_EVENT_KIND_INIT) {
			/* Before the first instruction: say where it is. */
			boot(vcpu);
		} else if (event.kind == CROSVM_VCPU_EVENT_KIND_IO_ACCESS) {
			uint8_t *data = event.io_access.data;
			switch (event.io_access.address) {
			case OPERAND:
				operands[0] = operands[1];
				operands[1] = *data;
				break;
			case SUM:
				/* The guest is stopped at its `in` until it has the answer. */
				*data = operands[0] + operands[1];
				break;
			case SHOW:
				printf("%d + %d = %d\n", operands[0], operands[1], *data);
				break;
			case DONE:
				/* When the plugin exits, the VM ends. */
				return 0;
			}
		}
		CHECK(crosvm_vcpu_resume(vcpu));
	}
}
