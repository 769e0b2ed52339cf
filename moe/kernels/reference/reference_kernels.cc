// The oracle: loops that read like the formulas, sums in double. Inputs are rounded as the profile says, nothing else.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "moe/base/check.h"
#include "moe/kernels/kernels.h"
#include "moe/kernels/row_major.h"
#include "moe/tensor/latent_row.h"

namespace conclave {
namespace {

// How inputs and float32 weights of products are rounded.
template <Compute kCompute>
float Rounded(float value) {
  return kCompute == Compute::kBF16 || kCompute == Compute::kInt8 ? Bf16ToFloat(FloatToBf16(value)) : value;
}

// The value of element (n, k); float32 weights are rounded in a bfloat16 profile, all else is exact.
template <Compute kCompute>
double WeightAt(const WeightView& w, int64_t n, int64_t k) {
  const float stored = StoredValue(w, n, k);
  const double value = w.matrix.dtype == DType::kF32 ? Rounded<kCompute>(stored) : stored;
  return value * ScaleOf(w, n, k);
}

constexpr bool InIntegers(Compute compute) { return compute == Compute::kInt8 || compute == Compute::kInt8F32; }

// The formula of cpu/raw_int8.h, in float32: blocks of 128 columns ascend, and so do the groups of weights inside them;
// integers inside a group are exact.
float IntegerProduct(ConstMatView x, int64_t m, const WeightView& w, int64_t n) {
  constexpr int64_t kBlock = 128;
  const bool row_scale = w.block_cols >= w.cols();
  const int64_t group = row_scale || w.block_cols % kBlock == 0 ? kBlock : 32;
  float total = 0;
  for (int64_t begin = 0; begin < w.cols(); begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, w.cols());
    float largest = 0;
    for (int64_t k = begin; k < end; ++k)
      largest = std::max(largest, std::fabs(LoadAsFloat(x.RowBytes(m), x.dtype, k)));
    const float factor = largest < 1e-30f ? 0.0f : 127.0f / largest;
    float sum = 0;
    for (int64_t first = begin; first < end; first += group) {
      double dot = 0;
      for (int64_t k = first; k < std::min(first + group, end); ++k) {
        dot += std::nearbyint(LoadAsFloat(x.RowBytes(m), x.dtype, k) * factor) * StoredValue(w, n, k);
      }
      sum = std::fma(static_cast<float>(dot), row_scale ? 1.0f : ScaleOf(w, n, first), sum);
    }
    total = std::fma(sum, largest < 1e-30f ? 0.0f : largest / 127.0f, total);
  }
  return row_scale ? total * ScaleOf(w, n, 0) : total;
}

template <Compute kCompute>
void Linear(ConstMatView x, const WeightView& w, int64_t n_begin, int64_t n_end, MatView y) {
  CONCLAVE_CHECK(x.cols == w.cols() && y.cols == w.rows() && x.rows == y.rows) << x.cols << " by " << w.cols();
  std::vector<double> weights(w.cols());
  for (int64_t n = n_begin; n < n_end; ++n) {
    if (InIntegers(kCompute) && FormOf(w) == kIntegerForm) {
      for (int64_t m = 0; m < x.rows; ++m) y.Row<float>(m)[n] = IntegerProduct(x, m, w, n);
      continue;
    }
    for (int64_t k = 0; k < w.cols(); ++k) weights[k] = WeightAt<kCompute>(w, n, k);
    for (int64_t m = 0; m < x.rows; ++m) {
      double sum = 0;
      for (int64_t k = 0; k < w.cols(); ++k)
        sum += Rounded<kCompute>(LoadAsFloat(x.RowBytes(m), x.dtype, k)) * weights[k];
      y.Row<float>(m)[n] = static_cast<float>(sum);
    }
  }
}

template <Compute kCompute>
void LinearTransposed(ConstMatView x, const WeightView& w, int64_t k_begin, int64_t k_end, MatView y) {
  CONCLAVE_CHECK(x.cols == w.rows() && y.cols == w.cols() && x.rows == y.rows) << x.cols << " by " << w.rows();
  std::vector<double> sums(x.rows * w.cols());
  for (int64_t n = 0; n < w.rows(); ++n) {
    for (int64_t k = k_begin; k < k_end; ++k) {
      const double weight = WeightAt<kCompute>(w, n, k);
      for (int64_t m = 0; m < x.rows; ++m) sums[m * w.cols() + k] += Rounded<kCompute>(x.Row<float>(m)[n]) * weight;
    }
  }
  for (int64_t m = 0; m < x.rows; ++m) {
    for (int64_t k = k_begin; k < k_end; ++k) y.Row<float>(m)[k] = static_cast<float>(sums[m * w.cols() + k]);
  }
}

void RmsNorm(ConstMatView x, absl::Span<const float> weight, float eps, MatView out) {
  for (int64_t m = 0; m < x.rows; ++m) {
    const float* row = x.Row<float>(m);
    double squares = 0;
    for (int64_t i = 0; i < x.cols; ++i) squares += static_cast<double>(row[i]) * row[i];
    const double factor = 1.0 / std::sqrt(squares / static_cast<double>(x.cols) + eps);
    for (int64_t i = 0; i < x.cols; ++i) out.Row<float>(m)[i] = static_cast<float>(row[i] * factor * weight[i]);
  }
}

void SiluMul(ConstMatView gate, ConstMatView up, MatView out) {
  for (int64_t m = 0; m < gate.rows; ++m) {
    for (int64_t i = 0; i < gate.cols; ++i) {
      const double g = gate.Row<float>(m)[i];
      out.Row<float>(m)[i] = static_cast<float>(g / (1.0 + std::exp(-g)) * up.Row<float>(m)[i]);
    }
  }
}

void Convert(ConstMatView x, MatView out) {
  for (int64_t m = 0; m < x.rows; ++m) {
    if (x.dtype == out.dtype) {
      std::memmove(out.RowBytes(m), x.RowBytes(m), x.cols * SizeOf(x.dtype));
      continue;
    }
    CONCLAVE_CHECK(x.dtype == DType::kBF16 || out.dtype == DType::kBF16) << Name(x.dtype) << " to " << Name(out.dtype);
    for (int64_t i = 0; i < x.cols; ++i) {
      if (out.dtype == DType::kBF16) {
        out.Row<uint16_t>(m)[i] = FloatToBf16(x.Row<float>(m)[i]);
      } else {
        out.Row<float>(m)[i] = Bf16ToFloat(x.Row<uint16_t>(m)[i]);
      }
    }
  }
}

void Axpy(float weight, const void* row, DType row_dtype, int64_t n, float* acc) {
  for (int64_t i = 0; i < n; ++i) acc[i] = std::fma(weight, LoadAsFloat(row, row_dtype, i), acc[i]);
}

// Softmax over all tokens at once, head by head.
template <Compute kCompute>
void MlaAttention(const MlaAttentionArgs& args) {
  const int width = args.latent + args.rope;
  const LatentRowLayout layout = {args.latent, args.rope};
  const int64_t row_bytes = CachedRowBytes(layout, args.cache_dtype);
  const auto cached = [&](int64_t token, int i) {
    const auto* page = static_cast<const std::byte*>(args.pages[token / args.page_tokens]);
    return CachedValueAt(layout, args.cache_dtype, page + token % args.page_tokens * row_bytes, i);
  };
  std::vector<double> weights(args.tokens);
  for (int head = 0; head < args.heads; ++head) {
    const float* query = args.query + head * args.query_stride;
    double maximum = -HUGE_VAL;
    for (int64_t t = 0; t < args.tokens; ++t) {
      double score = 0;
      for (int i = 0; i < width; ++i) {
        score += static_cast<double>(Rounded<kCompute>(query[i])) * cached(t, i);
      }
      weights[t] = score * args.scale;
      maximum = std::fmax(maximum, weights[t]);
    }
    double sum = 0;
    for (double& weight : weights) sum += weight = std::exp(weight - maximum);
    for (int i = 0; i < args.latent; ++i) {
      double value = 0;
      for (int64_t t = 0; t < args.tokens; ++t) value += weights[t] * cached(t, i);
      args.out[head * args.out_stride + i] = static_cast<float>(value / sum);
    }
  }
}

// What RowMajor makes packed functions of.
template <Compute kCompute>
struct Plain {
  static constexpr DType kPackedDType = kCompute == Compute::kBF16 ? DType::kBF16 : DType::kF32;
  static void Linear(ConstMatView x, const WeightView& w, int64_t n_begin, int64_t n_end, MatView y) {
    conclave::Linear<kCompute>(x, w, n_begin, n_end, y);
  }
  static void SiluMul(ConstMatView gate, ConstMatView up, MatView out) { conclave::SiluMul(gate, up, out); }
  static void Convert(ConstMatView x, MatView out) { conclave::Convert(x, out); }
};

template <Compute kCompute>
constexpr Kernels Table() {
  using Packed = RowMajor<Plain<kCompute>>;
  return Kernels{"reference",
                 kCompute,
                 &Linear<kCompute>,
                 &Packed::PackedBytes,
                 &Packed::Pack,
                 &Packed::LinearPacked,
                 &Packed::SwigluPacked,
                 &LinearTransposed<kCompute>,
                 &RmsNorm,
                 &SiluMul,
                 &Convert,
                 &Axpy,
                 &MlaAttention<kCompute>};
}
constexpr Kernels kReferenceF32 = Table<Compute::kF32>();
constexpr Kernels kReferenceBf16 = Table<Compute::kBF16>();
constexpr Kernels kReferenceBf16x3 = Table<Compute::kBF16x3>();
constexpr Kernels kReferenceInt8 = Table<Compute::kInt8>();
constexpr Kernels kReferenceInt8F32 = Table<Compute::kInt8F32>();

}  // namespace

const Kernels& ReferenceKernels(Compute compute) {
  if (compute == Compute::kBF16x3) return kReferenceBf16x3;
  if (compute == Compute::kInt8) return kReferenceInt8;
  if (compute == Compute::kInt8F32) return kReferenceInt8F32;
  return compute == Compute::kF32 ? kReferenceF32 : kReferenceBf16;
}

}  // namespace conclave
