// Latent attention over paged caches against the reference, and bit for bit against itself.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "moe/kernels/kernels_testing.h"
#include "moe/tensor/latent_row.h"

namespace conclave {
namespace {

using testing::BitsOf;
using testing::Describe;
using testing::TablesOfThisCpu;
using testing::Values;

struct Shape {
  int heads;
  int latent;
  int rope;
  int64_t tokens;
  int page_tokens;
};
constexpr Shape kShapes[] = {
    {1, 1, 1, 1, 1},       {3, 16, 7, 5, 16},  {4, 128, 16, 64, 16},   {7, 33, 5, 65, 16},
    {16, 512, 64, 40, 64}, {2, 40, 8, 200, 5}, {13, 100, 16, 129, 16},
};

constexpr DType kCacheDTypes[] = {DType::kF32, DType::kBF16, DType::kF8E4M3};

// A cache of random rows in pages that lie apart and in no order, and a query.
class Attention {
 public:
  Attention(const Shape& shape, DType dtype, uint32_t seed) : shape_(shape), dtype_(dtype) {
    Values values(seed);
    const int width = shape.latent + shape.rope;
    const int64_t pages = (shape.tokens + shape.page_tokens - 1) / shape.page_tokens;
    query_ = values.Matrix(shape.heads, width);
    const MatBuffer rows = values.Matrix(pages * shape.page_tokens, width);
    if (dtype == DType::kF8E4M3) {
      const LatentRowLayout layout = {shape.latent, shape.rope};
      memory_ = MatBuffer(dtype, rows.view().rows, layout.bytes());
      for (int64_t row = 0; row < rows.view().rows; ++row) {
        PackLatentRow(layout, rows.view().Row<float>(row), memory_.view().RowBytes(row));
      }
    } else {
      memory_ = MatBuffer(dtype, rows.view().rows, width);
      ReferenceKernels(Compute::kF32).convert(rows.view(), memory_.view());
    }
    for (int64_t page = 0; page < pages; ++page) pages_.push_back(memory_.view().RowBytes(page * shape.page_tokens));
    std::reverse(pages_.begin(), pages_.end());
    scratch_.resize(MlaScratchFloats(shape.heads, shape.latent, shape.rope));
  }

  MlaAttentionArgs Args(MatView out) {
    const int width = shape_.latent + shape_.rope;
    return {query_.view().Row<float>(0),
            width,
            pages_.data(),
            dtype_,
            shape_.page_tokens,
            shape_.tokens,
            shape_.heads,
            shape_.latent,
            shape_.rope,
            1.5f / std::sqrt(width * 1.0f),
            out.Row<float>(0),
            out.stride,
            scratch_.data()};
  }
  MatBuffer Run(const Kernels& kernels) {
    MatBuffer out(DType::kF32, shape_.heads, shape_.latent);
    kernels.mla_attention(Args(out.view()));
    return out;
  }
  MatView memory() { return memory_.view(); }
  std::vector<const void*>& pages() { return pages_; }

 private:
  Shape shape_;
  DType dtype_;
  MatBuffer query_, memory_;
  std::vector<const void*> pages_;
  std::vector<float> scratch_;
};

TEST(MlaAttentionTest, IsNearTheReference) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const Shape& shape : kShapes) {
      for (const DType dtype : kCacheDTypes) {
        Attention attention(shape, dtype, 21);
        const MatBuffer got = attention.Run(*kernels);
        const MatBuffer want = attention.Run(ReferenceKernels(kernels->compute));
        for (int64_t i = 0; i < int64_t{shape.heads} * shape.latent; ++i) {
          ASSERT_NEAR(got.view().Row<float>(0)[i], want.view().Row<float>(0)[i], 2e-5)
              << Describe(*kernels) << " " << shape.heads << " heads, " << shape.latent << "+" << shape.rope << ", "
              << shape.tokens << " tokens";
        }
      }
    }
  }
}

