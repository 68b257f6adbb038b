// What asks something of the kernel: system calls, page faults, protection, processes, pipes.

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

static void check(int held)
{
    if (!held)
        abort();
}

uint64_t syscalls(unsigned repetitions)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < repetitions * 50000; i++)
        sum += syscall(SYS_getppid) > 0;
    return sum;
}

uint64_t faults(unsigned repetitions)
{
    enum { LENGTH = 4 << 20 };
    uint64_t sum = 0;
    for (unsigned r = 0; r < repetitions * 10; r++) {
        volatile uint8_t *area =
            mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        check(area != MAP_FAILED);
        // Pages one by one, not huge ones.
        madvise((void *)area, LENGTH, MADV_NOHUGEPAGE);
        for (unsigned at = 0; at < LENGTH; at += 4096) {
            area[at] = r;
            sum += area[at];
        }
        munmap((void *)area, LENGTH);
    }
    return sum;
}

uint64_t protect(unsigned repetitions)
{
    enum { LENGTH = 16 * 4096 };
    volatile uint8_t *area =
        mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(area != MAP_FAILED);
    uint64_t sum = 0;
    for (unsigned r = 0; r < repetitions * 1000; r++) {
        for (unsigned at = 0; at < LENGTH; at += 4096)
            area[at] = r;
        check(mprotect((void *)area, LENGTH, PROT_READ) == 0);
        sum += area[r % LENGTH];
        check(mprotect((void *)area, LENGTH, PROT_READ | PROT_WRITE) == 0);
    }
    munmap((void *)area, LENGTH);
    return sum;
}

static uint64_t children(unsigned count, int exec)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < count; i++) {
        pid_t child = fork();
        check(child >= 0);
        if (child == 0) {
            if (exec)
                execl("/proc/self/exe", "bench", "-n", NULL);
            _exit(exec);
        }
        int status;
        check(waitpid(child, &status, 0) == child && WIFEXITED(status));
        sum += WEXITSTATUS(status) == 0;
    }
    return sum;
}

uint64_t forks(unsigned repetitions)
{
    return children(repetitions * 100, 0);
}

uint64_t execs(unsigned repetitions)
{
    return children(repetitions * 50, 1);
}

uint64_t pipes(unsigned repetitions)
{
    int there[2], back[2];
    uint8_t byte = 1;
    uint64_t sum = 0;
    check(pipe(there) == 0 && pipe(back) == 0);
    pid_t child = fork();
    check(child >= 0);
    if (child == 0) {
        close(there[1]);
        while (read(there[0], &byte, 1) == 1) {
            byte = byte * 5 + 1;
            check(write(back[1], &byte, 1) == 1);
        }
        _exit(0);
    }
    close(there[0]);
    for (unsigned i = 0; i < repetitions * 1000; i++) {
        check(write(there[1], &byte, 1) == 1 && read(back[0], &byte, 1) == 1);
        sum += byte;
    }
    close(there[1]);
    close(back[0]);
    close(back[1]);
    check(waitpid(child, NULL, 0) == child);
    return sum;
}
