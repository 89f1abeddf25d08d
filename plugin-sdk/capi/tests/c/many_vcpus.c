/* A VM with more vCPUs than the protocol can hand over: connecting fails, and closes the socket. */
#include "check.h"

int main(void)
{
	struct crosvm *crosvm = NULL;
	int before = open_descriptors();
	REFUSED(E2BIG, crosvm_connect(&crosvm));
	CHECK(crosvm == NULL);
	EQUAL(open_descriptors(), before - 1);
	return 0;
}
