/* A plugin that says on standard output what it finds itself to be. */
#include <sched.h>
#include <stdio.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static void tell_limit(const char *name, int resource) {
    struct rlimit limit;
    getrlimit(resource, &limit);
    printf("%s %lu\n", name, (unsigned long)limit.rlim_max);
}

int main(void) {
    char text[256];
    printf("pid %d\nparent %d\nsession %d\nuser %d\ngroup %d\n", getpid(), getppid(), getsid(0), getuid(), getgid());
    gethostname(text, sizeof text);
    printf("host %s\n", text);
    printf("working directory %s\n", getcwd(text, sizeof text));
    tell_limit("core", RLIMIT_CORE);
    tell_limit("descriptors", RLIMIT_NOFILE);
    tell_limit("processes", RLIMIT_NPROC);
    tell_limit("pending signals", RLIMIT_SIGPENDING);
    tell_limit("locked memory", RLIMIT_MEMLOCK);
    tell_limit("message queues", RLIMIT_MSGQUEUE);
    tell_limit("highest priority", RLIMIT_RTPRIO);
    tell_limit("highest nice", RLIMIT_NICE);
    printf("umask %o\n", umask(0));
    printf("policy %d\nnice %d\n", sched_getscheduler(0), getpriority(PRIO_PROCESS, 0));
    FILE *file = fopen("/proc/self/oom_score_adj", "r");
    printf("oom %s", file && fgets(text, sizeof text, file) ? text : "?\n");
    file = fopen("/proc/self/personality", "r");
    unsigned bits = 0;
    if (file && fscanf(file, "%x", &bits) == 1) printf("personality %x\n", bits);
    file = fopen("/proc/self/status", "r");
    while (file && fgets(text, sizeof text, file)) fputs(text, stdout);
    return 0;
}
