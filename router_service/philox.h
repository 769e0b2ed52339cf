// Philox4x32-10, a counter-based generator: its output is a pure function of counter and key.
// J. Salmon, M. Moraes, R. Dror, D. Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3.
#ifndef CONCLAVE_ROUTER_SERVICE_PHILOX_H_
#define CONCLAVE_ROUTER_SERVICE_PHILOX_H_

#include <array>
#include <cstdint>

namespace conclave {

// Four words that pass for random, equal wherever counter and key are equal. Thread-safe.
inline std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  constexpr int kRounds = 10;
  constexpr uint64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;  // golden ratio and sqrt(3) - 1, as fractions of 2^32
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product0 = kMultiplier0 * counter[0];
    const uint64_t product1 = kMultiplier1 * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(product0)};
    key = {key[0] + kWeyl0, key[1] + kWeyl1};
  }
  return counter;
}

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_PHILOX_H_
