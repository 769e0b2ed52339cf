#include "moe/model/transformer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/model/numeric_profile.h"
#include "moe/model/test_models.h"
#include "moe/model/test_runner.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

class TransformerTest : public testing::Test {
 protected:
  void SetUp() override {
    auto model = MakeTestModel({}, "bf16");
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *model;
  }
  std::string model_;
};

TEST_F(TransformerTest, BitsDoNotDependOnThreads) {
  for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
    Logits want;
    for (const int threads : {1, 2, 3}) {
      auto runner = TestRunner::Make(model_, Fastest(compute), threads);
      ASSERT_NE(runner, nullptr);
      const auto got = runner->Prefill(0, Prompt(200, 2, 300), 256);
      ASSERT_TRUE(got.ok()) << got.status();
      if (threads == 1) want = *got;
      ExpectSameBits(*got, want, std::to_string(threads) + " threads");
    }
  }
}

TEST_F(TransformerTest, BitsDoNotDependOnBatchMates) {
  for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
    auto runner = TestRunner::Make(model_, Fastest(compute), 2);
    ASSERT_NE(runner, nullptr);
    const std::vector<int32_t> ids = Prompt(40, 3, 300);
    const auto alone = runner->Prefill(0, ids, 256);
    ASSERT_TRUE(alone.ok()) << alone.status();
    // The same sequence again, while two others decode and prefill beside it, before and behind its rows.
    Logits beside;
    ASSERT_TRUE(runner->Prefill(2, Prompt(19, 4, 300), 19).ok());
    for (size_t begin = 0; begin < ids.size(); begin += 8) {
      const std::vector<int32_t> piece(ids.begin() + begin, ids.begin() + begin + 8);
      const auto step = runner->Step({{2, {static_cast<int32_t>(begin)}}, {1, piece}, {3, Prompt(30, 5, 300)}});
      ASSERT_TRUE(step.ok()) << step.status();
      beside.insert(beside.end(), step->begin() + 1, step->begin() + 9);
    }
    ExpectSameBits(beside, *alone, "beside others");
  }
}

TEST_F(TransformerTest, Bfloat16StaysNearFloat32) {
  auto exact = TestRunner::Make(model_, Fastest(Compute::kF32), 1),
       rounded = TestRunner::Make(model_, Fastest(Compute::kBF16), 1);
  ASSERT_TRUE(exact != nullptr && rounded != nullptr);
  const auto want = exact->Prefill(0, Prompt(3, 6, 300), 3), got = rounded->Prefill(0, Prompt(3, 6, 300), 3);
  ASSERT_TRUE(want.ok() && got.ok());
  EXPECT_NE(*got, *want);
  for (int row = 0; row < 3; ++row) {
    double error = 0, norm = 0;
    for (int i = 0; i < 300; ++i) {
      error += std::pow((*got)[row][i] - (*want)[row][i], 2);
      norm += std::pow((*want)[row][i], 2);
    }
    EXPECT_LT(std::sqrt(error / norm), 2e-2);
  }
}

TEST_F(TransformerTest, ObserversSeeTheRoutingOfAllRowsOfEveryMoeLayer) {
  auto runner = TestRunner::Make(model_, Fastest(Compute::kF32), 1);
  ASSERT_NE(runner, nullptr);
  RoutingLog log;
  ASSERT_TRUE(runner->Step({{0, {1, 2, 3}}, {1, {4, 5}}}, &log).ok());
  ASSERT_EQ(log.experts.size(), 3u);
  for (int layer = 1; layer <= 3; ++layer) {
    ASSERT_EQ(log.experts[layer].size(), 5u * 4);
    for (int row = 0; row < 5; ++row) {
      const auto begin = log.experts[layer].begin() + row * 4;
      EXPECT_TRUE(std::is_sorted(begin, begin + 4));
      const auto weights = log.weights[layer].begin() + row * 4;
      EXPECT_NEAR(weights[0] + weights[1] + weights[2] + weights[3], 2.5, 1e-5);  // normalised, then scaled
    }
  }
}

// Fails its n-th Finish once, then works. Says of itself whether it works aside, and counts its tickets.
class FailingOnce final : public ExpertPool {
 public:
  FailingOnce(ExpertPool& pool, int calls, bool aside = false) : pool_(pool), calls_(calls), aside_(aside) {}
  DType row_dtype() const override { return pool_.row_dtype(); }
  bool works_aside() const override { return aside_; }
  absl::StatusOr<ExpertTicket> Start(LayerId layer, ConstMatView x, const Routing& routing) override {
    most_in_flight_ = std::max(most_in_flight_, ++in_flight_);
    return pool_.Start(layer, x, routing);
  }
  absl::Status Finish(ExpertTicket ticket, MatView out) override {
    --in_flight_;
    const absl::Status status = pool_.Finish(ticket, out);
    return --calls_ == 0 ? absl::UnavailableError("layer 2 expert 7: no holder") : status;
  }
  int in_flight() const { return in_flight_; }
  // Since it was asked last.
  int most_in_flight() { return std::exchange(most_in_flight_, 0); }

