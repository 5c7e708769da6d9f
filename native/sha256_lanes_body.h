// The compression function of SHA-256 (FIPS 180-4, section 6.2.2) over LANES messages. Included once for each instruction set
// by sha256_lanes.cc, which defines LANES, Vec, and the operations that the sets spell differently.

/** Word t of all messages in w[t]: a block of each is loaded and transposed, by exchanging ever larger squares. */
static inline __attribute__((always_inline)) void loadBlock(Vec* w, const uint8_t* const* data, size_t offset) {
  for (size_t half = 0; half < 16 / LANES; half++) {
    Vec rows[LANES];
#pragma GCC unroll 16
    for (size_t lane = 0; lane < LANES; lane++) rows[lane] = loadBigEndian(data[lane] + offset + half * LANES * 4);
    transpose(rows);
#pragma GCC unroll 16
    for (size_t word = 0; word < LANES; word++) w[half * LANES + word] = rows[word];
  }
}

/** `state`: a to h, each in all lanes. `data`: one pointer for each lane. */
static void compress(uint32_t* state, const uint8_t* const* data, size_t blocks) {
  Vec* const chained = reinterpret_cast<Vec*>(state);
  for (size_t block = 0; block < blocks; block++) {
    Vec w[16];
    loadBlock(w, data, block * kBlock);
    Vec a = chained[0], b = chained[1], c = chained[2], d = chained[3];
    Vec e = chained[4], f = chained[5], g = chained[6], h = chained[7];
    for (size_t round = 0; round < 64; round += 16) {
#pragma GCC unroll 16
      for (size_t i = 0; i < 16; i++) {
        if (round > 0) {
          const Vec before2 = w[(i + 14) & 15], before15 = w[(i + 1) & 15];
          const Vec sigma1 = XOR3(ROTATE(before2, 17), ROTATE(before2, 19), before2 >> 10);
          const Vec sigma0 = XOR3(ROTATE(before15, 7), ROTATE(before15, 18), before15 >> 3);
          w[i] += sigma1 + w[(i + 9) & 15] + sigma0;
        }
        const Vec sum1 = XOR3(ROTATE(e, 6), ROTATE(e, 11), ROTATE(e, 25));
        const Vec t1 = h + sum1 + CHOOSE(e, f, g) + w[i] + kRound[round + i];
        const Vec sum0 = XOR3(ROTATE(a, 2), ROTATE(a, 13), ROTATE(a, 22));
        const Vec t2 = sum0 + MAJORITY(a, b, c);
        h = g;
        g = f;
        f = e;
        e = d + t1;
        d = c;
        c = b;
        b = a;
        a = t1 + t2;
      }
    }
    chained[0] += a;
    chained[1] += b;
    chained[2] += c;
    chained[3] += d;
    chained[4] += e;
    chained[5] += f;
    chained[6] += g;
    chained[7] += h;
  }
}
