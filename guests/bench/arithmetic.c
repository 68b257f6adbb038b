// Integer work: lists, matrices, a state machine, CRCs, a sieve, SHA-256, division.

#include <string.h>

#include "bench.h"

struct node {
    struct node *next;
    int16_t key;
    uint16_t index;
};

static struct node *merge(struct node *a, struct node *b)
{
    struct node head, *tail = &head;
    while (a && b) {
        struct node **smaller = a->key <= b->key ? &a : &b;
        tail->next = *smaller;
        tail = *smaller;
        *smaller = tail->next;
    }
    tail->next = a ? a : b;
    return head.next;
}

static struct node *merge_sort(struct node *list, unsigned length)
{
    if (length < 2) {
        if (list)
            list->next = NULL;
        return list;
    }
    struct node *middle = list;
    for (unsigned i = 0; i < length / 2; i++)
        middle = middle->next;
    struct node *right = merge_sort(middle, length - length / 2);
    return merge(merge_sort(list, length / 2), right);
}

static uint16_t crc16(uint16_t crc, uint32_t value)
{
    for (int bit = 0; bit < 32; bit++) {
        unsigned low = (crc ^ value) & 1;
        crc >>= 1;
        value >>= 1;
        if (low)
            crc ^= 0xa001;
    }
    return crc;
}

static uint16_t lists(uint32_t *seed)
{
    static struct node nodes[512];
    struct node *list = NULL;
    for (unsigned i = 0; i < 512; i++) {
        nodes[i] = (struct node){list, (int16_t)next_random(seed), i};
        list = &nodes[i];
    }
    uint16_t crc = 0;
    for (int16_t wanted = 0; wanted < 40; wanted++) {
        struct node *at = list, *reversed = NULL;
        while (at && (at->key & 0x1ff) != wanted)
            at = at->next;
        if (at)
            crc = crc16(crc, at->index);
        for (at = list; at;) {
            struct node *next = at->next;
            at->next = reversed;
            reversed = at;
            at = next;
        }
        list = reversed;
    }
    list = merge_sort(list, 512);
    for (; list; list = list->next)
        crc = crc16(crc, (uint16_t)list->key);
    return crc;
}

static uint16_t matrices(uint32_t *seed)
{
    enum { N = 24 };
    static int16_t a[N][N], b[N][N];
    static int32_t c[N][N];
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = next_random(seed) & 0xff;
            b[i][j] = next_random(seed) & 0xff;
        }
    uint16_t crc = 0;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            int32_t sum = 0;
            for (int k = 0; k < N; k++)
                sum += a[i][k] * b[k][j];
            c[i][j] = (sum >> 2 & 0xf) * (sum >> 5 & 0x7f);
        }
    for (int i = 0; i < N; i++)
        crc = crc16(crc, c[i][i] ^ c[i][N - 1 - i]);
    return crc;
}

// Counts the kinds of numerals in a text, character by character.
static uint16_t numerals(uint32_t *seed)
{
    enum state { START, SIGN, WHOLE, POINT, FRACTION, E, EXPONENT_SIGN, EXPONENT, BAD, STATES };
    static const char alphabet[] = "0123456789012345++--..eE,,,,,x,0";
    static char text[2048];
    for (unsigned i = 0; i < sizeof text; i++)
        text[i] = alphabet[next_random(seed) & 31];
    unsigned ended[STATES] = {0};
    enum state state = START;
    for (unsigned i = 0; i < sizeof text; i++) {
        char c = text[i];
        int digit = c >= '0' && c <= '9';
        if (c == ',') {
            ended[state]++;
            state = START;
            continue;
        }
        switch (state) {
        case START:
            state = digit ? WHOLE : c == '+' || c == '-' ? SIGN : c == '.' ? POINT : BAD;
            break;
        case SIGN:
            state = digit ? WHOLE : c == '.' ? POINT : BAD;
            break;
        case WHOLE:
            state = digit ? WHOLE : c == '.' ? FRACTION : (c | 32) == 'e' ? E : BAD;
            break;
        case POINT:
        case FRACTION:
            state = digit ? FRACTION : (c | 32) == 'e' && state == FRACTION ? E : BAD;
            break;
        case E:
            state = digit ? EXPONENT : c == '+' || c == '-' ? EXPONENT_SIGN : BAD;
            break;
        case EXPONENT_SIGN:
        case EXPONENT:
            state = digit ? EXPONENT : BAD;
            break;
        default:
            break;
        }
    }
    uint16_t crc = 0;
    for (int i = 0; i < STATES; i++)
        crc = crc16(crc, ended[i]);
    return crc;
}

