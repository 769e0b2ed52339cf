// Random weights for made-up checkpoints: element i of a tensor is a function of (seed, name, i) alone, so that
// the bytes do not depend on how a tensor is cut into pieces or spread over files.
#ifndef CONCLAVE_MOE_CHECKPOINT_RANDOM_WEIGHTS_H_
#define CONCLAVE_MOE_CHECKPOINT_RANDOM_WEIGHTS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "moe/tensor/dtype.h"

namespace conclave {

// Draws from a normal distribution, N(mean, deviation), rounded to the dtype. It looks values up by random bits in a
// table of the distribution's quantiles: 65,536 of them, or 256 for F8_E4M3, whose largest is scaled to 448.
class RandomTensor {
 public:
  // REQUIRES: dtype is F32, BF16 or F8_E4M3.
  RandomTensor(uint64_t seed, absl::string_view name, DType dtype, float mean, float deviation);

  // Writes elements [begin, begin + count). REQUIRES: begin is a multiple of 8.
  void Fill(int64_t begin, int64_t count, std::byte* out) const;

  // For F8_E4M3: what the stored values must be multiplied by to have the wanted deviation.
  static float F8Scale(float deviation);

 private:
  template <typename Word, typename Element>
  void FillFrom(const std::vector<Element>& table, int64_t begin, int64_t count, std::byte* out) const;

  uint64_t key_;
  DType dtype_;
  std::vector<float> f32_;
  std::vector<uint16_t> bf16_;
  std::vector<uint8_t> f8_;
};

// A number in [0, 1) from (seed, name, index).
double RandomUnit(uint64_t seed, absl::string_view name, int64_t index);

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_RANDOM_WEIGHTS_H_
