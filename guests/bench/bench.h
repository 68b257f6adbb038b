// What a workload is: a function of a repetition count that returns a check sum.

#ifndef BENCH_H
#define BENCH_H

#include <stdint.h>

typedef uint64_t workload(unsigned repetitions);

// arithmetic.c
workload integer, sieve, crc, sha256, divmul;
// floating.c
workload matmul, nbody, mandelbrot;
// control.c
workload fib, switches, indirect, sort;
// memory.c
workload copy, chase, atomics;
// kernel.c
workload syscalls, faults, protect, forks, execs, pipes;

// A xorshift generator: every run sees the same numbers.
static inline uint32_t next_random(uint32_t *state)
{
    uint32_t x = *state;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return *state = x;
}

#endif
