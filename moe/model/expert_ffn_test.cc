#include "moe/model/expert_ffn.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "moe/model/numeric_profile.h"

namespace conclave {
namespace {

constexpr int kHidden = 40;
constexpr int kIntermediate = 72;

// Experts with random BF16 matrices, and the plain computation of one of them for one row.
class Experts {
 public:
  explicit Experts(int count) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal(0, 0.2f);
    const auto matrix = [&](int64_t rows, int64_t cols) {
      MatBuffer buffer(DType::kBF16, rows, cols);
      for (int64_t i = 0; i < rows * cols; ++i) buffer.view().Row<uint16_t>(0)[i] = FloatToBf16(normal(random));
      WeightView view;
      view.matrix = buffer.view();
      buffers_.push_back(std::move(buffer));
      return view;
    };
    for (int i = 0; i < count; ++i) {
      FfnWeights ffn;
      ffn.gate = matrix(kIntermediate, kHidden);
      ffn.up = matrix(kIntermediate, kHidden);
      ffn.down = matrix(kHidden, kIntermediate);
      ffns_.push_back(ffn);
    }
  }
  const FfnWeights& Get(ExpertId expert) const { return ffns_[Value(expert)]; }

  std::vector<double> Plain(int expert, ConstMatView row) const {
    const FfnWeights& ffn = ffns_[expert];
    const auto dot = [](const WeightView& w, int64_t n, auto at) {
      double sum = 0;
      for (int64_t k = 0; k < w.cols(); ++k) sum += at(k) * LoadAsFloat(w.matrix.RowBytes(n), w.matrix.dtype, k);
      return sum;
    };
    std::vector<double> inner(kIntermediate), out(kHidden);
    const auto x = [&](int64_t k) { return double{LoadAsFloat(row.data, row.dtype, k)}; };
    for (int i = 0; i < kIntermediate; ++i) {
      const double gate = dot(ffn.gate, i, x);
      inner[i] = gate / (1 + std::exp(-gate)) * dot(ffn.up, i, x);
    }
    for (int i = 0; i < kHidden; ++i) out[i] = dot(ffn.down, i, [&](int64_t k) { return inner[k]; });
    return out;
  }

 private:
  std::vector<MatBuffer> buffers_;
  std::vector<FfnWeights> ffns_;
};

struct Call {
  MatBuffer rows;
  std::vector<uint32_t> offsets;
  std::vector<int32_t> experts;
};

// `rows` random rows; row i goes to top_k experts drawn from `experts`, ascending.
Call RandomCall(DType dtype, int rows, int top_k, int experts, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  Call call{MatBuffer(dtype, rows, kHidden), {0}, {}};
  for (int row = 0; row < rows; ++row) {
    for (int col = 0; col < kHidden; ++col) {
      const float value = normal(random);
      if (dtype == DType::kF32) {
        call.rows.view().Row<float>(row)[col] = value;
      } else {
        call.rows.view().Row<uint16_t>(row)[col] = FloatToBf16(value);
      }
    }
    std::vector<int32_t> ids(experts);
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), random);
    std::sort(ids.begin(), ids.begin() + top_k);
    call.experts.insert(call.experts.end(), ids.begin(), ids.begin() + top_k);
    call.offsets.push_back(static_cast<uint32_t>(call.experts.size()));
  }
  return call;
}

MatBuffer RunGrouped(const Kernels& kernels, int threads, const Experts& experts, const Call& call) {
  ThreadPool pool(threads);
  const int64_t pairs = static_cast<int64_t>(call.experts.size());
  GroupedExperts grouped(kernels, pool, kHidden, kIntermediate, static_cast<int>(pairs));
  MatBuffer out(RowDType(kernels.compute), pairs, kHidden);
  grouped.Run(
      call.rows.view(), call.offsets, call.experts, [&](ExpertId id) -> const FfnWeights& { return experts.Get(id); },
      out.view());
  return out;
}

