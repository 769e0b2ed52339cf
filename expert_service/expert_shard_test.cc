#include "expert_service/expert_shard.h"

#include <cstring>
#include <filesystem>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "expert_service/test_model.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"
#include "moe/base/test_folder.h"
#include "moe/base/thread_pool.h"
#include "moe/model/expert_weights.h"
#include "moe/model/numeric_profile.h"
#include "moe/tensor/buffer.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

const Kernels& KernelsFor(Compute compute) {
  const auto kernels = CpuKernels(compute, "");
  EXPECT_TRUE(kernels.ok()) << kernels.status();
  return **kernels;
}

std::unique_ptr<ExpertShard> NewShard(int index, int count, Compute compute = Compute::kF32, int threads = 1,
                                      Metrics* metrics = nullptr, const Checkpoint& model = DemoModel()) {
  ExpertShardOptions options;
  options.name = absl::StrCat("expert-", index);
  options.shard_index = index;
  options.shard_count = count;
  options.kernels = &KernelsFor(compute);
  options.threads.threads = threads;
  options.metrics = metrics;
  options.per_expert_metrics = true;
  auto shard = ExpertShard::Create(options, model);
  EXPECT_TRUE(shard.ok()) << shard.status();
  return *std::move(shard);
}

// Random rows, each to experts_per_row of the experts [first, first + count).
struct Rows {
  MatBuffer rows, out;
  std::vector<uint32_t> offsets{0};
  std::vector<int32_t> experts;
  ExpertCall call;

  Rows(Compute compute, int64_t count, int first, int experts_held, int experts_per_row, uint32_t seed = 1) {
    const int hidden = DemoModel().spec().hidden;
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, 1);
    MatBuffer wide(DType::kF32, count, hidden);
    for (int64_t i = 0; i < count * hidden; ++i) wide.view().Row<float>(0)[i] = normal(random);
    rows = MatBuffer(RowDType(compute), count, hidden);
    KernelsFor(compute).convert(wide.view(), rows.view());
    for (int64_t row = 0; row < count; ++row) {
      const int begin = static_cast<int>(random() % (experts_held - experts_per_row + 1));
      for (int k = 0; k < experts_per_row; ++k) experts.push_back(first + begin + k);
      offsets.push_back(static_cast<uint32_t>(experts.size()));
    }
    out = MatBuffer(RowDType(compute), static_cast<int64_t>(experts.size()), hidden);
    call.call_id = 1;
    call.placement_epoch = kStaticPlacementEpoch;
    call.layer = LayerId{3};
    call.rows = rows.view();
    call.row_offsets = offsets;
    call.experts = experts;
  }
};

bool SameBytes(const MatBuffer& a, const MatBuffer& b) {
  return a.bytes() == b.bytes() && std::memcmp(a.view().data, b.view().data, a.bytes()) == 0;
}

MatBuffer Expected(Compute compute, const Rows& rows) {
  const ModelSpec& spec = DemoModel().spec();
  ExpertWeightTable weights(DemoModel());
  EXPECT_TRUE(weights.AddAll().ok());
  ThreadPool threads(1);
  GroupedExperts grouped(KernelsFor(compute), threads, spec.hidden, spec.moe_intermediate,
                         static_cast<int>(rows.experts.size()));
  MatBuffer out(RowDType(compute), static_cast<int64_t>(rows.experts.size()), spec.hidden);
  grouped.Run(
      rows.call.rows, rows.offsets, rows.experts,
      [&](ExpertId e) -> const FfnWeights& { return *weights.Find(rows.call.layer, e); }, out.view());
  return out;
}

TEST(ExpertShard, ComputesTheSameBitsWhateverTheSlicingAndTheThreads) {
  for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
    for (const int64_t count : {1, 7, 300}) {
      Rows rows(compute, count, /*first=*/16, /*experts_held=*/5, /*experts_per_row=*/3);
      const MatBuffer expected = Expected(compute, rows);
      for (const auto& [index, shards] : {std::pair{0, 1}, {1, 2}, {2, 4}}) {
        for (const int threads : {1, 3}) {
          const auto shard = NewShard(index, shards, compute, threads);
          std::memset(rows.out.view().data, 0xff, rows.out.bytes());
          const absl::Status status = shard->Run(rows.call, rows.out.view());
          ASSERT_TRUE(status.ok()) << status;
          EXPECT_TRUE(SameBytes(rows.out, expected)) << count << " rows on shard " << index << " of " << shards;
        }
      }
    }
  }
}

