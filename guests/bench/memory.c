// Memory: memcpy of several sizes, a dependent chain of loads, atomic operations.

#include <string.h>

#include "bench.h"

uint64_t copy(unsigned repetitions)
{
    static uint8_t from[1 << 20], to[1 << 20];
    uint32_t seed = 31;
    uint64_t sum = 0;
    for (unsigned i = 0; i < sizeof from; i++)
        from[i] = next_random(&seed);
    for (unsigned r = 0; r < repetitions; r++) {
        memcpy(to, from, sizeof to);
        for (unsigned at = 0; at + 4096 <= sizeof to; at += 4096)
            memcpy(to + at, from + (at ^ 0x8000), 1000 + (at >> 12));
        for (unsigned at = 0; at + 64 <= sizeof to; at += 64)
            memcpy(to + at + 1, from + at, 31);
        sum += to[r * 4099 % sizeof to];
    }
    return sum;
}

// Follows a random cycle through 16 KiB, 512 KiB and 16 MiB in turn.
uint64_t chase(unsigned repetitions)
{
    static uint32_t next[1 << 22];
    static const uint32_t lengths[] = {1 << 12, 1 << 17, 1 << 22};
    uint32_t seed = 37, at = 0;
    uint64_t sum = 0;
    for (unsigned k = 0; k < 3; k++) {
        uint32_t length = lengths[k];
        for (uint32_t i = 0; i < length; i++)
            next[i] = i;
        // Sattolo's shuffle makes one cycle of them all.
        for (uint32_t i = length - 1; i > 0; i--) {
            uint32_t j = next_random(&seed) % i, t = next[i];
            next[i] = next[j];
            next[j] = t;
        }
        for (unsigned n = 0; n < repetitions * 1000000 >> 2 * k; n++)
            at = next[at];
        sum = sum * 31 + at;
    }
    return sum;
}

uint64_t atomics(unsigned repetitions)
{
    static uint64_t words[64];
    static uint32_t small[64];
    uint64_t sum = 0;
    for (unsigned i = 0; i < repetitions * 50000; i++) {
        unsigned k = i & 63;
        sum += __atomic_fetch_add(&words[k], i, __ATOMIC_SEQ_CST);
        sum ^= __atomic_exchange_n(&small[k], i, __ATOMIC_ACQ_REL);
        __atomic_fetch_or(&words[k ^ 1], 1u << (i & 15), __ATOMIC_RELAXED);
        uint64_t expected = words[k];
        // Compiles to lr/sc on a hart without Zacas.
        __atomic_compare_exchange_n(&words[k], &expected, expected ^ i, 0, __ATOMIC_SEQ_CST,
                                    __ATOMIC_RELAXED);
    }
    return sum + words[5];
}
