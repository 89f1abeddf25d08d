/* A plugin that says on standard output what it finds itself to be. */
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

int main(void) {
    char text[256];
    struct rlimit limit;
    printf("pid %d\nparent %d\nsession %d\nuser %d\ngroup %d\n", getpid(), getppid(), getsid(0), getuid(), getgid());
    gethostname(text, sizeof text);
    printf("host %s\n", text);
    printf("working directory %s\n", getcwd(text, sizeof text));
    getrlimit(RLIMIT_CORE, &limit);
    printf("core %lu\n", (unsigned long)limit.rlim_max);
    getrlimit(RLIMIT_NOFILE, &limit);
    printf("descriptors %lu\n", (unsigned long)limit.rlim_max);
    getrlimit(RLIMIT_NPROC, &limit);
    printf("processes %lu\n", (unsigned long)limit.rlim_max);
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(text, sizeof text, status)) fputs(text, stdout);
    return 0;
}
