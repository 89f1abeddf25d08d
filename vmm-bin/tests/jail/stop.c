/* A plugin that stops and continues its parent, as plugins did for which that had no effect. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(void) {
    char text[512] = {0};
    if (kill(getppid(), SIGSTOP) || kill(getppid(), SIGCONT)) {
        perror("kill");
        return 1;
    }
    /* The parent was not stopped. */
    if (kill(getppid(), SIGSTOP)) return 2;
    FILE *stat = fopen("/proc/1/stat", "r");
    if (stat && fread(text, 1, sizeof text - 1, stat) > 0 && strstr(text, ") T ")) return 3;
    /* Itself it may signal as it likes. */
    if (kill(getpid(), 0) || raise(SIGCONT)) return 4;
    return 0;
}
