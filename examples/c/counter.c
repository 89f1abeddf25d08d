/*
 * A memory-mapped counter that interrupts, in C: counter.rs says it in Rust, and README.md describes the device.
 *
 * At each interrupt the guest reads the counter and tells the device what it has read, at which the device counts on
 * and interrupts again. The interrupt goes by an eventfd straight to the kernel's interrupt controller.
 */
#include "guest.h"

/* The device: two registers of 4 bytes, in memory that real-mode code reaches. */
enum {
	COUNT = 0xd0000, /* read: the counter */
	SEEN = 0xd0004,  /* written: what the guest has read; 0 at the beginning */
};

/* The interrupt line. */
#define LINE 5

/* How far the device counts. */
#define LAST 5

/* What the guest executes: real-mode code. counter.rs has it with its instructions. */
static const uint8_t guest_code[] = {
	0xc7, 0x06, 0x94, 0x00, 0x31, 0x10, 0xc7, 0x06, 0x96, 0x00, 0x00, 0x00, 0xb0, 0x11, 0xe6, 0x20, 0xb0,
	0x20, 0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21, 0xb0, 0xdf, 0xe6, 0x21, 0xb8, 0x00,
	0xd0, 0x8e, 0xc0, 0x66, 0x31, 0xc0, 0x26, 0x66, 0xa3, 0x04, 0x00, 0xfb, 0xf4, 0xeb, 0xfd, 0x26, 0x66,
	0xa1, 0x00, 0x00, 0x66, 0x89, 0xc3, 0xb0, 0x20, 0xe6, 0x20, 0x26, 0x66, 0x89, 0x1e, 0x04, 0x00, 0xcf,
};

static void write_event(int fd)
{
	uint64_t one = 1;
	if (write(fd, &one, sizeof one) != sizeof one) {
		perror("raising the interrupt");
		exit(1);
	}
}

static void read_event(int fd)
{
	uint64_t count;
	if (read(fd, &count, sizeof count) != sizeof count) {
		perror("waiting for the end of the interrupt");
		exit(1);
	}
}

int main(void)
{
	struct crosvm *crosvm;
	CHECK(crosvm_connect(&crosvm));
	give_memory(crosvm, guest_code, sizeof guest_code);
	CHECK(crosvm_reserve_range(crosvm, CROSVM_ADDRESS_SPACE_MMIO, COUNT, 8));
	struct crosvm_irq *irq;
	CHECK(crosvm_create_irq_event(crosvm, LINE, &irq));
	int trigger = CHECK(crosvm_irq_event_get_fd(irq)), resample = CHECK(crosvm_irq_event_get_resample_fd(irq));

	struct crosvm_vcpu *vcpu;
	CHECK(crosvm_get_vcpu(crosvm, 0, &vcpu));
	CHECK(crosvm_start(crosvm));

	uint32_t count = 0, seen;
	for (;;) {
		struct crosvm_vcpu_event event;
		CHECK(crosvm_vcpu_wait(vcpu, &event));
		if (event.kind == CROSVM_VCPU_EVENT_KIND_INIT) {
			boot(vcpu);
		} else if (event.kind == CROSVM_VCPU_EVENT_KIND_IO_ACCESS && event.io_access.length == sizeof count) {
			if (event.io_access.address == COUNT && !event.io_access.is_write)
				memcpy(event.io_access.data, &count, sizeof count);
			if (event.io_access.address == SEEN && event.io_access.is_write) {
				memcpy(&seen, event.io_access.data, sizeof seen);
				if (seen > 0) {
					printf("the guest has read %u\n", seen);
					/* The line is low again when the guest has ended the interrupt. */
					read_event(resample);
				}
				if (seen == LAST)
					return 0;
				count = seen + 1;
				write_event(trigger);
			}
		}
		CHECK(crosvm_vcpu_resume(vcpu));
	}
}
