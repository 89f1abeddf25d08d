/* The network, where the VM was given one. */
#include "check.h"

#include <arpa/inet.h>

int main(int argc, char **argv)
{
	/* The address that the VMM was told. */
	CHECK(argc == 3);
	struct crosvm *crosvm;
	OK(crosvm_connect(&crosvm));
	for (int i = 0; i < 2; i++) {
		struct crosvm_net_config net;
		OK(crosvm_net_get_config(crosvm, &net));
		EQUAL(net.host_ip, inet_addr(argv[2]));
		EQUAL(net.netmask, inet_addr("255.255.255.252"));
		EQUAL(memcmp(net.host_mac_address, "\x70\x5d\xcc\xfe\x00\x04", 6), 0);
		CHECK(fcntl(net.tap_fd, F_GETFL) & O_NONBLOCK);
		EQUAL(fcntl(net.tap_fd, F_GETFD), 0);
		CHECK(close(net.tap_fd) == 0);
	}
	return 0;
}
