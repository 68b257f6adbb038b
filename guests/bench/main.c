// bench NAME...: runs workloads. Each prints "@start NAME" before and "@end NAME CHECKSUM" after;
// whoever watches the console measures the time between. `bench -l` lists the names;
// NAME=REPETITIONS overrides how long a workload is.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "bench.h"

static const struct {
    const char *name;
    workload *run;
    // Some .5 s to 1 s of QEMU's time on a machine of 2023.
    unsigned repetitions;
} workloads[] = {
    {"integer", integer, 250},   {"sieve", sieve, 15},       {"crc", crc, 40},
    {"sha256", sha256, 20},      {"divmul", divmul, 600},    {"matmul", matmul, 7},
    {"nbody", nbody, 600},       {"mandelbrot", mandelbrot, 8}, {"fib", fib, 7},
    {"switch", switches, 40},    {"indirect", indirect, 60}, {"qsort", sort, 30},
    {"memcpy", copy, 100},       {"chase", chase, 8},        {"atomics", atomics, 500},
    {"syscall", syscalls, 15},   {"faults", faults, 8},      {"mprotect", protect, 10},
    {"fork", forks, 5},          {"exec", execs, 4},         {"pipe", pipes, 10},
};

enum { COUNT = sizeof workloads / sizeof *workloads };

static int run(const char *request)
{
    size_t length = strcspn(request, "=");
    for (int i = 0; i < COUNT; i++) {
        const char *name = workloads[i].name;
        if (strlen(name) != length || memcmp(name, request, length) != 0)
            continue;
        unsigned repetitions = workloads[i].repetitions;
        if (request[length] == '=')
            repetitions = strtoul(request + length + 1, NULL, 10);
        printf("@start %s\n", name);
        fflush(stdout);
        tcdrain(1);
        unsigned long long sum = workloads[i].run(repetitions);
        printf("@end %s %016llx\n", name, sum);
        fflush(stdout);
        tcdrain(1);
        return 0;
    }
    fprintf(stderr, "bench: no workload '%s'; -l lists them\n", request);
    return 1;
}

int main(int argc, char **argv)
{
    // What `exec` starts, over and over.
    if (argc == 2 && strcmp(argv[1], "-n") == 0)
        return 0;
    if (argc == 2 && strcmp(argv[1], "-l") == 0) {
        for (int i = 0; i < COUNT; i++)
            puts(workloads[i].name);
        return 0;
    }
    int failed = argc < 2;
    for (int i = 1; i < argc; i++)
        failed |= run(argv[i]);
    return failed;
}
