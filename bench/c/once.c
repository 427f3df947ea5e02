/* Runs a command and says what it has cost: a small program, because a child's memory is at least its parent's.

   once COPIES COMMAND [ARGUMENT...]

   Runs so many copies at the same time, with nothing on standard input and output. Prints: microseconds until the last has
   ended; microseconds of CPU and kilobytes of memory of the costliest one; and the exit status of each. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static double microseconds(struct timeval t) { return (double)t.tv_sec * 1e6 + (double)t.tv_usec; }

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    int copies = atoi(argv[1]);
    int *statuses = calloc((size_t)copies, sizeof *statuses);
    double cpu = 0;
    long memory = 0;
    posix_spawn_file_actions_t quiet;
    posix_spawn_file_actions_init(&quiet);
    for (int fd = 0; fd < 3; fd++) posix_spawn_file_actions_addopen(&quiet, fd, "/dev/null", fd ? O_WRONLY : O_RDONLY, 0);
    double begun = now();
    for (int i = 0; i < copies; i++) {
        pid_t pid;
        int error = posix_spawnp(&pid, argv[2], &quiet, NULL, &argv[2], environ);
        if (error) return 3;
    }
    for (int i = 0; i < copies; i++) {
        struct rusage used;
        if (wait4(-1, &statuses[i], 0, &used) < 0) return 3;
        double took = microseconds(used.ru_utime) + microseconds(used.ru_stime);
        cpu = took > cpu ? took : cpu;
        memory = used.ru_maxrss > memory ? used.ru_maxrss : memory;
    }
    printf("%.0f %.0f %ld", now() - begun, cpu, memory);
    for (int i = 0; i < copies; i++) printf(" %d", WIFEXITED(statuses[i]) ? WEXITSTATUS(statuses[i]) : -1);
    putchar('\n');
    return 0;
}
