/* Sorting of hashes that stand one after another, 32 bytes each.
 *
 * Hashes are evenly spread, so each byte from the left splits them into 256 small piles (most significant digit first); piles
 * of a few are sorted by insertion.  However they are spread, a hash is moved at most 32 times: equal ones end the descent.
 */
#ifndef WITNZ_PACKED_HASHES_H
#define WITNZ_PACKED_HASHES_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define HASH_SIZE 32
#define FEW 40 /* so many are not worth 256 piles */

typedef struct {
    uint8_t bytes[HASH_SIZE];
} hash_t;

/* Eight bytes as a number that has their order. */
static inline uint64_t number_at(const uint8_t *bytes) {
    uint64_t number = 0;
    for (int i = 0; i < 8; i++) number = number << 8 | bytes[i];
    return number;
}

/* Hashes that are equal in the bytes before `byte`. */
static void insert_few(hash_t *hashes, size_t count, int byte) {
    uint64_t numbers[FEW]; /* they almost always differ in the next eight bytes */
    int from = byte < HASH_SIZE - 8 ? byte : HASH_SIZE - 8;
    for (size_t i = 0; i < count; i++) {
        hash_t moved = hashes[i];
        uint64_t number = number_at(moved.bytes + from);
        size_t at = i;
        for (; at > 0; at--) {
            if (number > numbers[at - 1]) break;
            if (number == numbers[at - 1] && memcmp(moved.bytes, hashes[at - 1].bytes, HASH_SIZE) >= 0) break;
            hashes[at] = hashes[at - 1], numbers[at] = numbers[at - 1];
        }
        hashes[at] = moved, numbers[at] = number;
    }
}

/* Hashes that are equal in the bytes before `byte`; `room` holds as many. */
static void sort_piles(hash_t *hashes, size_t count, hash_t *room, int byte) {
    size_t sizes[256], ends[256], start = 0;
    if (count <= FEW) {
        insert_few(hashes, count, byte);
        return;
    }
    for (;; byte++) { /* to the first byte in which they differ */
        if (byte == HASH_SIZE) return;
        memset(sizes, 0, sizeof(sizes));
        for (size_t i = 0; i < count; i++) sizes[hashes[i].bytes[byte]]++;
        if (sizes[hashes[0].bytes[byte]] < count) break;
    }
    for (int pile = 0; pile < 256; pile++) {
        ends[pile] = start;
        start += sizes[pile];
    }
    for (size_t i = 0; i < count; i++) room[ends[hashes[i].bytes[byte]]++] = hashes[i];
    memcpy(hashes, room, count * sizeof(hash_t));
    for (size_t pile = 0, at = 0; pile < 256; at += sizes[pile], pile++)
        if (sizes[pile] > 1) sort_piles(hashes + at, sizes[pile], room, byte + 1);
}

/* Sort in place, ascending; -1 where there is no memory for as many again. */
static int sort_hashes(uint8_t *hashes, size_t count) {
    hash_t *room = malloc((count ? count : 1) * sizeof(hash_t));
    if (room == NULL) return -1;
    sort_piles((hash_t *)hashes, count, room, 0);
    free(room);
    return 0;
}

#endif
