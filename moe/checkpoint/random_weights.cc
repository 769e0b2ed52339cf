#include "moe/checkpoint/random_weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "moe/base/check.h"
#include "xxhash.h"

namespace conclave {
namespace {

constexpr float kF8Max = 448.0f;
constexpr int kF8Quantiles = 256;
constexpr int kQuantiles = 65536;

uint64_t KeyOf(uint64_t seed, absl::string_view name) { return XXH3_64bits_withSeed(name.data(), name.size(), seed); }

// SplitMix64 (Steele, Lea and Flood 2014) as a counter-based generator.
uint64_t RandomWord(uint64_t key, uint64_t counter) {
  uint64_t z = key + (counter + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// The point below which a standard normal falls with `probability`, by bisection: used for tables only.
double NormalQuantile(double probability) {
  double low = -9, high = 9;
  for (int step = 0; step < 60; ++step) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < probability ? low : high) = middle;
  }
  return (low + high) / 2;
}

// The quantiles at (i + 1/2) / count.
std::vector<float> QuantileTable(int count) {
  std::vector<float> table(count);
  for (int i = 0; i < count; ++i) table[i] = static_cast<float>(NormalQuantile((i + 0.5) / count));
  return table;
}

const std::vector<float>& Quantiles() {
  static const std::vector<float>& table = *new std::vector<float>(QuantileTable(kQuantiles));
  return table;
}

const std::vector<float>& F8Quantiles() {
  static const std::vector<float>& table = *new std::vector<float>(QuantileTable(kF8Quantiles));
  return table;
}

}  // namespace

RandomTensor::RandomTensor(uint64_t seed, absl::string_view name, DType dtype, float mean, float deviation)
    : key_(KeyOf(seed, name)), dtype_(dtype) {
  if (dtype == DType::kF8E4M3) {
    for (const float z : F8Quantiles()) f8_.push_back(FloatToF8E4M3(z * kF8Max / F8Quantiles().back()));
  } else if (dtype == DType::kBF16) {
    bf16_.reserve(kQuantiles);
    for (const float z : Quantiles()) bf16_.push_back(FloatToBf16(mean + deviation * z));
  } else {
    CONCLAVE_CHECK(dtype == DType::kF32) << Name(dtype);
    f32_.reserve(kQuantiles);
    for (const float z : Quantiles()) f32_.push_back(mean + deviation * z);
  }
}

float RandomTensor::F8Scale(float deviation) { return deviation * F8Quantiles().back() / kF8Max; }

// `Word` is as wide as an index into `table`; a random word of 64 bits holds several.
template <typename Word, typename Element>
void RandomTensor::FillFrom(const std::vector<Element>& table, int64_t begin, int64_t count, std::byte* out) const {
  constexpr int64_t kPerWord = sizeof(uint64_t) / sizeof(Word);
  CONCLAVE_CHECK(begin % kPerWord == 0) << begin;
  for (int64_t i = 0; i < count; i += kPerWord) {
    const uint64_t word = RandomWord(key_, static_cast<uint64_t>((begin + i) / kPerWord));
    std::array<Element, kPerWord> values;
    for (int64_t k = 0; k < kPerWord; ++k) values[k] = table[static_cast<Word>(word >> (8 * sizeof(Word) * k))];
    const int64_t filled = std::min(kPerWord, count - i);
    std::memcpy(out + i * sizeof(Element), values.data(), static_cast<size_t>(filled) * sizeof(Element));
  }
}

void RandomTensor::Fill(int64_t begin, int64_t count, std::byte* out) const {
  if (dtype_ == DType::kF8E4M3) {
    FillFrom<uint8_t>(f8_, begin, count, out);
  } else if (dtype_ == DType::kBF16) {
    FillFrom<uint16_t>(bf16_, begin, count, out);
  } else {
    FillFrom<uint16_t>(f32_, begin, count, out);
  }
}

double RandomUnit(uint64_t seed, absl::string_view name, int64_t index) {
  return static_cast<double>(RandomWord(KeyOf(seed, name), static_cast<uint64_t>(index)) >> 11) * 0x1p-53;
}

}  // namespace conclave
