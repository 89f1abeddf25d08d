/* The network, where the VM was given one. */
#include "check.h"

#include <arpa/inet.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>

/* What drivers of network devices ask of a tap and set on it. The jail's policy allows each. */
static void ask_tap(int tap)
{
	unsigned int features = 0;
	OK(ioctl(tap, TUNGETFEATURES, &features));
	CHECK(features & IFF_TAP);
	struct ifreq request = { 0 };
	OK(ioctl(tap, TUNGETIFF, &request));
	CHECK(request.ifr_flags & IFF_TAP);
	OK(ioctl(tap, SIOCGIFHWADDR, &request));
	int size = 0, buffer = 0;
	OK(ioctl(tap, TUNGETVNETHDRSZ, &size));
	OK(ioctl(tap, TUNSETVNETHDRSZ, &size));
	OK(ioctl(tap, TUNGETSNDBUF, &buffer));
	OK(ioctl(tap, TUNSETSNDBUF, &buffer));
	OK(ioctl(tap, TUNSETOFFLOAD, 0));
	int little = 0;
	OK(ioctl(tap, TUNGETVNETLE, &little));
	OK(ioctl(tap, TUNSETVNETLE, &little));
	int off = 0;
	OK(ioctl(tap, FIONBIO, &off));
	int on = 1;
	OK(ioctl(tap, FIONBIO, &on));
}

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
		ask_tap(net.tap_fd);
		CHECK(close(net.tap_fd) == 0);
	}
	return 0;
}
