// Control flow: calls and returns, a switch interpreter, calls through pointers, qsort.

#include <stdlib.h>

#include "bench.h"

__attribute__((noinline, noclone, optimize("no-optimize-sibling-calls"))) static uint64_t
fibonacci(unsigned n)
{
    if (n < 2)
        return n;
    uint64_t first = fibonacci(n - 1);
    // Keeps the compiler from unrolling the recursion into a loop.
    __asm__ volatile("" : "+r"(first));
    return first + fibonacci(n - 2);
}

uint64_t fib(unsigned repetitions)
{
    uint64_t sum = 0;
    for (unsigned r = 0; r < repetitions; r++)
        sum += fibonacci(32);
    return sum;
}

enum { ADD, SUBTRACT, XOR, SHIFT, LOAD, STORE, SKIP_IF_ODD, SWAP, BACK, OPERATIONS };

uint64_t switches(unsigned repetitions)
{
    static uint8_t program[1000];
    static uint64_t cells[16];
    uint32_t seed = 17;
    for (unsigned i = 0; i < sizeof program; i++)
        program[i] = next_random(&seed) % BACK << 4 | (next_random(&seed) & 15);
    program[sizeof program - 1] = BACK << 4;
    program[sizeof program - 2] = ADD << 4 | 3;
    uint64_t a = 1, b = 2, budget = (uint64_t)repetitions * 1000000;
    for (unsigned pc = 0; budget > 0; budget--) {
        uint8_t insn = program[pc++], operand = insn & 15;
        switch (insn >> 4) {
        case ADD:
            a += b + operand;
            break;
        case SUBTRACT:
            b -= a - operand;
            break;
        case XOR:
            a ^= b >> operand;
            break;
        case SHIFT:
            b = b << operand | b >> (63 - operand);
            break;
        case LOAD:
            b += cells[operand];
            break;
        case STORE:
            cells[operand] = a;
            break;
        case SKIP_IF_ODD:
            pc += a & 1 && pc < sizeof program - 2;
            break;
        case SWAP: {
            uint64_t t = a;
            a = b;
            b = t;
            break;
        }
        case BACK:
            pc = 0;
            break;
        }
    }
    return a ^ b;
}

typedef uint64_t step(uint64_t, uint64_t);
#define STEP(name, expression)                                                                    \
    __attribute__((noinline)) static uint64_t name(uint64_t a, uint64_t b)                        \
    {                                                                                             \
        return expression;                                                                        \
    }
STEP(step0, a + b)
STEP(step1, a ^ b << 1)
STEP(step2, a - b * 3)
STEP(step3, a * 5 + b)
STEP(step4, a >> 3 ^ b)
STEP(step5, ~a + b)
STEP(step6, (a << 7 | a >> 57) + b)
STEP(step7, a + (b ^ 0x5555))

uint64_t indirect(unsigned repetitions)
{
    static step *const steps[] = {step0, step1, step2, step3, step4, step5, step6, step7};
    static uint8_t order[4096];
    uint32_t seed = 23;
    for (unsigned i = 0; i < sizeof order; i++)
        order[i] = next_random(&seed) & 7;
    uint64_t a = 1;
    for (unsigned r = 0; r < repetitions * 100; r++)
        for (unsigned i = 0; i < sizeof order; i++)
            a = steps[order[i]](a, i);
    return a;
}

static int by_value(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

uint64_t sort(unsigned repetitions)
{
    enum { N = 50000 };
    static uint32_t values[N];
    uint32_t seed = 29;
    uint64_t sum = 0;
    for (unsigned r = 0; r < repetitions; r++) {
        for (int i = 0; i < N; i++)
            values[i] = next_random(&seed);
        qsort(values, N, sizeof *values, by_value);
        sum += (uint64_t)values[0] << 32 | values[N / 2];
    }
    return sum;
}