TEST(ExpertShard, DescribesWhatItHolds) {
  const auto shard = NewShard(1, 4);
  const ShardDescription description = shard->Describe();
  EXPECT_EQ(description.name, "expert-1");
  EXPECT_EQ(description.model_fingerprint, DemoModel().fingerprint());
  EXPECT_EQ(description.numeric_profile, NumericProfile(KernelsFor(Compute::kF32)));
  EXPECT_EQ(description.hidden, DemoModel().spec().hidden);
  EXPECT_EQ(description.row_dtype, DType::kF32);
  EXPECT_EQ(description.holdings.size(), static_cast<size_t>(DemoModel().spec().moe_layers()));
  EXPECT_EQ(description.expert_bytes, static_cast<uint64_t>(shard->store().stored_bytes()));
  EXPECT_EQ(NewShard(1, 4, Compute::kBF16)->Describe().row_dtype, DType::kBF16);
}

TEST(ExpertShard, NamesTheFieldThatIsOutOfRangeAndServesOn) {
  const auto shard = NewShard(0, 4);  // experts 0-7
  const auto refuses = [&](absl::StatusCode code, const std::string& names, auto change) {
    Rows rows(Compute::kF32, 4, 0, 8, 2);
    change(rows);
    const absl::Status status = shard->Run(rows.call, rows.out.view());
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("expert-0: " + names));
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  constexpr auto kPrecondition = absl::StatusCode::kFailedPrecondition;
  refuses(kInvalid, "layer: -1", [](Rows& r) { r.call.layer = LayerId{-1}; });
  refuses(kInvalid, "layer: 0 has no routed experts", [](Rows& r) { r.call.layer = LayerId{0}; });
  refuses(kInvalid, "layer: 99", [](Rows& r) { r.call.layer = LayerId{99}; });
  refuses(kInvalid, "rows.shape[1]", [](Rows& r) { r.call.rows = r.call.rows.Cols(0, 8); });
  refuses(kInvalid, "rows.shape[0]", [](Rows& r) { r.call.rows.rows = 1 << 20; });
  refuses(kInvalid, "experts_per_row", [](Rows& r) { r.call.rows.rows = 3; });
  refuses(kInvalid, "experts[7]: -5", [](Rows& r) { r.experts[7] = -5; });
  refuses(kInvalid, "experts[7]: 32 of a model with 32 experts", [](Rows& r) { r.experts[7] = 32; });
  refuses(kInvalid, "rows.dtype: BF16", [](Rows& r) {
    r.rows = MatBuffer(DType::kBF16, 4, r.rows.view().cols);
    r.out = MatBuffer(DType::kBF16, 8, r.rows.view().cols);
    r.call.rows = r.rows.view();
  });
  refuses(kInvalid, "out: ", [](Rows& r) { r.out = MatBuffer(DType::kF32, 7, r.rows.view().cols); });
  refuses(kPrecondition, "experts[7]: layer 3 expert 9 is not held here; held of layer 3: 0-7",
          [](Rows& r) { r.experts[7] = 9; });
  refuses(kPrecondition, "placement_epoch: 7", [](Rows& r) { r.call.placement_epoch = 7; });
  refuses(kInvalid, "rows.data: row 2 holds a value that is not finite",
          [](Rows& r) { r.rows.view().Row<float>(2)[1] = std::numeric_limits<float>::quiet_NaN(); });
  refuses(absl::StatusCode::kDeadlineExceeded, "the call's turn",
          [](Rows& r) { r.call.deadline = absl::Now() - absl::Seconds(1); });

  Rows good(Compute::kF32, 4, 0, 8, 2);
  EXPECT_TRUE(shard->Run(good.call, good.out.view()).ok());
}

TEST(ExpertShard, AShardWithoutExpertsAnswersEmptyCalls) {
  const auto shard = NewShard(0, 40);
  ASSERT_EQ(shard->store().experts(), 0);
  Rows rows(Compute::kF32, 0, 0, 8, 2);
  EXPECT_TRUE(shard->Run(rows.call, rows.out.view()).ok());
}

