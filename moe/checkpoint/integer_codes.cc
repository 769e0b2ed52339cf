#include "moe/checkpoint/integer_codes.h"

#include <algorithm>
#include <cmath>

#include "moe/base/check.h"
#include "moe/tensor/dtype.h"

namespace conclave {
namespace {

// Smaller groups are zero: their scales would be no normal numbers.
constexpr float kMagnitudeMin = 1e-30f;
// Candidates for the magnitude that the largest value of a group of 4-bit integers becomes.
constexpr float kInt4Steps[] = {7.0f, 7.25f, 7.5f, 7.75f, 8.0f, 8.5f, 9.0f};

float Rounded(float scale) { return Bf16ToFloat(FloatToBf16(scale)); }

double SquaredError(absl::Span<const float> values, float scale, int bits) {
  double error = 0;
  for (const float value : values) {
    const double left = value - static_cast<double>(IntegerCode(value, scale, bits)) * scale;
    error += left * left;
  }
  return error;
}

}  // namespace

float IntegerScale(absl::Span<const float> values, int bits) {
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::fabs(value));
  if (largest < kMagnitudeMin) return 1.0f;
  if (bits == 8) return Rounded(largest / 127.0f);
  float best = Rounded(largest / kInt4Steps[0]);
  double best_error = SquaredError(values, best, bits);
  for (const float step : absl::MakeConstSpan(kInt4Steps).subspan(1)) {
    const float scale = Rounded(largest / step);
    const double error = SquaredError(values, scale, bits);
    if (error >= best_error) continue;
    best = scale;
    best_error = error;
  }
  return best;
}

int IntegerCode(float value, float scale, int bits) {
  const float bound = static_cast<float>(1 << (bits - 1));
  return static_cast<int>(std::nearbyint(std::clamp(value / scale, -bound, bound - 1.0f)));
}

void EncodeIntegers(absl::Span<const float> values, absl::Span<const float> scales, int group_cols, int bits,
                    uint8_t* out) {
  CONCLAVE_CHECK(bits == 8 || (bits == 4 && values.size() % 2 == 0)) << values.size() << " values of " << bits;
  const int offset = 1 << (bits - 1);
  for (size_t i = 0; i < values.size(); ++i) {
    const auto code = static_cast<uint8_t>(IntegerCode(values[i], scales[i / group_cols], bits) + offset);
    if (bits == 8) {
      out[i] = code;
    } else if (i % 2 == 0) {
      out[i / 2] = code;
    } else {
      out[i / 2] = static_cast<uint8_t>(out[i / 2] | code << 4);
    }
  }
}

}  // namespace conclave
