#include "moe/model/gate.h"

#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/model/numeric_profile.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatNear;

struct Choice {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};

Choice Select(const GateSpec& spec, std::vector<float> logits, const std::vector<float>& bias = {}) {
  Choice out{std::vector<int32_t>(spec.top_k), std::vector<float>(spec.top_k)};
  std::vector<float> scratch(spec.experts);
  SelectExperts(spec, bias, absl::MakeSpan(logits), absl::MakeSpan(scratch), absl::MakeSpan(out.experts),
                absl::MakeSpan(out.weights));
  return out;
}

GateSpec Spec(TopKMethod method, ScoreFunction score, int experts, int top_k, int groups = 1, int kept = 1) {
  GateSpec spec;
  spec.method = method;
  spec.score_function = score;
  spec.experts = experts;
  spec.top_k = top_k;
  spec.groups = groups;
  spec.groups_kept = kept;
  spec.normalise_top_k = false;
  return spec;
}

float Sigmoid(double x) { return static_cast<float>(1 / (1 + std::exp(-x))); }

TEST(GateTest, GreedySoftmaxTakesTheLargestInAscendingOrderOfIds) {
  const GateSpec spec = Spec(TopKMethod::kGreedy, ScoreFunction::kSoftmax, 4, 2);
  const Choice choice = Select(spec, {1, 0, 2, -1});
  const double sum = std::exp(1) + std::exp(0) + std::exp(2) + std::exp(-1);
  EXPECT_THAT(choice.experts, ElementsAre(0, 2));
  EXPECT_THAT(choice.weights, ElementsAre(FloatNear(std::exp(1) / sum, 1e-6), FloatNear(std::exp(2) / sum, 1e-6)));
}

TEST(GateTest, TheScalingFactorIsInTheWeights) {
  GateSpec spec = Spec(TopKMethod::kGreedy, ScoreFunction::kSigmoid, 3, 2);
  spec.routed_scaling_factor = 2.5f;
  EXPECT_THAT(Select(spec, {0, 3, 3}).weights,
              ElementsAre(FloatNear(2.5 * Sigmoid(3), 1e-6), FloatNear(2.5 * Sigmoid(3), 1e-6)));
  spec.normalise_top_k = true;
  EXPECT_THAT(Select(spec, {0, 3, 3}).weights, ElementsAre(FloatNear(1.25, 1e-6), FloatNear(1.25, 1e-6)));
}

TEST(GateTest, TheBiasSelectsButDoesNotWeigh) {
  const GateSpec spec = Spec(TopKMethod::kNoAuxTc, ScoreFunction::kSigmoid, 4, 2);
  const Choice choice = Select(spec, {3, 2, 0, -1}, {-1, 0, 0, 1});
  EXPECT_THAT(choice.experts, ElementsAre(1, 3));
  EXPECT_THAT(choice.weights, ElementsAre(FloatNear(Sigmoid(2), 1e-6), FloatNear(Sigmoid(-1), 1e-6)));
}

TEST(GateTest, TiesGoToTheLowerId) {
  const GateSpec spec = Spec(TopKMethod::kNoAuxTc, ScoreFunction::kSigmoid, 6, 3);
  EXPECT_THAT(Select(spec, {1, 1, 1, 1, 1, 1}).experts, ElementsAre(0, 1, 2));
  EXPECT_THAT(Select(spec, {0, 1, 2, 1, 1, 1}).experts, ElementsAre(1, 2, 3));
}

TEST(GateTest, GroupLimitedGreedyJudgesAGroupByItsLargestScore) {
  const GateSpec spec = Spec(TopKMethod::kGroupLimitedGreedy, ScoreFunction::kSoftmax, 6, 2, 3, 1);
  // Group 1 holds the single largest; the runners-up of group 0 are masked.
  EXPECT_THAT(Select(spec, {4, 4, 5, 0, 1, 1}).experts, ElementsAre(2, 3));
}

