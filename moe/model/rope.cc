#include "moe/model/rope.h"

#include <algorithm>
#include <cmath>

#include "moe/base/check.h"

namespace conclave {
namespace {

constexpr double kPi = 3.14159265358979323846;

double Mscale(double factor, double mscale) { return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0; }

// The (fractional) pair index whose wave turns `rotations` times over the original context.
double CorrectionDim(const AttentionSpec& spec, double rotations) {
  const double context = spec.yarn->original_max_position_embeddings;
  return spec.qk_rope_head_dim * std::log(context / (rotations * 2 * kPi)) / (2 * std::log(spec.rope_theta));
}

// Blends each frequency between itself (fast waves) and itself / factor (slow waves).
void ApplyYarn(const AttentionSpec& spec, absl::Span<float> frequencies) {
  const double low = std::max(std::floor(CorrectionDim(spec, spec.yarn->beta_fast)), 0.0);
  double high = std::min(std::ceil(CorrectionDim(spec, spec.yarn->beta_slow)), spec.qk_rope_head_dim - 1.0);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float ramp =
        std::clamp((static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0f, 1.0f);
    const float kept = 1.0f - ramp;
    const float wave = 1.0f / frequencies[i];
    const float interpolated = 1.0f / (static_cast<float>(spec.yarn->factor) * wave);
    frequencies[i] = interpolated * (1.0f - kept) + frequencies[i] * kept;
  }
}

}  // namespace

std::vector<float> RopeFrequencies(const AttentionSpec& spec) {
  std::vector<float> frequencies(spec.qk_rope_head_dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(spec.qk_rope_head_dim);
    frequencies[i] = 1.0f / static_cast<float>(std::pow(spec.rope_theta, static_cast<double>(exponent)));
  }
  if (spec.yarn.has_value()) ApplyYarn(spec, absl::MakeSpan(frequencies));
  return frequencies;
}

float RopeAttentionFactor(const AttentionSpec& spec) {
  if (!spec.yarn.has_value()) return 1.0f;
  const YarnSpec& yarn = *spec.yarn;
  if (yarn.mscale == 0 || yarn.mscale_all_dim == 0) return static_cast<float>(Mscale(yarn.factor, 1.0));
  return static_cast<float>(Mscale(yarn.factor, yarn.mscale) / Mscale(yarn.factor, yarn.mscale_all_dim));
}

float SoftmaxScale(const AttentionSpec& spec) {
  double scale = 1.0 / std::sqrt(static_cast<double>(spec.qk_head_dim()));
  if (spec.yarn.has_value() && spec.yarn->mscale_all_dim != 0) {
    const double mscale = Mscale(spec.yarn->factor, spec.yarn->mscale_all_dim);
    scale *= mscale * mscale;
  }
  return static_cast<float>(scale);
}

Rope::Rope(const AttentionSpec& spec, int rows_max)
    : interleaved_(spec.rope_interleaved),
      pairs_(spec.qk_rope_head_dim / 2),
      factor_(RopeAttentionFactor(spec)),
      frequencies_(RopeFrequencies(spec)),
      cosines_(DType::kF32, rows_max, pairs_),
      sines_(DType::kF32, rows_max, pairs_) {
  CONCLAVE_CHECK(spec.qk_rope_head_dim % 2 == 0) << "qk_rope_head_dim " << spec.qk_rope_head_dim << " is odd";
}

void Rope::SetPositions(absl::Span<const int32_t> positions) {
  CONCLAVE_CHECK(static_cast<int64_t>(positions.size()) <= cosines_.view().rows) << positions.size() << " rows";
  for (size_t row = 0; row < positions.size(); ++row) {
    float* cosines = cosines_.view().Row<float>(row);
    float* sines = sines_.view().Row<float>(row);
    for (int i = 0; i < pairs_; ++i) {
      const double angle = frequencies_[i] * static_cast<float>(positions[row]);  // rounded to float32 on purpose
      cosines[i] = static_cast<float>(std::cos(angle)) * factor_;
      sines[i] = static_cast<float>(std::sin(angle)) * factor_;
    }
  }
}

void Rope::Rotate(int64_t row, const float* x, float* out) const {
  const float* cosines = cosines_.view().Row<float>(row);
  const float* sines = sines_.view().Row<float>(row);
  const int step = interleaved_ ? 2 : 1;
  const int partner = interleaved_ ? 1 : pairs_;
  for (int i = 0; i < pairs_; ++i) {
    const float a = x[i * step];
    const float b = x[i * step + partner];
    out[i * step] = a * cosines[i] - b * sines[i];
    out[i * step + partner] = b * cosines[i] + a * sines[i];
  }
}

}  // namespace conclave
