/* crosvm_connect() where no VMM has started the process. */
#include "check.h"

int main(void)
{
	struct crosvm *crosvm = NULL;
	unsetenv("CROSVM_SOCKET");
	REFUSED(ENOTCONN, crosvm_connect(&crosvm));
	const char *bad[] = { "", "three", "-1", "3.0", "99999999999" };
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		setenv("CROSVM_SOCKET", bad[i], 1);
		REFUSED(EINVAL, crosvm_connect(&crosvm));
	}
	setenv("CROSVM_SOCKET", "1000000", 1);
	REFUSED(EBADF, crosvm_connect(&crosvm));
	setenv("CROSVM_SOCKET", "0", 1);
	CHECK(crosvm_connect(&crosvm) < 0);
	CHECK(crosvm == NULL);
	return 0;
}
