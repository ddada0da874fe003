/* SHA-256 (FIPS 180-4, section 6.2) of many short messages at a time: one lane of a vector register each.
 *
 * A row, an entry and a tree node are one to a few blocks, independent of each other, and there are millions of them.  Written
 * with the vector types of GCC and Clang (_sha256_kernel.h), for eight lanes, of which the compiler makes AVX2, SSE2 or NEON,
 * and for sixteen, AVX-512; on x86-64 the processor is asked which it has.  Chains, which depend on each other, and long
 * messages are left to OpenSSL.
 */
#ifndef WITNZ_SHA256_LANES_H
#define WITNZ_SHA256_LANES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define MOST_LANES 16
#define LANE_BLOCKS 16 /* the longest message in a lane, in blocks of 64 bytes */
#define LANE_MAX_BYTES (LANE_BLOCKS * 64 - 9) /* less the padding: 0x80 and the length */

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

#define ROTR(x, n) (((x) >> (n)) | ((x) << (32 - (n))))
#define UNROLLED _Pragma("GCC unroll 64")
#define ALWAYS static inline __attribute__((always_inline))

/* The words of `a` (0 to LANES - 1) and `b` (from LANES on) that `which` names. */
#if defined(__clang__)
#define PICKED(a, b, which) \
    ({ \
        __typeof__(a) picked_; \
        UNROLLED for (int i_ = 0; i_ < LANES; i_++) picked_[i_] = (which)[i_] < LANES ? (a)[(which)[i_]] : (b)[(which)[i_] - LANES]; \
        picked_; \
    })
#else
#define PICKED(a, b, which) __builtin_shuffle(a, b, which)
#endif

ALWAYS void put_big_endian(uint8_t *at, uint32_t word) {
    for (int byte = 0; byte < 4; byte++) at[byte] = (uint8_t)(word >> (24 - 8 * byte));
}

/* The message with its padding; how many blocks that is. */
static inline size_t lay_out(uint8_t *blocks, const message_t *message) {
    size_t size = message->prefix_size + message->body_size, count = (size + 9 + 63) / 64;
    memcpy(blocks, message->prefix, message->prefix_size);
    memcpy(blocks + message->prefix_size, message->body, message->body_size);
    memset(blocks + size, 0, count * 64 - size);
    blocks[size] = 0x80;
    put_big_endian(blocks + count * 64 - 8, (uint32_t)((uint64_t)size >> 29));
    put_big_endian(blocks + count * 64 - 4, (uint32_t)(size << 3));
    return count;
}

#define LANES 8
#define NAMED(name) name##_8
#include "_sha256_kernel.h"
#undef LANES
#undef NAMED

/* A function takes up to `lanes` messages, each of at most LANE_MAX_BYTES.  With `twice`, what it writes is
 * SHA256(SHA256(prefix || body) || body): the prefixes have 32 bytes then. */
typedef void (*lanes_function)(const message_t *, int used, int twice);

typedef struct {
    int lanes;
    lanes_function hash;
    const char *name;
} hasher_t;

static void hash_plain(const message_t *messages, int used, int twice) { hash_lanes_8(messages, used, twice); }

#if defined(__x86_64__)
#define LANES 16
#define NAMED(name) name##_16
#include "_sha256_kernel.h"
#undef LANES
#undef NAMED

__attribute__((target("avx2"))) static void hash_avx2(const message_t *messages, int used, int twice) {
    hash_lanes_8(messages, used, twice);
}

__attribute__((target("avx512f,avx512bw"))) static void hash_avx512(const message_t *messages, int used, int twice) {
    hash_lanes_16(messages, used, twice);
}
#endif

/* The widest that this processor has, of at most so many lanes. */
static hasher_t choose_hasher(int most_lanes) {
    hasher_t plain = {8, hash_plain, "plain"};
#if defined(__x86_64__)
    hasher_t wide = {8, hash_avx2, "avx2"}, widest = {16, hash_avx512, "avx512"};
    __builtin_cpu_init();
    if (most_lanes >= 16 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) return widest;
    if (most_lanes >= 8 && __builtin_cpu_supports("avx2")) return wide;
#endif
    (void)most_lanes;
    return plain;
}

#endif