 private:
  ExpertPool& pool_;
  int calls_;
  const bool aside_;
  int in_flight_ = 0, most_in_flight_ = 0;
};

// Every layer's routing, and whether the step was in two parts.
struct SeenStep final : ForwardObserver {
  void OnRouting(LayerId layer, const Routing& routing) override {
    layers.push_back(Value(layer));
    experts.insert(experts.end(), routing.experts.begin(), routing.experts.end());
    weights.insert(weights.end(), routing.weights.begin(), routing.weights.end());
  }
  void OnTwoParts() override { in_two_parts = true; }
  std::vector<int> layers;
  std::vector<int32_t> experts;
  std::vector<float> weights;
  bool in_two_parts = false;
};

class TransformerParts : public TransformerTest {
 protected:
  void SetUp() override {
    TransformerTest::SetUp();
    auto checkpoint = Checkpoint::Open(model_);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
    kv_ = std::make_unique<KvStorage>(checkpoint_->spec(), CacheDType(Compute::kF32), 4, kKvBlockTokens);
  }
  std::unique_ptr<Transformer> MakeTransformer(Compute compute) {
    TransformerOptions options;
    options.rows_max = 16;
    auto transformer = Transformer::Create(*checkpoint_, Fastest(compute), threads_, options);
    EXPECT_TRUE(transformer.ok()) << transformer.status();
    return *std::move(transformer);
  }
  std::unique_ptr<LocalExperts> MakeExperts(Compute compute) {
    auto experts = LocalExperts::Create(*checkpoint_, Fastest(compute), threads_, 16);
    EXPECT_TRUE(experts.ok()) << experts.status();
    return *std::move(experts);
  }
  std::unique_ptr<Checkpoint> checkpoint_;
  ThreadPool threads_{2};
  std::unique_ptr<KvStorage> kv_;
};

TEST_F(TransformerParts, LogitRowsAreTheLastOnesOfEachSlice) {
  const auto transformer = MakeTransformer(Compute::kF32);
  const auto experts = MakeExperts(Compute::kF32);
  const std::vector<int32_t> first = {5, 6, 7}, second = {8, 9}, third = {10, 11, 12, 13};
  const std::vector<int32_t> blocks = {2, 0, 3};
  const auto slice = [&](const std::vector<int32_t>& ids, int block, int rows) {
    return SequenceSlice{ids, 0, absl::MakeConstSpan(&blocks[block], 1), rows};
  };
  MatBuffer all(DType::kF32, 9, 300), some(DType::kF32, 5, 300);
  ASSERT_TRUE(
      transformer
          ->Forward({slice(first, 0, 3), slice(second, 1, 2), slice(third, 2, 4)}, *kv_, *experts, all.view(), nullptr)
          .ok());
  ASSERT_TRUE(
      transformer
          ->Forward({slice(first, 0, 1), slice(second, 1, 0), slice(third, 2, 4)}, *kv_, *experts, some.view(), nullptr)
          .ok());
  const int rows[] = {2, 5, 6, 7, 8};
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(std::memcmp(some.view().RowBytes(i), all.view().RowBytes(rows[i]), 300 * sizeof(float)), 0) << i;
  }
}

TEST_F(TransformerParts, AStepThatFailedMayBeRunAgain) {
  const auto transformer = MakeTransformer(Compute::kF32);
  const auto experts = MakeExperts(Compute::kF32);
  const std::vector<int32_t> ids = {3, 1, 4, 1, 5}, blocks = {1};
  const SequenceSlice slice{ids, 0, blocks, 1};
  MatBuffer want(DType::kF32, 1, 300), got(DType::kF32, 1, 300);
  ASSERT_TRUE(transformer->Forward({slice}, *kv_, *experts, want.view(), nullptr).ok());
  FailingOnce failing(*experts, 2);
  const absl::Status status = transformer->Forward({slice}, *kv_, failing, got.view(), nullptr);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("layer 2 expert 7"));
  ASSERT_TRUE(transformer->Forward({slice}, *kv_, failing, got.view(), nullptr).ok());
  EXPECT_EQ(std::memcmp(got.view().data, want.view().data, want.bytes()), 0);
}

