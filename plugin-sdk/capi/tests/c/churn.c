/* Objects come and go, on two connections and two threads, and leave nothing behind. */
#include "check.h"

#include <pthread.h>

#define ROUNDS 1000
/* How many objects and I/O events a plugin may have. */
#define OBJECTS 4096
#define IO_EVENTS 1024

static void *churn(void *argument)
{
	struct crosvm *crosvm = argument;
	static int threads;
	const uint64_t mine = (uint64_t)__atomic_fetch_add(&threads, 1, __ATOMIC_RELAXED);
	int memfd = sealed_memfd(0x2000);
	for (int round = 0; round < ROUNDS; round++) {
		uint8_t data = (uint8_t)round;
		struct crosvm_io *io;
		OK(crosvm_create_io_event(crosvm, CROSVM_ADDRESS_SPACE_IOPORT, 0x70 + mine, 1, &data, &io));
		struct crosvm_memory *memory;
		OK(crosvm_create_memory(crosvm, memfd, 0, 0x2000, 0x100000 + 0x10000 * mine, false, round % 2, &memory));
		struct crosvm_irq *irq;
		OK(crosvm_create_irq_event(crosvm, 5 + (uint32_t)mine, &irq));
		OK(crosvm_destroy_io_event(crosvm, &io));
		OK(crosvm_destroy_memory(crosvm, &memory));
		OK(crosvm_destroy_irq_event(crosvm, &irq));
		OK(crosvm_reserve_range(crosvm, CROSVM_ADDRESS_SPACE_IOPORT, 0x80 + mine, 1));
		OK(crosvm_reserve_range(crosvm, CROSVM_ADDRESS_SPACE_IOPORT, 0x80 + mine, 0));
	}
	close(memfd);
	return NULL;
}

int main(void)
{
	struct crosvm *connections[2];
	OK(crosvm_connect(&connections[0]));
	OK(crosvm_new_connection(connections[0], &connections[1]));
	int before = open_descriptors();

	pthread_t threads[2];
	for (int i = 0; i < 2; i++)
		CHECK(pthread_create(&threads[i], NULL, churn, connections[i]) == 0);
	for (int i = 0; i < 2; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	EQUAL(open_descriptors(), before);

	/* Had the VMM kept any object, there would not be room for all that a plugin may have. */
	static struct crosvm_io *ios[IO_EVENTS];
	struct crosvm_io *refused = NULL;
	for (uint32_t i = 0; i < IO_EVENTS; i++) {
		/* Few descriptors are kept open here: the VMM has its own. */
		OK(crosvm_create_io_event(connections[i % 2], CROSVM_ADDRESS_SPACE_MMIO, 0x200000 + 8 * i, 4,
					  (const uint8_t *)&i, &ios[i]));
	}
	REFUSED(ENOSPC, crosvm_create_io_event(connections[0], CROSVM_ADDRESS_SPACE_MMIO, 0x300000, 0, NULL, &refused));
	for (uint32_t i = 0; i < IO_EVENTS; i++)
		OK(crosvm_destroy_io_event(connections[0], &ios[i]));
	EQUAL(open_descriptors(), before);
	OK(crosvm_destroy_connection(&connections[0]));
	OK(crosvm_destroy_connection(&connections[1]));
	return 0;
}