TEST(ExpertShard, TakesOverExpertsWithTheSameBitsAndAnotherEpoch) {
  ExpertShardOptions options;
  options.kernels = &KernelsFor(Compute::kF32);
  options.shard_count = 4;
  options.load = true;
  const auto metrics = Metrics::Create();
  options.metrics = metrics.get();
  options.per_expert_metrics = true;
  const auto shard = *ExpertShard::Create(options, DemoModel());
  Rows rows(Compute::kF32, 5, 20, 8, 3);  // experts 20-27; it holds 0-7
  EXPECT_EQ(shard->Run(rows.call, rows.out.view()).code(), absl::StatusCode::kFailedPrecondition);
  std::vector<LayerHolding> wanted = {{LayerId{3}, {}}};
  for (int expert = 20; expert < 28; ++expert) wanted[0].experts.push_back(ExpertId{expert});
  const auto description = shard->LoadExperts(wanted);
  ASSERT_TRUE(description.ok()) << description.status();
  EXPECT_EQ(description->placement_epoch, kStaticPlacementEpoch + 1);
  EXPECT_EQ(FormatExperts(description->holdings[2].experts), "0-7, 20-27");
  EXPECT_EQ(shard->Run(rows.call, rows.out.view()).code(), absl::StatusCode::kFailedPrecondition) << "a stale epoch";
  rows.call.placement_epoch = description->placement_epoch;
  ASSERT_EQ(shard->Run(rows.call, rows.out.view()), absl::OkStatus());
  EXPECT_TRUE(SameBytes(rows.out, Expected(Compute::kF32, rows)));
  EXPECT_THAT(metrics->Text(), HasSubstr("conclave_expert_tokens_total{expert=\"21\",layer=\"3\"}"));
  EXPECT_THAT(metrics->Text(), HasSubstr("conclave_expert_held 64"));
  EXPECT_EQ(shard->LoadExperts(wanted)->placement_epoch, description->placement_epoch) << "nothing new";
}

TEST(ExpertShard, TakesNoMoreThanItsMemoryAllows) {
  ExpertShardOptions options;
  options.kernels = &KernelsFor(Compute::kF32);
  options.shard_count = 4;
  options.expert_bytes_max = 1000;
  EXPECT_EQ(ExpertShard::Create(options, DemoModel()).status().code(), absl::StatusCode::kResourceExhausted);
  options.expert_bytes_max = NewShard(0, 4)->store().stored_bytes();
  const auto shard = *ExpertShard::Create(options, DemoModel());
  const auto refused = shard->LoadExperts(std::vector<LayerHolding>{{LayerId{3}, {ExpertId{20}}}});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("expert-0: experts: 1 more"));
  EXPECT_EQ(shard->Describe().placement_epoch, kStaticPlacementEpoch);
}

std::vector<LayerHolding> Experts(int layer, std::vector<int32_t> ids) {
  LayerHolding holding{LayerId{layer}, {}};
  for (const int32_t id : ids) holding.experts.push_back(ExpertId{id});
  return {holding};
}

TEST(ExpertShard, LetsExpertsGoAndTakesThemBack) {
  const auto shard = NewShard(0, 4);  // holds 0-7
  const ShardDescription before = shard->Describe();
  const auto after = shard->UnloadExperts(Experts(3, {1, 5}), before.revision);
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_EQ(FormatExperts(after->holdings[2].experts), "0, 2-4, 6-7");
  EXPECT_EQ(after->placement_epoch, before.placement_epoch + 1);
  EXPECT_LT(after->expert_bytes, before.expert_bytes);
  Rows rows(Compute::kF32, 2, 1, 1, 1);  // expert 1
  EXPECT_EQ(shard->Run(rows.call, rows.out.view()).code(), absl::StatusCode::kFailedPrecondition) << "a stale epoch";
  rows.call.placement_epoch = after->placement_epoch;
  const absl::Status gone = shard->Run(rows.call, rows.out.view());
  EXPECT_EQ(gone.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(gone.message()), HasSubstr("layer 3 expert 1 is not held here; held of layer 3: 0, 2-4"));
  ASSERT_TRUE(shard->PrepareExperts(Experts(3, {1})).ok());
  const auto back = shard->LoadExperts(Experts(3, {1}));
  ASSERT_TRUE(back.ok()) << back.status();
  rows.call.placement_epoch = back->placement_epoch;
  ASSERT_EQ(shard->Run(rows.call, rows.out.view()), absl::OkStatus());
  EXPECT_TRUE(SameBytes(rows.out, Expected(Compute::kF32, rows)));
}