TEST_F(TransformerParts, AStepInTwoPartsHasTheSameBitsAndRouting) {
  const auto transformer = MakeTransformer(Compute::kF32);
  const auto experts = MakeExperts(Compute::kF32);
  // The cut goes through the second sequence, whose later rows look at the earlier ones.
  const std::vector<int32_t> first = {3, 1}, second = {4, 1, 5, 9, 2}, blocks = {1, 2};
  const std::vector<SequenceSlice> slices = {{first, 0, absl::MakeConstSpan(blocks).first(1), 2},
                                             {second, 0, absl::MakeConstSpan(blocks).last(1), 5}};
  MatBuffer want(DType::kF32, 7, 300), got(DType::kF32, 7, 300);
  SeenStep alone;
  ASSERT_TRUE(transformer->Forward(slices, *kv_, *experts, want.view(), &alone).ok());
  EXPECT_FALSE(alone.in_two_parts) << "nothing works aside";
  FailingOnce aside(*experts, -1, true);
  int in_two_parts = 0;
  for (int step = 0; step < 4; ++step) {
    std::memset(got.view().data, 0xff, static_cast<size_t>(got.bytes()));
    SeenStep seen;
    ASSERT_TRUE(transformer->Forward(slices, *kv_, aside, got.view(), &seen).ok());
    EXPECT_EQ(std::memcmp(got.view().data, want.view().data, got.bytes()), 0) << step;
    EXPECT_EQ(aside.most_in_flight(), seen.in_two_parts ? 2 : 1);
    EXPECT_EQ(seen.layers, alone.layers);
    EXPECT_EQ(seen.experts, alone.experts);
    EXPECT_EQ(seen.weights, alone.weights);
    in_two_parts += seen.in_two_parts;
  }
  EXPECT_EQ(in_two_parts, 2) << "tried in turn at first";
}

TEST_F(TransformerParts, AStepInTwoPartsThatFailsLeavesNoTicket) {
  const auto transformer = MakeTransformer(Compute::kF32);
  const auto experts = MakeExperts(Compute::kF32);
  const std::vector<int32_t> ids = {3, 1, 4, 1, 5}, blocks = {1};
  const SequenceSlice slice{ids, 0, blocks, 5};
  MatBuffer want(DType::kF32, 5, 300), got(DType::kF32, 5, 300);
  ASSERT_TRUE(transformer->Forward({slice}, *kv_, *experts, want.view(), nullptr).ok());
  FailingOnce whole(*experts, -1, true);
  ASSERT_TRUE(transformer->Forward({slice}, *kv_, whole, got.view(), nullptr).ok());
  for (int fails_at : {1, 2, 3, 4}) {
    FailingOnce failing(*experts, fails_at, true);
    EXPECT_EQ(transformer->Forward({slice}, *kv_, failing, got.view(), nullptr).code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(failing.most_in_flight(), 2);
    EXPECT_EQ(failing.in_flight(), 0);
  }
  ASSERT_TRUE(transformer->Forward({slice}, *kv_, whole, got.view(), nullptr).ok());
  EXPECT_EQ(whole.most_in_flight(), 2);
  EXPECT_EQ(std::memcmp(got.view().data, want.view().data, want.bytes()), 0);
}

TEST_F(TransformerParts, APoolOfAnotherRowDtypeIsRefused) {
  const auto transformer = MakeTransformer(Compute::kBF16);
  const auto experts = MakeExperts(Compute::kF32);
  const std::vector<int32_t> ids = {3}, blocks = {1};
  MatBuffer logits(DType::kF32, 1, 300);
  const absl::Status status =
      transformer->Forward({SequenceSlice{ids, 0, blocks, 1}}, *kv_, *experts, logits.view(), nullptr);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
}

TEST_F(TransformerParts, AFileCutShortUnderTheModelIsDataLoss) {
  const auto transformer = MakeTransformer(Compute::kF32);
  const auto experts = MakeExperts(Compute::kF32);
  std::filesystem::resize_file(model_ + "/model.safetensors", 4096);
  const std::vector<int32_t> ids = {3}, blocks = {1};
  MatBuffer logits(DType::kF32, 1, 300);
  const absl::Status status =
      transformer->Forward({SequenceSlice{ids, 0, blocks, 1}}, *kv_, *experts, logits.view(), nullptr);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.safetensors"));
}

TEST_F(TransformerTest, AMissingTensorIsNamedAtCreation) {
  const std::string missing = "model.layers.3.self_attn.kv_b_proj.weight";
  ASSERT_TRUE(RenameTensor(model_, missing, "model.layers.3.self_attn.kv_x_proj.weight").ok());
  const auto runner = TestRunner::Create(model_, Fastest(Compute::kF32), 1);
  ASSERT_FALSE(runner.ok());
  EXPECT_EQ(runner.status().code(), absl::StatusCode::kNotFound) << runner.status();
  EXPECT_THAT(std::string(runner.status().message()), HasSubstr(missing));
}

}  // namespace
}  // namespace conclave
