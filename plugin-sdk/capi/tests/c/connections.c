/* Connections, and the vCPUs that they share. Of a VM with three vCPUs. */
#include "check.h"

int main(void)
{
	struct crosvm *first = NULL, *second = NULL, *none = NULL;
	OK(crosvm_connect(&first));
	CHECK(first != NULL);
	REFUSED(EBUSY, crosvm_connect(&none));
	CHECK(none == NULL);

	OK(crosvm_new_connection(first, &second));
	CHECK(second != NULL && second != first);

	/* A vCPU has one handle, on whichever connection it is asked for. */
	struct crosvm_vcpu *vcpus[3], *again;
	for (uint32_t i = 0; i < 3; i++) {
		OK(crosvm_get_vcpu(first, i, &vcpus[i]));
		OK(crosvm_get_vcpu(second, i, &again));
		CHECK(again == vcpus[i]);
		for (uint32_t j = 0; j < i; j++)
			CHECK(vcpus[j] != vcpus[i]);
	}
	again = NULL;
	REFUSED(ENOENT, crosvm_get_vcpu(first, 3, &again));
	REFUSED(ENOENT, crosvm_get_vcpu(first, UINT32_MAX, &again));
	CHECK(again == NULL);

	/* The caller's descriptor, which a child process inherits. */
	int before = open_descriptors();
	int shutdown = crosvm_get_shutdown_eventfd(first);
	CHECK(shutdown >= 0);
	EQUAL(open_descriptors(), before + 1);
	EQUAL(fcntl(shutdown, F_GETFD), 0);
	CHECK((fcntl(shutdown, F_GETFL) & O_NONBLOCK) == 0);
	fire(shutdown);
	int twin = crosvm_get_shutdown_eventfd(second);
	EQUAL(fired(twin), 1);
	close(twin);
	close(shutdown);

	/* A connection ends alone, and the vCPUs live with the last. */
	OK(crosvm_destroy_connection(&first));
	CHECK(first == NULL);
	OK(crosvm_get_vcpu(second, 2, &again));
	CHECK(again == vcpus[2]);
	OK(crosvm_new_connection(second, &first));
	OK(crosvm_destroy_connection(&second));
	REFUSED(EINVAL, crosvm_destroy_connection(&second));

	OK(crosvm_start(first));
	REFUSED(EINVAL, crosvm_start(first));
	struct crosvm_vcpu_event event;
	for (int i = 0; i < 3; i++) {
		OK(crosvm_vcpu_wait(vcpus[i], &event));
		EQUAL(event.kind, CROSVM_VCPU_EVENT_KIND_INIT);
	}

	/* The last one closes the vCPUs' pipes too, or the one descriptor behind their rings. */
	before = open_descriptors();
	OK(crosvm_destroy_connection(&first));
	int closed = before - open_descriptors();
	CHECK(closed == 1 + 2 * 3 || closed == 1 + 1);
	REFUSED(EBUSY, crosvm_connect(&first));
	return 0;
}
