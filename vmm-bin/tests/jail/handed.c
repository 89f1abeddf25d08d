/* A plugin that makes each call that plugins make on what they are handed: what is allowed, it outlives. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <termios.h>
#include <unistd.h>

#define MUST(call) do { if ((call) < 0) { perror(#call); exit(1); } } while (0)

/* By number: some are of newer headers than a build machine has. */
static const unsigned long requests[] = {
    TCGETS, TCSETS, TCSETSW, TCSETSF, TCSBRK, TCSBRKP, TCFLSH, TIOCGWINSZ, TIOCGPGRP, TIOCGSID, TIOCMGET, TIOCOUTQ, FIONREAD,
    0x802c542a, 0x402c542b, 0x402c542c, 0x402c542d, /* TCGETS2, TCSETS2, TCSETSW2, TCSETSF2 */
    TUNGETFEATURES, TUNGETIFF, TUNGETSNDBUF, TUNSETSNDBUF, TUNGETVNETHDRSZ, TUNSETVNETHDRSZ, TUNSETOFFLOAD, TUNSETNOCSUM,
    TUNSETTXFILTER, TUNGETFILTER, TUNSETVNETLE, TUNGETVNETLE, TUNSETVNETBE, TUNGETVNETBE, 0x8927, /* SIOCGIFHWADDR */
};

/* Whatever the descriptor is, the kernel says so, and lets the caller live. */
static void ask(int fd) {
    static char space[4096];
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        memset(space, 0, sizeof space);
        syscall(SYS_ioctl, fd, requests[i], space);
        /* As musl passes it. */
        syscall(SYS_ioctl, fd, (long)(int)requests[i], space);
    }
    int zero = 0;
    ioctl(fd, FIONBIO, &zero);
    ioctl(fd, FIOASYNC, &zero);
    MUST(ioctl(fd, FIOCLEX));
    MUST(ioctl(fd, FIONCLEX));
    struct stat stat;
    MUST(fstat(fd, &stat));
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 10), flags = fcntl(fd, F_GETFL);
    MUST(copy);
    MUST(fcntl(fd, F_SETFL, flags));
    MUST(fcntl(fd, F_GETFD));
    MUST(fcntl(fd, F_SETFD, 0));
    /* Refused at most. */
    fcntl(fd, F_SETOWN, getpid());
    fcntl(fd, F_GETOWN);
    MUST(close(copy));
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN | POLLOUT};
    MUST(poll(&poll_fd, 1, 0));
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    struct timeval now = {0};
    MUST(select(fd + 1, &set, NULL, NULL, &now));
}

static void ask_socket(int fd) {
    static const int options[] = {SO_TYPE, SO_DOMAIN, SO_PROTOCOL, SO_ERROR, SO_RCVBUF, SO_SNDBUF, SO_PEERCRED, SO_PASSCRED,
                                  SO_RCVTIMEO, SO_SNDTIMEO, SO_ACCEPTCONN, SO_PEERSEC, SO_COOKIE};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        char value[256] = {0};
        socklen_t length = sizeof value;
        if (getsockopt(fd, SOL_SOCKET, options[i], value, &length) == 0 && length <= sizeof(struct timeval))
            setsockopt(fd, SOL_SOCKET, options[i], value, length);
    }
    int one = 1;
    socklen_t length = sizeof one;
    /* Not of such a socket. */
    setsockopt(fd, 6, 1, &one, sizeof one);
    getsockopt(fd, 6, 1, &one, &length);
    struct sockaddr_storage address;
    length = sizeof address;
    MUST(getsockname(fd, (struct sockaddr *)&address, &length));
    length = sizeof address;
    MUST(getpeername(fd, (struct sockaddr *)&address, &length));
}

int main(void) {
    int main_socket = atoi(getenv("CROSVM_SOCKET"));
    ask(main_socket);
    ask_socket(main_socket);
    for (int fd = 0; fd < 3; fd++)
        ask(fd);

    int pair[2], ends[2];
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
    ask(pair[0]);
    ask_socket(pair[0]);
    MUST(send(pair[0], "x", 1, MSG_NOSIGNAL));
    char byte;
    MUST(recv(pair[1], &byte, 1, MSG_DONTWAIT));
    MUST(shutdown(pair[0], SHUT_WR));

    MUST(pipe2(ends, O_CLOEXEC));
    ask(ends[0]);
    MUST(fcntl(ends[0], F_GETPIPE_SZ));
    MUST(fcntl(ends[0], F_SETPIPE_SZ, 4096));
    struct iovec bytes = {.iov_base = "x", .iov_len = 1};
    MUST(writev(ends[1], &bytes, 1));
    splice(ends[0], NULL, ends[1], NULL, 1, SPLICE_F_NONBLOCK);
    MUST(read(ends[0], &byte, 1));

    int event = eventfd(0, EFD_NONBLOCK);
    ask(event);
    uint64_t count = 1;
    MUST(write(event, &count, sizeof count));
    MUST(read(event, &count, sizeof count));
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event watched = {.events = EPOLLIN | EPOLLET};
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &watched));
    MUST(epoll_wait(epoll, &watched, 1, 0));

    int memfd = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    ask(memfd);
    MUST(ftruncate(memfd, 0x2000));
    MUST(fallocate(memfd, 0, 0, 0x2000));
    MUST(fallocate(memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 0x1000));
    MUST(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK));
    MUST(fcntl(memfd, F_GET_SEALS));
    MUST(pwrite(memfd, "x", 1, 0));
    MUST(pread(memfd, &byte, 1, 0));
    MUST(lseek(memfd, 0, SEEK_END));
    void *memory = mmap(NULL, 0x2000, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (memory == MAP_FAILED) return 1;
    madvise(memory, 0x2000, MADV_DONTFORK);
    madvise(memory, 0x2000, MADV_HUGEPAGE);
    mlock(memory, 0x1000);
    MUST(mprotect(memory, 0x1000, PROT_READ));
    MUST(msync(memory, 0x2000, MS_ASYNC));
    MUST(munmap(memory, 0x2000));

    /* Of newer C libraries. */
    syscall(452, AT_FDCWD, "/nonexistent", 0600, AT_SYMLINK_NOFOLLOW); /* fchmodat2 */
    syscall(462, NULL, 0, 0);                                          /* mseal */
    syscall(440, -1, NULL, 0, 0, 0);                                   /* process_madvise */
    return 0;
}
