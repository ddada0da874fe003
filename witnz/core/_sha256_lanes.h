/* SHA-256 (FIPS 180-4, section 6.2) of many short messages, eight at a time: one lane of a vector register each.
 *
 * A row, an entry and a tree node are one to a few blocks, independent of each other, and there are millions of them.  Written
 * with the vector types of GCC and Clang, so the compiler makes AVX2, SSE2 or NEON of it; on x86-64 both of the first two are
 * compiled and the processor is asked.  Chains, which depend on each other, and long messages are left to OpenSSL.
 */
#ifndef WITNZ_SHA256_LANES_H
#define WITNZ_SHA256_LANES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LANES 8
#define LANE_BLOCKS 16 /* the longest message in a lane, in blocks of 64 bytes */
#define LANE_MAX_BYTES (LANE_BLOCKS * 64 - 9) /* less the padding: 0x80 and the length */

typedef uint32_t lanes_t __attribute__((vector_size(4 * LANES)));

/* SHA256(prefix || body) goes to out, 32 bytes. */
typedef struct {
    const uint8_t *prefix, *body;
    size_t prefix_size, body_size;
    uint8_t *out;
} message_t;

static const uint32_t FIRST[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
static const uint32_t ROUND[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static inline uint32_t big_endian(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

#define ROTR(x, n) (((x) >> (n)) | ((x) << (32 - (n))))
#define ALWAYS static inline __attribute__((always_inline))

/* One block of every lane. */
ALWAYS void compress(lanes_t *state, uint8_t (*blocks)[LANE_BLOCKS * 64], size_t at) {
    lanes_t w[16], a = state[0], b = state[1], c = state[2], d = state[3];
    lanes_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int t = 0; t < 16; t++)
        for (int lane = 0; lane < LANES; lane++) w[t][lane] = big_endian(blocks[lane] + at + 4 * t);
    for (int t = 0; t < 64; t++) {
        if (t >= 16) {
            lanes_t early = w[(t + 1) & 15], late = w[(t + 14) & 15];
            w[t & 15] += (ROTR(early, 7) ^ ROTR(early, 18) ^ (early >> 3)) + w[(t + 9) & 15] +
                         (ROTR(late, 17) ^ ROTR(late, 19) ^ (late >> 10));
        }
        lanes_t one = h + (ROTR(e, 6) ^ ROTR(e, 11) ^ ROTR(e, 25)) + ((e & f) ^ (~e & g)) + ROUND[t] + w[t & 15];
        lanes_t two = (ROTR(a, 2) ^ ROTR(a, 13) ^ ROTR(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + one, d = c, c = b, b = a, a = one + two;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

/* The message with its padding; how many blocks that is. */
static size_t lay_out(uint8_t *blocks, const message_t *message) {
    size_t size = message->prefix_size + message->body_size, count = (size + 9 + 63) / 64;
    memcpy(blocks, message->prefix, message->prefix_size);
    memcpy(blocks + message->prefix_size, message->body, message->body_size);
    memset(blocks + size, 0, count * 64 - size);
    blocks[size] = 0x80;
    for (int i = 0; i < 8; i++) blocks[count * 64 - 1 - i] = (uint8_t)((uint64_t)size * 8 >> 8 * i);
    return count;
}

/* Up to LANES messages, each of at most LANE_MAX_BYTES. */
ALWAYS void hash_lanes(const message_t *messages, int used) {
    uint8_t blocks[LANES][LANE_BLOCKS * 64];
    size_t counts[LANES], most = 0;
    lanes_t state[8];
    for (int lane = 0; lane < LANES; lane++) {
        counts[lane] = lay_out(blocks[lane], &messages[lane < used ? lane : 0]);
        if (counts[lane] > most) most = counts[lane];
    }
    for (int i = 0; i < 8; i++)
        for (int lane = 0; lane < LANES; lane++) state[i][lane] = FIRST[i];
    for (size_t block = 0; block < most; block++) {
        compress(state, blocks, block * 64); /* of a lane that is through this reads what is left there, and nobody asks */
        for (int lane = 0; lane < used; lane++)
            if (block + 1 == counts[lane])
                for (int i = 0; i < 8; i++)
                    for (int byte = 0; byte < 4; byte++)
                        messages[lane].out[4 * i + byte] = (uint8_t)(state[i][lane] >> (24 - 8 * byte));
    }
}

static void hash_lanes_plain(const message_t *messages, int used) { hash_lanes(messages, used); }

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void hash_lanes_avx2(const message_t *messages, int used) { hash_lanes(messages, used); }
#endif

typedef void (*lanes_function)(const message_t *, int);

static lanes_function choose_lanes(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) return hash_lanes_avx2;
#endif
    return hash_lanes_plain;
}

#endif
