// Floating point: double matrices, double n-body, single-precision Mandelbrot.

#include <math.h>
#include <string.h>

#include "bench.h"

static uint64_t bits(double x)
{
    uint64_t value;
    memcpy(&value, &x, sizeof value);
    return value;
}

uint64_t matmul(unsigned repetitions)
{
    enum { N = 200 };
    static double a[N][N], b[N][N], c[N][N];
    uint32_t seed = 5;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = next_random(&seed) / 4294967296.0;
            b[i][j] = next_random(&seed) / 4294967296.0 - 0.5;
        }
    double trace = 0;
    for (unsigned r = 0; r < repetitions * 2; r++) {
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                double sum = 0;
                for (int k = 0; k < N; k++)
                    sum += a[i][k] * b[k][j];
                c[i][j] = sum;
            }
        for (int i = 0; i < N; i++) {
            trace += c[i][i];
            a[i][0] = c[i][i] / N;
        }
    }
    return bits(trace);
}

uint64_t nbody(unsigned repetitions)
{
    enum { BODIES = 5 };
    struct body {
        double at[3], speed[3], mass;
    } bodies[BODIES];
    uint32_t seed = 11;
    for (int i = 0; i < BODIES; i++) {
        for (int d = 0; d < 3; d++) {
            bodies[i].at[d] = (next_random(&seed) / 4294967296.0 - 0.5) * 20 * (i + 1);
            bodies[i].speed[d] = next_random(&seed) / 4294967296.0 - 0.5;
        }
        bodies[i].mass = 1.0 / (i + 1);
    }
    for (unsigned r = 0; r < repetitions * 1000; r++) {
        for (int i = 0; i < BODIES; i++)
            for (int j = i + 1; j < BODIES; j++) {
                struct body *p = &bodies[i], *q = &bodies[j];
                double delta[3], square = 0.01;
                for (int d = 0; d < 3; d++) {
                    delta[d] = p->at[d] - q->at[d];
                    square += delta[d] * delta[d];
                }
                double pull = 0.001 / (square * sqrt(square));
                for (int d = 0; d < 3; d++) {
                    p->speed[d] -= delta[d] * q->mass * pull;
                    q->speed[d] += delta[d] * p->mass * pull;
                }
            }
        for (int i = 0; i < BODIES; i++)
            for (int d = 0; d < 3; d++)
                bodies[i].at[d] += 0.001 * bodies[i].speed[d];
    }
    return bits(bodies[0].at[0] + bodies[4].at[2]);
}

uint64_t mandelbrot(unsigned repetitions)
{
    uint64_t total = 0;
    for (unsigned r = 0; r < repetitions; r++)
        for (int y = 0; y < 200; y++)
            for (int x = 0; x < 200; x++) {
                float cr = x / 100.0f - 1.5f, ci = y / 100.0f - 1.0f, zr = 0, zi = 0;
                int n = 0;
                while (n < 200 && zr * zr + zi * zi < 4.0f) {
                    float t = zr * zr - zi * zi + cr;
                    zi = 2.0f * zr * zi + ci;
                    zr = t;
                    n++;
                }
                total += n;
            }
    return total;
}
