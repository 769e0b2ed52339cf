// What the kernels' tests share: every table that this CPU runs, matrices of random values in every stored dtype, and
// views of them at awkward addresses.
#ifndef CONCLAVE_MOE_KERNELS_KERNELS_TESTING_H_
#define CONCLAVE_MOE_KERNELS_KERNELS_TESTING_H_

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "moe/kernels/kernels.h"
#include "moe/tensor/buffer.h"
#include "moe/tensor/dtype.h"
#include "moe/tensor/mat_view.h"
#include "moe/tensor/weight_view.h"

namespace conclave::testing {

// Every table that this CPU runs, fastest first; without the reference.
inline std::vector<const Kernels*> TablesOfThisCpu() {
  std::vector<const Kernels*> tables;
  for (const Compute compute : {Compute::kF32, Compute::kBF16, Compute::kBF16x3, Compute::kInt8, Compute::kInt8F32}) {
    for (const char* isa : {"amx", "avx512-bf16", "avx512", "avx2", "scalar"}) {
      const auto table = CpuKernels(compute, isa);
      if (table.ok()) tables.push_back(*table);
    }
  }
  return tables;
}

inline bool InIntegers(const Kernels& kernels) {
  return kernels.compute == Compute::kInt8 || kernels.compute == Compute::kInt8F32;
}

// Whether inputs of products with plain weights are rounded to bfloat16.
inline bool RoundsToBf16(const Kernels& kernels) {
  return kernels.compute == Compute::kBF16 || kernels.compute == Compute::kInt8;
}

inline std::string Describe(const Kernels& kernels) {
  return std::string(kernels.isa) + "/" + std::string(Name(kernels.compute));
}

// Normal values; deterministic.
class Values {
 public:
  explicit Values(uint32_t seed) : engine_(seed) {}
  float Next() { return normal_(engine_); }
  uint32_t Bits() { return engine_(); }
  MatBuffer Matrix(int64_t rows, int64_t cols) {
    MatBuffer matrix(DType::kF32, rows, cols);
    for (int64_t i = 0; i < rows * cols; ++i) matrix.view().Row<float>(0)[i] = Next();
    return matrix;
  }

 private:
  std::mt19937 engine_;
  std::normal_distribution<float> normal_;
};

// Half precision of a normal float in its range, truncated: tests need some value, not the nearest.
inline uint16_t SomeF16(float value) {
  const uint32_t bits = [&] {
    uint32_t b;
    std::memcpy(&b, &value, sizeof(b));
    return b;
  }();
  const int exponent = static_cast<int>(bits >> 23 & 0xff) - 112;
  const uint32_t sign = bits >> 16 & 0x8000u;
  if (exponent <= 0) return static_cast<uint16_t>(sign | (bits & 0x3ffu));  // a subnormal
  return static_cast<uint16_t>(sign | static_cast<uint32_t>(exponent) << 10 | (bits >> 13 & 0x3ffu));
}

// A weight matrix that owns its bytes and keeps them `offset` bytes off alignment.
class TestWeight {
 public:
  // `scales_dtype` kF32 or kF8E8M0 for scales in blocks of block_rows x block_cols; block_rows 0: none.
  TestWeight(Values& values, DType dtype, int64_t rows, int64_t cols, int offset = 0, int block_rows = 0,
             int block_cols = 0, DType scales_dtype = DType::kF32)
      : bytes_(rows * cols * SizeOf(dtype) + offset) {
    for (int64_t i = 0; i < rows * cols; ++i) Put(values.Next(), dtype, bytes_.data() + offset + i * SizeOf(dtype));
    view_.matrix = BasicMatView<const void*>{bytes_.data() + offset, dtype, Device::kCpu, rows, cols, cols};
    if (block_rows == 0) return;
    view_.block_rows = block_rows;
    view_.block_cols = block_cols;
    const int64_t scale_rows = (rows + block_rows - 1) / block_rows;
    const int64_t scale_cols = (cols + block_cols - 1) / block_cols;
    scales_.resize(scale_rows * scale_cols * SizeOf(scales_dtype));
    for (int64_t i = 0; i < scale_rows * scale_cols; ++i) {
      const float scale = 0.01f * (1.0f + std::abs(values.Next()));
      const uint8_t exponent = static_cast<uint8_t>(115 + values.Bits() % 16);
      if (scales_dtype == DType::kF32) {
        std::memcpy(scales_.data() + i * sizeof(float), &scale, sizeof(float));
      } else {
        scales_[i] = exponent;
      }
    }
    view_.scales =
        BasicMatView<const void*>{scales_.data(), scales_dtype, Device::kCpu, scale_rows, scale_cols, scale_cols};
  }

  const WeightView& view() const { return view_; }
  uint8_t* bytes() {
    return bytes_.data() + (bytes_.size() - view_.rows() * view_.cols() * SizeOf(view_.matrix.dtype));
  }

 private:
  static void Put(float value, DType dtype, uint8_t* out) {
    const uint16_t halves = dtype == DType::kF16 ? SomeF16(value) : FloatToBf16(value);
    if (dtype == DType::kF32) std::memcpy(out, &value, sizeof(value));
    if (dtype == DType::kBF16 || dtype == DType::kF16) std::memcpy(out, &halves, sizeof(halves));
    if (dtype == DType::kF8E4M3) *out = FloatToF8E4M3(value);
  }

  std::vector<uint8_t> bytes_;
  std::vector<uint8_t> scales_;
  WeightView view_;
};

// Packed rows that own their bytes, which begin as NaN in every reading.
class TestPackedRows {
 public:
  TestPackedRows(const Kernels& kernels, int64_t rows, int64_t cols)
      : bytes_(DType::kU8, 1, kernels.packed_bytes(rows, cols)), rows_{bytes_.view().data, rows, cols} {
    std::memset(bytes_.view().data, 0xff, bytes_.bytes());
  }
  const PackedRows& rows() const { return rows_; }
  int64_t bytes() const { return bytes_.bytes(); }

 private:
  MatBuffer bytes_;
  PackedRows rows_;
};

// The bits, so that NaN equals itself and +0 does not equal -0.
inline uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

}  // namespace conclave::testing

#endif  // CONCLAVE_MOE_KERNELS_KERNELS_TESTING_H_
