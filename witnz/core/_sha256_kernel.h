/* The part of _sha256_lanes.h that depends on the number of lanes: included once for each, with LANES and NAMED(name) defined.
 *
 * Inlined into functions for a certain processor, so that the same text becomes its instructions.
 */

typedef uint32_t NAMED(lanes_t) __attribute__((vector_size(4 * LANES)));

/* The words of one block of every lane: w[t] holds word t of all.  Sixteen rows of words, turned by exchanging ever smaller
 * squares on both sides of the diagonal (Eklundh 1972). */
ALWAYS void NAMED(take_words)(NAMED(lanes_t) *w, uint8_t (*blocks)[LANE_BLOCKS * 64], size_t at) {
    for (int half = 0; half < 16; half += LANES) {
        UNROLLED for (int lane = 0; lane < LANES; lane++) memcpy(&w[half + lane], blocks[lane] + at + 4 * half, 4 * LANES);
        UNROLLED for (int square = LANES / 2; square > 0; square /= 2) {
            NAMED(lanes_t) upper, lower; /* which words of both rows go where */
            UNROLLED for (int i = 0; i < LANES; i++) {
                upper[i] = (uint32_t)(i & square ? LANES + i - square : i);
                lower[i] = (uint32_t)(i & square ? LANES + i : i + square);
            }
            UNROLLED for (int row = 0; row < LANES; row++)
                if (!(row & square)) {
                    NAMED(lanes_t) a = w[half + row], b = w[half + row + square];
                    w[half + row] = PICKED(a, b, upper);
                    w[half + row + square] = PICKED(a, b, lower);
                }
        }
    }
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    UNROLLED for (int t = 0; t < 16; t++) w[t] = (ROTR(w[t], 8) & 0xff00ff00) | (ROTR(w[t], 24) & 0x00ff00ff);
#endif
}

/* One block of every lane. */
ALWAYS void NAMED(compress)(NAMED(lanes_t) *state, uint8_t (*blocks)[LANE_BLOCKS * 64], size_t at) {
    NAMED(lanes_t) w[16], a = state[0], b = state[1], c = state[2], d = state[3];
    NAMED(lanes_t) e = state[4], f = state[5], g = state[6], h = state[7];
    NAMED(take_words)(w, blocks, at);
    UNROLLED for (int t = 0; t < 64; t++) {
        if (t >= 16) {
            NAMED(lanes_t) early = w[(t + 1) & 15], late = w[(t + 14) & 15];
            w[t & 15] += (ROTR(early, 7) ^ ROTR(early, 18) ^ (early >> 3)) + w[(t + 9) & 15] +
                         (ROTR(late, 17) ^ ROTR(late, 19) ^ (late >> 10));
        }
        NAMED(lanes_t) one = h + (ROTR(e, 6) ^ ROTR(e, 11) ^ ROTR(e, 25)) + (g ^ (e & (f ^ g))) + ROUND[t] + w[t & 15];
        NAMED(lanes_t) two = (ROTR(a, 2) ^ ROTR(a, 13) ^ ROTR(a, 22)) + ((a & b) | (c & (a | b)));
        h = g, g = f, f = e, e = d + one, d = c, c = b, b = a, a = one + two;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

/* The hashes of messages that are laid out, `counts` blocks each, `most` the largest of them. */
ALWAYS void NAMED(run)(uint8_t (*blocks)[LANE_BLOCKS * 64], const size_t *counts, size_t most, uint8_t *const *out, int used) {
    NAMED(lanes_t) state[8];
    for (int i = 0; i < 8; i++)
        for (int lane = 0; lane < LANES; lane++) state[i][lane] = FIRST[i];
    for (size_t block = 0; block < most; block++) {
        NAMED(compress)(state, blocks, block * 64); /* of a lane that is through this reads what is left there; nobody asks */
        for (int lane = 0; lane < used; lane++)
            if (block + 1 == counts[lane])
                for (int i = 0; i < 8; i++) put_big_endian(out[lane] + 4 * i, state[i][lane]);
    }
}

ALWAYS void NAMED(hash_lanes)(const message_t *messages, int used, int twice) {
    uint8_t blocks[LANES][LANE_BLOCKS * 64];
    uint8_t *out[LANES];
    size_t counts[LANES], most = 0;
    for (int lane = 0; lane < LANES; lane++) {
        const message_t *message = &messages[lane < used ? lane : 0];
        counts[lane] = lay_out(blocks[lane], message);
        if (counts[lane] > most) most = counts[lane];
        out[lane] = twice ? blocks[lane] : message->out;
    }
    if (twice) { /* the first hash takes the place of the prefix, and the rest is there already */
        uint8_t blinds[LANES][32];
        for (int lane = 0; lane < LANES; lane++) out[lane] = blinds[lane];
        NAMED(run)(blocks, counts, most, out, used);
        for (int lane = 0; lane < used; lane++) {
            memcpy(blocks[lane], blinds[lane], 32);
            out[lane] = messages[lane].out;
        }
    }
    NAMED(run)(blocks, counts, most, out, used);
}