class GroupedExpertsTest : public testing::TestWithParam<Compute> {
 protected:
  const Kernels& kernels() const { return ReferenceKernels(GetParam()); }
  DType row_dtype() const { return RowDType(GetParam()); }
};

TEST_P(GroupedExpertsTest, EveryPairIsItsExpertsFfnOfItsRow) {
  const Experts experts(9);
  const Call call = RandomCall(row_dtype(), 13, 3, 9, 1);
  const MatBuffer out = RunGrouped(kernels(), 1, experts, call);
  const double tolerance = GetParam() == Compute::kF32 ? 1e-4 : 5e-2;
  for (size_t pair = 0; pair < call.experts.size(); ++pair) {
    const std::vector<double> want = experts.Plain(call.experts[pair], call.rows.view().Rows(pair / 3, 1));
    for (int col = 0; col < kHidden; ++col) {
      EXPECT_NEAR(LoadAsFloat(out.view().RowBytes(pair), row_dtype(), col), want[col], tolerance) << pair;
    }
  }
}

TEST_P(GroupedExpertsTest, BitsDoNotDependOnBatchMatesThreadsOrWaves) {
  const Experts experts(5);
  // 700 pairs are more than a wave, and expert 0 alone has more rows than one.
  Call call = RandomCall(row_dtype(), 350, 2, 5, 2);
  for (int row = 0; row < 350; ++row) call.experts[row * 2] = 0, call.experts[row * 2 + 1] = 1 + row % 4;
  call.experts[1] = 4;
  const MatBuffer together = RunGrouped(kernels(), 1, experts, call);
  const MatBuffer threaded = RunGrouped(kernels(), 2, experts, call);
  EXPECT_EQ(std::memcmp(together.view().data, threaded.view().data, together.bytes()), 0);
  for (int row = 0; row < 350; row += 7) {
    Call alone{MatBuffer(row_dtype(), 1, kHidden), {0, 2}, {call.experts[row * 2], call.experts[row * 2 + 1]}};
    std::memcpy(alone.rows.view().data, call.rows.view().RowBytes(row), alone.rows.bytes());
    const MatBuffer out = RunGrouped(kernels(), 2, experts, alone);
    EXPECT_EQ(std::memcmp(together.view().RowBytes(row * 2), out.view().data, out.bytes()), 0) << row;
  }
}

TEST_P(GroupedExpertsTest, RowsMayHaveAnyNumberOfExpertsEvenNone) {
  const Experts experts(4);
  Call call = RandomCall(row_dtype(), 4, 1, 4, 3);
  call.offsets = {0, 0, 3, 3, 4};
  call.experts = {0, 1, 3, 1};
  const MatBuffer out = RunGrouped(kernels(), 1, experts, call);
  const int row_of_pair[] = {1, 1, 1, 3};
  for (int pair = 0; pair < 4; ++pair) {
    const std::vector<double> want = experts.Plain(call.experts[pair], call.rows.view().Rows(row_of_pair[pair], 1));
    EXPECT_NEAR(LoadAsFloat(out.view().RowBytes(pair), row_dtype(), 5), want[5], 5e-2) << pair;
  }
}

TEST_P(GroupedExpertsTest, ACallWithoutPairsDoesNothing) {
  const Experts experts(1);
  Call call = RandomCall(row_dtype(), 2, 1, 1, 4);
  call.offsets = {0, 0, 0};
  call.experts.clear();
  EXPECT_EQ(RunGrouped(kernels(), 2, experts, call).bytes(), 0);
}

INSTANTIATE_TEST_SUITE_P(Compute, GroupedExpertsTest, testing::Values(Compute::kF32, Compute::kBF16),
                         [](const auto& info) { return info.param == Compute::kF32 ? "F32" : "BF16"; });

TEST(ExpertPrefixTest, NamesTheExpertAsCheckpointsDo) {
  EXPECT_EQ(ExpertPrefix(LayerId{3}, ExpertId{17}), "model.layers.3.mlp.experts.17");
}

}  // namespace
}  // namespace conclave