uint64_t integer(unsigned repetitions)
{
    uint32_t seed = 12345;
    uint64_t sum = 0;
    for (unsigned i = 0; i < repetitions * 10; i++) {
        sum = sum * 31 + lists(&seed);
        sum = sum * 31 + matrices(&seed);
        sum = sum * 31 + numerals(&seed);
    }
    return sum;
}

uint64_t sieve(unsigned repetitions)
{
    static uint8_t composite[1 << 20];
    uint64_t primes = 0;
    for (unsigned r = 0; r < repetitions; r++) {
        memset(composite, 0, sizeof composite);
        for (unsigned i = 2; i < sizeof composite; i++) {
            if (composite[i])
                continue;
            primes++;
            for (unsigned j = 2 * i; j < sizeof composite; j += i)
                composite[j] = 1;
        }
    }
    return primes;
}

uint64_t crc(unsigned repetitions)
{
    static uint32_t table[256];
    static uint8_t bytes[1 << 16];
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++)
            value = value & 1 ? value >> 1 ^ 0xedb88320 : value >> 1;
        table[i] = value;
    }
    uint32_t seed = 99, sum = ~0u;
    for (unsigned i = 0; i < sizeof bytes; i++)
        bytes[i] = next_random(&seed);
    for (unsigned r = 0; r < repetitions * 64; r++)
        for (unsigned i = 0; i < sizeof bytes; i++)
            sum = sum >> 8 ^ table[(sum ^ bytes[i]) & 0xff];
    return sum;
}

static uint32_t rotate(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

// The first 32 bits of the fractional part of a root of `prime`, by bisection in integers.
static uint32_t root_fraction(unsigned prime, int cube)
{
    unsigned __int128 low = 0, high = (unsigned __int128)1 << 37;
    while (high - low > 1) {
        unsigned __int128 x = (low + high) / 2;
        // x is a fixed-point number with 32 fraction bits; a cube is compared with 96 of them.
        unsigned __int128 power = cube ? x * x * x : x * x;
        if (power > (unsigned __int128)prime << (cube ? 96 : 64))
            high = x;
        else
            low = x;
    }
    return (uint32_t)low;
}

static void compress(uint32_t hash[8], const uint32_t constants[64], const uint8_t *block)
{
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 |
               block[4 * i + 3];
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + w[i - 7] +
               (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3) +
               (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(v, hash, sizeof v);
    for (int i = 0; i < 64; i++) {
        uint32_t e = v[4], a = v[0];
        uint32_t t = v[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +
                     ((e & v[5]) ^ (~e & v[6])) + constants[i] + w[i];
        uint32_t u = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) +
                     ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += t;
        v[0] = t + u;
    }
    for (int i = 0; i < 8; i++)
        hash[i] += v[i];
}

uint64_t sha256(unsigned repetitions)
{
    uint32_t constants[64], hash[8];
    unsigned count = 0;
    for (unsigned n = 2; count < 64; n++) {
        unsigned d = 2;
        while (d * d <= n && n % d != 0)
            d++;
        if (d * d <= n)
            continue;
        if (count < 8)
            hash[count] = root_fraction(n, 0);
        constants[count++] = root_fraction(n, 1);
    }
    static uint8_t data[1 << 15];
    uint32_t seed = 7;
    for (unsigned i = 0; i < sizeof data; i++)
        data[i] = next_random(&seed);
    for (unsigned r = 0; r < repetitions * 16; r++)
        for (unsigned at = 0; at < sizeof data; at += 64)
            compress(hash, constants, data + at);
    return (uint64_t)hash[0] << 32 | hash[7];
}

uint64_t divmul(unsigned repetitions)
{
    uint32_t seed = 3;
    uint64_t sum = 0, a = 0x123456789abcdef1;
    for (unsigned r = 0; r < repetitions * 100000; r++) {
        uint64_t divisor = next_random(&seed) | 1;
        a = a * 6364136223846793005u + 1442695040888963407u;
        sum += a / divisor + a % divisor;
        sum ^= (uint64_t)((int64_t)a / (int32_t)divisor) + (uint32_t)a / (uint16_t)(divisor | 1);
        sum += (unsigned __int128)a * sum >> 64;
    }
    return sum;
}
