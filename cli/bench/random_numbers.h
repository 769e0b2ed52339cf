// Random numbers that are the same on every machine, whatever its standard library.
#ifndef CONCLAVE_CLI_BENCH_RANDOM_NUMBERS_H_
#define CONCLAVE_CLI_BENCH_RANDOM_NUMBERS_H_

#include <cstdint>

namespace conclave {

// SplitMix64 (Steele, Lea and Flood 2014). One stream of numbers for each pair of seed and stream. Not thread-safe.
class RandomNumbers {
 public:
  RandomNumbers(uint64_t seed, uint64_t stream);
  uint64_t Next();
  // In (0, 1).
  double Uniform();
  // In [0, count). REQUIRES: count >= 1
  uint64_t Below(uint64_t count) { return Next() % count; }
  // Of mean 1: the gaps of a Poisson process of rate 1.
  double Exponential();
  // Of mean 0 and deviation 1 (Box and Muller 1958).
  double Normal();

 private:
  uint64_t state_;
};

}  // namespace conclave

#endif  // CONCLAVE_CLI_BENCH_RANDOM_NUMBERS_H_
