/* Objects come and go, on two connections and two threads, and leave nothing behind. */
#include "check.h"

#include <dirent.h>
#include <pthread.h>

/* On each of two threads. */
#define ROUNDS 500

/* What comes and goes. */
static const char *kind;

static void *churn(void *argument)
{
	struct crosvm *crosvm = argument;
	static int threads;
	const uint64_t mine = (uint64_t)__atomic_fetch_add(&threads, 1, __ATOMIC_RELAXED);
	int memfd = sealed_memfd(0x2000);
	for (int round = 0; round < ROUNDS; round++) {
		if (strcmp(kind, "io_event") == 0) {
			uint8_t data = (uint8_t)round;
			struct crosvm_io *io;
			OK(crosvm_create_io_event(crosvm, CROSVM_ADDRESS_SPACE_IOPORT, 0x70 + mine, 1, &data, &io));
			OK(crosvm_destroy_io_event(crosvm, &io));
		} else if (strcmp(kind, "memory") == 0) {
			struct crosvm_memory *memory;
			OK(crosvm_create_memory(crosvm, memfd, 0, 0x2000, 0x100000 + 0x10000 * mine, false, round % 2,
						&memory));
			OK(crosvm_destroy_memory(crosvm, &memory));
		} else if (strcmp(kind, "irq_event") == 0) {
			struct crosvm_irq *irq;
			OK(crosvm_create_irq_event(crosvm, 5 + (uint32_t)mine, &irq));
			OK(crosvm_destroy_irq_event(crosvm, &irq));
		} else {
			struct crosvm *another;
			OK(crosvm_reserve_range(crosvm, CROSVM_ADDRESS_SPACE_IOPORT, 0x80 + mine, 1));
			OK(crosvm_reserve_range(crosvm, CROSVM_ADDRESS_SPACE_IOPORT, 0x80 + mine, 0));
			/* Those that were closed count until the VMM has taken note of it. */
			int result;
			while ((result = crosvm_new_connection(crosvm, &another)) == -EMFILE)
				;
			OK(result);
			OK(crosvm_destroy_connection(&another));
		}
	}
	close(memfd);
	return NULL;
}

/* How many entries a folder of the VMM's in /proc has: its descriptors, or its mappings. */
static int count(const char *folder)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/%s", (int)getppid(), folder);
	DIR *entries = opendir(path);
	CHECK(entries != NULL);
	int found = 0;
	while (readdir(entries))
		found++;
	closedir(entries);
	return found;
}

int main(int argc, char **argv)
{
	CHECK(argc == 3);
	kind = argv[2];
	struct crosvm *connections[2];
	OK(crosvm_connect(&connections[0]));
	OK(crosvm_new_connection(connections[0], &connections[1]));
	int before = open_descriptors(), vmm_fds = count("fd"), vmm_mappings = count("map_files");

	pthread_t threads[2];
	for (int i = 0; i < 2; i++)
		CHECK(pthread_create(&threads[i], NULL, churn, connections[i]) == 0);
	for (int i = 0; i < 2; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	EQUAL(open_descriptors(), before);

	/* The VMM sees a closed connection a little later. */
	while (count("fd") > vmm_fds || count("map_files") > vmm_mappings)
		;
	EQUAL(open_descriptors(), before);
	OK(crosvm_destroy_connection(&connections[0]));
	OK(crosvm_destroy_connection(&connections[1]));
	return 0;
}