// Two who move experts, each of whom relies on the shard that the other one takes the expert from: whatever the order
// of their messages, one copy stays.
TEST(ExpertShard, TwoWhoMoveTheSameExpertCannotLoseIt) {
  // What each does: describe both, keep there, unload here. Every interleaving of the two.
  for (int order = 0; order < 64; ++order) {
    if (__builtin_popcount(static_cast<unsigned>(order)) != 3) continue;
    const auto a = NewShard(0, 4), b = NewShard(0, 4);
    ExpertShard* const shards[] = {a.get(), b.get()};
    struct Mover {
      int step = 0;
      bool failed = false;
      uint64_t revision[2] = {0, 0};
    } movers[2];
    for (int turn = 0; turn < 6; ++turn) {
      const int who = order >> turn & 1;
      Mover& mover = movers[who];
      const int from = who, keeper = 1 - who;
      if (mover.failed) continue;
      if (mover.step == 0) {
        for (int i = 0; i < 2; ++i) mover.revision[i] = shards[i]->Describe().revision;
      } else if (mover.step == 1) {
        mover.failed = !shards[keeper]->KeepExperts(Experts(3, {2}), mover.revision[keeper]).ok();
      } else {
        mover.failed = !shards[from]->UnloadExperts(Experts(3, {2}), mover.revision[from]).ok();
      }
      ++mover.step;
    }
    EXPECT_TRUE(a->store().Find(LayerId{3}, ExpertId{2}) != nullptr ||
                b->store().Find(LayerId{3}, ExpertId{2}) != nullptr)
        << "order " << order;
  }
}