// A head's result may depend neither on the heads beside it, nor on how the cache is cut into pages.
TEST(MlaAttentionTest, HeadsAndPagesDoNotMatter) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const DType dtype : kCacheDTypes) {
      const Shape shape = {11, 72, 24, 150, 150};
      Attention attention(shape, dtype, 22);
      const MatBuffer together = attention.Run(*kernels);
      std::vector<const void*> small_pages;
      for (int64_t token = 0; token < 150; token += 10) small_pages.push_back(attention.memory().RowBytes(token));
      for (int head = 0; head < shape.heads; ++head) {
        MatBuffer alone(DType::kF32, 1, shape.latent);
        MlaAttentionArgs args = attention.Args(alone.view());
        args.query += head * args.query_stride;
        args.heads = 1;
        args.pages = small_pages.data();
        args.page_tokens = 10;
        kernels->mla_attention(args);
        for (int i = 0; i < shape.latent; ++i) {
          ASSERT_EQ(BitsOf(alone.view().Row<float>(0)[i]), BitsOf(together.view().Row<float>(head)[i]))
              << Describe(*kernels) << " head " << head;
        }
      }
    }
  }
}

TEST(MlaAttentionTest, TokensPastTheEndAreNotRead) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    const Shape shape = {5, 64, 16, 70, 80};
    Attention attention(shape, DType::kF32, 23);
    const MatBuffer before = attention.Run(*kernels);
    for (int64_t token = 70; token < 80; ++token) {
      for (int i = 0; i < 80; ++i) attention.memory().Row<float>(token)[i] = std::nanf("");
    }
    const MatBuffer after = attention.Run(*kernels);
    EXPECT_EQ(std::memcmp(before.view().data, after.view().data, before.bytes()), 0) << Describe(*kernels);
  }
}

TEST(MlaAttentionTest, LargeScoresDoNotOverflow) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    Attention attention({4, 64, 16, 130, 16}, DType::kBF16, 24);
    MatBuffer got(DType::kF32, 4, 64), want(DType::kF32, 4, 64);
    MlaAttentionArgs args = attention.Args(got.view());
    args.scale = 40.0f;
    kernels->mla_attention(args);
    args.out = want.view().Row<float>(0);
    ReferenceKernels(kernels->compute).mla_attention(args);
    for (int i = 0; i < 4 * 64; ++i) {
      ASSERT_NEAR(got.view().Row<float>(0)[i], want.view().Row<float>(0)[i], 2e-3) << Describe(*kernels);
    }
  }
}

TEST(MlaAttentionTest, NaNInTheCacheIsSeen) {
  for (const Kernels* kernels : TablesOfThisCpu()) {
    Attention attention({4, 64, 16, 100, 16}, DType::kF32, 25);
    static_cast<float*>(const_cast<void*>(attention.pages()[6]))[2 * 80 + 70] = std::nanf("");  // token 98, rope part
    const MatBuffer out = attention.Run(*kernels);
    for (int i = 0; i < 4 * 64; ++i) ASSERT_TRUE(std::isnan(out.view().Row<float>(0)[i])) << Describe(*kernels);
  }
}

TEST(MlaAttentionTest, NaNInAPackedCacheIsSeen) {
  const LatentRowLayout layout = {64, 16};
  for (const Kernels* kernels : TablesOfThisCpu()) {
    for (const int bad : {3, 70}) {  // of the latent, of the rotated key
      Attention attention({4, 64, 16, 100, 16}, DType::kF8E4M3, 26);
      std::vector<float> row(80, 0.5f);
      row[static_cast<size_t>(bad)] = std::nanf("");
      auto* const page = static_cast<std::byte*>(const_cast<void*>(attention.pages()[6]));
      PackLatentRow(layout, row.data(), page + 2 * layout.bytes());  // token 98
      const MatBuffer out = attention.Run(*kernels);
      for (int i = 0; i < 4 * 64; ++i) ASSERT_TRUE(std::isnan(out.view().Row<float>(0)[i])) << Describe(*kernels);
    }
  }
}

}  // namespace
}  // namespace conclave
