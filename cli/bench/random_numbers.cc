#include "cli/bench/random_numbers.h"

#include <cmath>

namespace conclave {
namespace {

uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

}  // namespace

RandomNumbers::RandomNumbers(uint64_t seed, uint64_t stream)
    : state_(Mix(seed + 0x9e3779b97f4a7c15ull) ^ Mix(stream)) {}

uint64_t RandomNumbers::Next() { return Mix(state_ += 0x9e3779b97f4a7c15ull); }

double RandomNumbers::Uniform() { return (static_cast<double>(Next() >> 11) + 0.5) * 0x1p-53; }

double RandomNumbers::Exponential() { return -std::log(Uniform()); }

double RandomNumbers::Normal() {
  const double radius = std::sqrt(-2 * std::log(Uniform()));
  return radius * std::cos(2 * M_PI * Uniform());
}

}  // namespace conclave