TEST(ExpertShard, KeepsAndUnloadsOnlyWhatItHoldsAtTheRevisionNamed) {
  const auto shard = NewShard(0, 4);
  const uint64_t revision = shard->Describe().revision;
  EXPECT_EQ(shard->KeepExperts(Experts(3, {9}), revision).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(shard->UnloadExperts(Experts(3, {2, 9}), revision).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(shard->UnloadExperts(Experts(0, {2}), revision).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(shard->UnloadExperts(Experts(3, {99}), revision).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(shard->UnloadExperts(Experts(3, {2}), revision + 1).status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(FormatExperts(shard->Describe().holdings[2].experts), "0-7") << "a refusal changes nothing";
  const auto kept = shard->KeepExperts(Experts(3, {2}), revision);
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_NE(kept->revision, revision);
  EXPECT_EQ(kept->placement_epoch, kStaticPlacementEpoch) << "routers need not notice";
  EXPECT_NE(NewShard(0, 4)->Describe().revision, revision) << "another process, another revision";
}

TEST(ExpertShard, CountsTheTokensOfEachExpert) {
  const auto shard = NewShard(0, 4);
  Rows rows(Compute::kF32, 5, 0, 8, 3);
  ASSERT_TRUE(shard->Run(rows.call, rows.out.view()).ok());
  const std::vector<LayerTokens> tokens = shard->Tokens();
  ASSERT_EQ(tokens.size(), 7u);
  uint64_t sum = 0;
  for (const uint64_t count : tokens[2].tokens) sum += count;
  EXPECT_EQ(tokens[2].layer, LayerId{3});
  EXPECT_EQ(sum, 15u);
}

TEST(ExpertShard, LoadsWhileItServes) {
  const auto shard = NewShard(0, 4);
  std::thread loading([&] {
    for (int expert = 8; expert < 32; ++expert) {
      EXPECT_TRUE(shard->LoadExperts(std::vector<LayerHolding>{{LayerId{3}, {ExpertId{expert}}}}).ok());
    }
  });
  for (uint32_t i = 0; i < 50; ++i) {
    Rows rows(Compute::kF32, 2, 0, 8, 2, i);
    rows.call.placement_epoch = shard->Describe().placement_epoch;
    const absl::Status status = shard->Run(rows.call, rows.out.view());
    if (absl::IsFailedPrecondition(status)) continue;  // the epoch grew between the two lines
    ASSERT_EQ(status, absl::OkStatus());
    EXPECT_TRUE(SameBytes(rows.out, Expected(Compute::kF32, rows)));
  }
  loading.join();
  EXPECT_EQ(FormatExperts(shard->Describe().holdings[2].experts), "0-31");
}

TEST(ExpertShard, ManyCallersGetTheirOwnAnswers) {
  const auto shard = NewShard(0, 1, Compute::kF32, 2);
  std::vector<std::thread> callers;
  for (uint32_t caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      for (uint32_t i = 0; i < 8; ++i) {
        Rows rows(Compute::kF32, 1 + i, 0, 32, 4, caller * 100 + i);
        EXPECT_TRUE(shard->Run(rows.call, rows.out.view()).ok());
        EXPECT_TRUE(SameBytes(rows.out, Expected(Compute::kF32, rows)));
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

TEST(ExpertShard, CountsTokensByLayerAndExpert) {
  const auto metrics = Metrics::Create();
  const auto shard = NewShard(0, 4, Compute::kF32, 1, metrics.get());
  Rows rows(Compute::kF32, 5, 2, 3, 3);  // five rows, each to the experts 2, 3 and 4
  ASSERT_TRUE(shard->Run(rows.call, rows.out.view()).ok());
  rows.call.layer = LayerId{-1};
  ASSERT_FALSE(shard->Run(rows.call, rows.out.view()).ok());
  const std::string text = metrics->Text();
  EXPECT_THAT(text, HasSubstr("conclave_expert_layer_tokens_total{layer=\"3\"} 15"));
  EXPECT_THAT(text, HasSubstr("conclave_expert_tokens_total{expert=\"3\",layer=\"3\"} 5"));
  EXPECT_THAT(text, HasSubstr("conclave_expert_tokens_total{expert=\"5\",layer=\"3\"} 0"));
  EXPECT_THAT(text, Not(HasSubstr("expert=\"8\"")));
  EXPECT_THAT(text, HasSubstr("conclave_expert_rows_total 5"));
  EXPECT_THAT(text, HasSubstr("conclave_expert_calls_total{code=\"ok\"} 1"));
  EXPECT_THAT(text, HasSubstr("conclave_expert_calls_total{code=\"invalid_argument\"} 1"));
  EXPECT_THAT(text, HasSubstr("conclave_expert_held 56"));
}

TEST(ExpertShard, AnswersDataLossWhenTheCheckpointIsCutShort) {
  const std::filesystem::path copy = std::filesystem::path(TestFolder()) / "cut_model";
  std::filesystem::create_directories(copy);
  for (const char* name : {"config.json", "generation_config.json", "model.safetensors"}) {
    std::filesystem::copy_file(std::filesystem::path(DemoModelDirectory()) / name, copy / name,
                               std::filesystem::copy_options::overwrite_existing);
    std::filesystem::permissions(copy / name, std::filesystem::perms::owner_all);
  }
  const auto model = Checkpoint::Open(copy.string());
  ASSERT_TRUE(model.ok()) << model.status();
  const auto shard = NewShard(0, 2, Compute::kF32, 1, nullptr, **model);
  Rows rows(Compute::kF32, 4, 0, 16, 2);
  ASSERT_TRUE(shard->Run(rows.call, rows.out.view()).ok());
  std::filesystem::resize_file(copy / "model.safetensors", 1 << 20);
  const absl::Status status = shard->Run(rows.call, rows.out.view());
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.safetensors"));
}

TEST(ExpertShard, RefusesAnImpossibleNumberOfThreads) {
  ExpertShardOptions options;
  options.kernels = &KernelsFor(Compute::kF32);
  options.threads.threads = 0;
  EXPECT_THAT(std::string(ExpertShard::Create(options, DemoModel()).status().message()), HasSubstr("threads: 0"));
}

}  // namespace
}  // namespace conclave