TEST(GateTest, NoAuxTcJudgesAGroupByItsTwoLargestBiasedScores) {
  const GateSpec spec = Spec(TopKMethod::kNoAuxTc, ScoreFunction::kSigmoid, 6, 2, 3, 1);
  EXPECT_THAT(Select(spec, {1, 1, 2, -9, 0, 0}).experts, ElementsAre(0, 1));
  EXPECT_THAT(Select(spec, {1, 1, 2, -9, 0, 0}, {0, 0, 0, 0, 1, 1}).experts, ElementsAre(4, 5));
}

TEST(GateTest, AMaskedGroupNeverBeatsANegativeScore) {
  // With 0 in place of -inf the masked experts 2..5 would win over the biased scores below zero.
  const GateSpec spec = Spec(TopKMethod::kNoAuxTc, ScoreFunction::kSigmoid, 6, 2, 3, 1);
  EXPECT_THAT(Select(spec, {0, 0, 0, 0, 0, 0}, {-2, -2, -3, -3, -3, -3}).experts, ElementsAre(0, 1));
}

TEST(GateTest, GroupsOfOneExpertWork) {
  const GateSpec spec = Spec(TopKMethod::kNoAuxTc, ScoreFunction::kSigmoid, 4, 2, 4, 3);
  EXPECT_THAT(Select(spec, {0, 3, 1, 2}).experts, ElementsAre(1, 3));
}

TEST(GateTest, ScoresThatAreNotNumbersStillNameDifferentExperts) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const auto method : {TopKMethod::kGreedy, TopKMethod::kNoAuxTc}) {
    const Choice choice = Select(Spec(method, ScoreFunction::kSoftmax, 4, 3, 2, 2), {nan, 1, nan, nan});
    const std::set<int32_t> different(choice.experts.begin(), choice.experts.end());
    EXPECT_EQ(different.size(), 3u);
    EXPECT_GE(*different.begin(), 0);
    EXPECT_LT(*different.rbegin(), 4);
  }
}

TEST(GateTest, RowsAreRoutedAloneAndInFloat32) {
  constexpr int kRows = 37, kHidden = 24, kExperts = 10, kTopK = 3;
  std::vector<uint16_t> matrix(kExperts * kHidden);
  std::vector<float> x(kRows * kHidden);
  for (size_t i = 0; i < matrix.size(); ++i) matrix[i] = FloatToBf16(std::sin(1.0f + i));
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::cos(0.7f * i);
  GateWeights weights;
  weights.matrix.matrix =
      BasicMatView<const void*>{matrix.data(), DType::kBF16, Device::kCpu, kExperts, kHidden, kHidden};
  const GateSpec spec = Spec(TopKMethod::kNoAuxTc, ScoreFunction::kSigmoid, kExperts, kTopK);
  ThreadPool two(2), one(1);
  const absl::StatusOr<const Kernels*> kernels = DenseKernels(ReferenceKernels(Compute::kBF16));
  ASSERT_TRUE(kernels.ok()) << kernels.status();
  EXPECT_EQ((*kernels)->compute, Compute::kF32);
  Gate all(spec, **kernels, two, kHidden, kRows), single(spec, **kernels, one, kHidden, 1);
  all.Route(weights, ViewF32(x.data(), kRows, kHidden));
  for (int row = 0; row < kRows; ++row) {
    single.Route(weights, ViewF32(x.data() + row * kHidden, 1, kHidden));
    EXPECT_EQ(all.experts().subspan(row * kTopK, kTopK), single.experts()) << row;
    EXPECT_EQ(all.weights().subspan(row * kTopK, kTopK), single.weights()) << row;
    const float logit = [&] {
      double sum = 0;
      for (int k = 0; k < kHidden; ++k) {
        sum += x[row * kHidden + k] * Bf16ToFloat(matrix[single.experts()[0] * kHidden + k]);
      }
      return static_cast<float>(sum);
    }();
    EXPECT_NEAR(single.weights()[0], Sigmoid(logit), 1e-6) << row;
  }
}

}  // namespace
}  // namespace conclave
