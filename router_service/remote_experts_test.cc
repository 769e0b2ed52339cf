#include "router_service/remote_experts.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/kernels/accelerator/pinned_memory.h"
#include "moe/tensor/buffer.h"
#include "moe/transport/fake_expert_handler.h"
#include "router_service/remote_experts_testing.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

// A shard hangs for so long from now on. Goes when that time is over.
class HungFor {
 public:
  HungFor(FakeExpertHandler& shard, absl::Duration time) {
    shard.Hang();
    reviver_ = std::thread([&shard, time] {
      absl::SleepFor(time);
      shard.Resume();
    });
  }
  ~HungFor() { reviver_.join(); }

 private:
  std::thread reviver_;
};

class OverShards : public RemoteExpertsTest, public testing::WithParamInterface<int> {};
INSTANTIATE_TEST_SUITE_P(Counts, OverShards, testing::Values(1, 2, 3, 5, 8, 20));

TEST_P(OverShards, EveryPairGetsItsOwnExpertsRow) {
  for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
    StartAgain(GetParam(), 1, compute);
    Connect();
    for (const int rows : {1, 2, 33, 512}) {
      EXPECT_EQ(RunOnce(Rows(rows, 7 + rows), LayerId{rows % 2 + 1}), absl::OkStatus()) << rows << " rows";
    }
  }
}

TEST_F(RemoteExpertsTest, TwoTicketsMayBeInFlightAndFinishInAnyOrder) {
  Start(3);
  Connect();
  const Rows a(9, 1), b(5, 2);
  MatBuffer out_a(DType::kF32, 9 * kTopK, kHidden), out_b(DType::kF32, 5 * kTopK, kHidden);
  const auto first = Begin(a, LayerId{1});
  const auto second = Begin(b, LayerId{2});
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(Begin(a, LayerId{1}).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(End(*second, out_b).ok());
  EXPECT_TRUE(End(*first, out_a).ok());
  EXPECT_TRUE(a.IsRight(out_a, LayerId{1}));
  EXPECT_TRUE(b.IsRight(out_b, LayerId{2}));
}

// Shards refuse such rows, and whoever came with them would be refused too.
TEST_F(RemoteExpertsTest, ARowThatIsNotFiniteIsNotSentAndItsNeighboursAreRight) {
  for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      StartAgain(2, 1, compute);
      Connect();
      const Rows good(5, 1);
      Rows rows(5, 1);
      rows.x.view().Row<float>(2)[kHidden - 1] = bad;
      MatBuffer out(pool_->row_dtype(), 5 * kTopK, kHidden);
      const auto ticket = Begin(rows);
      ASSERT_TRUE(ticket.ok()) << ticket.status();
      EXPECT_EQ(End(*ticket, out), absl::OkStatus());
      for (int64_t pair = 0; pair < 5 * kTopK; ++pair) {
        for (int64_t col = 0; col < kHidden; ++col) {
          const float got = LoadAsFloat(out.view().RowBytes(pair), out.view().dtype, col);
          const float in = good.x.view().Row<float>(pair / kTopK)[col];
          if (pair / kTopK == 2) {
            EXPECT_TRUE(std::isnan(got)) << got;
          } else {
            EXPECT_EQ(got, FakeExpertValue(in, LayerId{1}, rows.experts[pair]));
          }
        }
      }
      EXPECT_EQ(RunOnce(good), absl::OkStatus());
    }
  }
}

// On the host there always is some.
TEST_F(RemoteExpertsTest, WhereADeviceHasNoMemoryForASecondTryTheTicketWaitsAndSaysSo) {
  Start(3, 2);
  options_.rows_max = 6;
  options_.timeout = absl::Milliseconds(300);
  device_bytes_ = RemoteExperts::DeviceBytes(Spec(), DType::kF32, options_.rows_max, 3);
  Connect();
  if (pool_->row_device() == Device::kCpu) GTEST_SKIP() << "rows lie on the host";
  EXPECT_EQ(RunOnce(Rows(6, 1)), absl::OkStatus());
  Kill(1);
  const absl::Status status = RunOnce(Rows(6, 2));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("no room for"));
  EXPECT_EQ(RunOnce(Rows(6, 3)), absl::OkStatus()) << "it is known to be gone by now";
}

TEST_F(RemoteExpertsTest, RowsThatAreSentASecondTimeDoNotKeepTheirMemory) {
  Start(2, 2);
  Connect();
  if (on_device_ == nullptr) GTEST_SKIP() << "rows lie on the host";
  handlers_[1]->FailWith(absl::DataLossError("damaged on the way"));
  for (uint32_t seed = 0; seed < 2; ++seed) {
    on_device_->rows_stay.clear();
    EXPECT_EQ(RunOnce(Rows(6, seed)), absl::OkStatus());
    EXPECT_THAT(on_device_->rows_stay, testing::ElementsAre(true, true, false));
  }
}

// Freeing waits for all of a device's queues, and one of them may wait for a shard that hangs.
TEST_F(RemoteExpertsTest, MemoryOfASecondTryIsNotFreedWhileADeviceMayWaitForAShard) {
  Start(2, 2);
  Connect();
  if (on_device_ == nullptr) GTEST_SKIP() << "rows lie on the host";
  const int64_t before = device_->allocated_bytes();
  const auto run = [this, before](bool fails) {
    handlers_[1]->FailWith(fails ? absl::DataLossError("damaged on the way") : absl::OkStatus());
    EXPECT_EQ(RunOnce(Rows(6, 1)), absl::OkStatus());
    return device_->allocated_bytes() - before;
  };
  on_device_->may_free = false;
  const int64_t second_try = run(/*fails=*/true);
  EXPECT_GT(second_try, 0);
  EXPECT_EQ(run(/*fails=*/false), second_try) << "it was freed";
  EXPECT_EQ(run(/*fails=*/true), second_try) << "it was not used again";
  on_device_->may_free = true;
  EXPECT_EQ(run(/*fails=*/false), 0);
}

TEST_F(RemoteExpertsTest, RefusesRowsLayersAndExpertsBeyondItsSize) {
  Start(2);
  options_.rows_max = 4;
  Connect();
  EXPECT_EQ(RunOnce(Rows(5, 1)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(RunOnce(Rows(1, 1), LayerId{0}).code(), absl::StatusCode::kInvalidArgument);
  Rows rows(1, 1);
  rows.experts[kTopK - 1] = kExperts;
  EXPECT_EQ(RunOnce(rows).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(RunOnce(Rows(4, 1)), absl::OkStatus());
}

TEST_F(RemoteExpertsTest, NamesLayerAndExpertWhereNoHolderIsLeft) {
  Start(2);
  control_->SetFull();
  options_.timeout = absl::Seconds(1);
  Connect();
  Kill(1);  // the only holder of the experts 8-15
  Rows rows(1, 1);
  std::copy_n(std::vector<int32_t>{0, 1, 9, 11}.begin(), kTopK, rows.experts.begin());
  const absl::Status status = RunOnce(rows);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("layer 1 expert 9: no shard answered"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("shard 1 is gone"));
  Revive(1);
  absl::Status after = status;
  for (int i = 0; i < 20 && absl::IsUnavailable(after); ++i) after = RunOnce(rows);  // within its second, or the next
  EXPECT_EQ(after, absl::OkStatus()) << "it must serve on when the shard is back";
}

TEST_F(RemoteExpertsTest, AnExpertWithoutAHolderIsLoadedElsewhere) {
  Start(3);
  Connect();
  Kill(1);
  for (uint32_t seed = 0; seed < 10; ++seed) EXPECT_EQ(RunOnce(Rows(6, seed), LayerId{1}), absl::OkStatus());
  EXPECT_EQ(RunOnce(Rows(6, 1), LayerId{2}), absl::OkStatus());
  // What shard 1 held is spread over both others.
  EXPECT_GT(handlers_[0]->Describe().holdings[0].experts.size(), 6u);
  EXPECT_GT(handlers_[2]->Describe().holdings[0].experts.size(), 6u);
  EXPECT_EQ(handlers_[0]->Describe().placement_epoch, 6u) << "asked once";
  EXPECT_EQ(pool_->holdings()[0].holdings[0].experts, handlers_[0]->Describe().holdings[0].experts);
}

TEST_F(RemoteExpertsTest, AnExpertWhoseOnlyHolderFailsEveryCallIsLoadedElsewhere) {
  Start(3);
  Connect();
  handlers_[1]->FailWith(absl::DataLossError("damaged on the way"));  // and yet it tells what it holds
  for (uint32_t seed = 0; seed < 5; ++seed) EXPECT_EQ(RunOnce(Rows(6, seed)), absl::OkStatus());
  EXPECT_EQ(handlers_[0]->Describe().placement_epoch, 6u) << "asked once";
  handlers_[1]->FailWith(absl::OkStatus());
  for (uint32_t seed = 0; seed < 5; ++seed) EXPECT_EQ(RunOnce(Rows(6, seed)), absl::OkStatus());
}

TEST_F(RemoteExpertsTest, AHolderThatNobodyToldOfIsFoundWhenTheKnownOneFails) {
  Start(2);
  Connect();
  control_->SetFull();
  std::vector<LayerHolding> taken = {{LayerId{1}, {}}};
  for (int expert = kExperts / 2; expert < kExperts; ++expert) taken[0].experts.push_back(ExpertId{expert});
  ASSERT_TRUE(handlers_[0]->LoadExperts(taken).ok());  // on somebody else's word
  handlers_[1]->FailWith(absl::DataLossError("damaged on the way"));
  Rows rows(1, 1);
  std::copy_n(std::vector<int32_t>{9, 10, 11, 15}.begin(), kTopK, rows.experts.begin());
  EXPECT_EQ(RunOnce(rows), absl::OkStatus());
}

TEST_F(RemoteExpertsTest, WaitsForAShardToReturnWhenAllAreGone) {
  Start(2);
  Connect();
  Kill(0);
  Kill(1);
  std::thread reviver([&] {
    absl::SleepFor(absl::Milliseconds(100));
    control_->SetGone(ShardId{0}, false);
  });
  inproc_->Connect(ShardId{0}, handlers_[0].get());
  EXPECT_EQ(RunOnce(Rows(6, 1)), absl::OkStatus());
  reviver.join();
}

TEST_F(RemoteExpertsTest, StartsWithShardsThatHaveNotAnsweredYet) {
  Start(2);
  descriptions_[1] = ShardDescription{};
  descriptions_[1].name = "127.0.0.1:7001";
  Connect();
  EXPECT_EQ(RunOnce(Rows(6, 1)), absl::OkStatus());
  EXPECT_EQ(pool_->holdings()[1].name, "expert-1");
}

TEST_F(RemoteExpertsTest, AShardThatReturnsAsAnotherModelIsLeftOut) {
  Start(2, /*copies=*/2);
  Connect();
  Kill(1);
  EXPECT_EQ(RunOnce(Rows(6, 1)), absl::OkStatus());
  ShardDescription other = descriptions_[1];
  other.model_fingerprint = "other";
  handlers_[1] = std::make_unique<FakeExpertHandler>(other);
  Revive(1);
  const int runs = handlers_[1]->runs();
  for (uint32_t seed = 0; seed < 20; ++seed) {
    EXPECT_EQ(RunOnce(Rows(6, seed)), absl::OkStatus());
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_EQ(handlers_[1]->runs(), runs);
  EXPECT_FALSE(pool_->shard_figures()[1].healthy());
}

TEST_F(RemoteExpertsTest, AsksAnotherHolderWhenAShardIsGone) {
  Start(4, /*copies=*/2);
  Connect();
  for (int gone = 0; gone < 4; ++gone) {
    Kill(gone);
    for (uint32_t seed = 0; seed < 10; ++seed) EXPECT_EQ(RunOnce(Rows(6, seed)), absl::OkStatus());
    EXPECT_FALSE(pool_->shard_figures()[gone].healthy());
    EXPECT_EQ(handlers_[gone]->Describe().placement_epoch, 5u) << "nothing needed to be loaded";
    Revive(gone);
    for (int i = 0; i < 200 && !pool_->shard_figures()[gone].healthy(); ++i) {
      EXPECT_EQ(RunOnce(Rows(6, 1)), absl::OkStatus());
      absl::SleepFor(absl::Milliseconds(5));
    }
    EXPECT_TRUE(pool_->shard_figures()[gone].healthy()) << "it must be taken back";
  }
}

TEST_F(RemoteExpertsTest, AsksAnotherHolderWhenAShardHangsAndThenAvoidsIt) {
  Start(2, /*copies=*/2);
  options_.late_max = absl::Milliseconds(500);
  options_.hedge_share = 0;
  Connect();
  handlers_[0]->Hang();
  EXPECT_EQ(RunOnce(Rows(6, 1)), absl::OkStatus());
  const int runs = handlers_[0]->runs();
  for (uint32_t seed = 0; seed < 5; ++seed) EXPECT_EQ(RunOnce(Rows(6, seed)), absl::OkStatus());
  EXPECT_EQ(handlers_[0]->runs(), runs);
  EXPECT_EQ(pool_->shard_figures()[0].calls, 1u);
  EXPECT_EQ(pool_->shard_figures()[0].ejections, 1u);
}

TEST_F(RemoteExpertsTest, AsksASecondHolderBeforeTheDeadlineWithinItsBudget) {
  Start(2, /*copies=*/2);
  options_.late_min = options_.late_max = absl::Seconds(20);
  options_.hedge_share = 0.5;
  Connect();
  WarmUp();
  handlers_[0]->Hang();
  const absl::Time begin = Clock::Real()->Now();
  for (uint32_t seed = 0; seed < 5; ++seed) EXPECT_EQ(RunOnce(Rows(6, seed)), absl::OkStatus());
  EXPECT_LT(Clock::Real()->Now() - begin, absl::Seconds(10));
  const FailoverCounts& counts = pool_->counts();
  EXPECT_GT(counts.hedged_pairs, 0);
  EXPECT_LE(counts.hedged_pairs, counts.sent_pairs / 2);
  EXPECT_EQ(counts.resent_pairs, 0);
}

// On the host there always is some.
TEST_F(RemoteExpertsTest, WhereADeviceHasNoMemoryForASecondCopyTheLateShardIsWaitedFor) {
  Start(2, /*copies=*/2);
  options_.rows_max = 6;
  options_.late_min = options_.late_max = absl::Seconds(20);
  options_.hedge_share = 0.5;
  device_bytes_ = RemoteExperts::DeviceBytes(Spec(), DType::kF32, options_.rows_max, 2);
  Connect();
  if (pool_->row_device() == Device::kCpu) GTEST_SKIP() << "rows lie on the host";
  WarmUp();
  {
    const HungFor hung(*handlers_[0], absl::Milliseconds(200));
    EXPECT_EQ(RunOnce(Rows(6, 1)), absl::OkStatus());
  }
  EXPECT_EQ(pool_->counts().hedged_pairs, 0);
}

// On the host there always is some.
TEST_F(RemoteExpertsTest, ASecondCopyForWhichADeviceHadNoMemoryTakesNothingOfTheBudget) {
  Start(2, /*copies=*/2);
  options_.rows_max = 6;
  options_.late_min = options_.late_max = absl::Seconds(20);
  options_.hedge_share = 0.04;  // of 20 layers of 24 pairs: 19 pairs
  options_.outliers.slowness_max = 1e9;
  constexpr int64_t kRoom = 1 << 20;
  device_bytes_ = RemoteExperts::DeviceBytes(Spec(), DType::kF32, options_.rows_max, 2) + kRoom;
  Connect();
  if (pool_->row_device() == Device::kCpu) GTEST_SKIP() << "rows lie on the host";
  auto taken = AllocateDevicePiece(*device_, kRoom);
  ASSERT_TRUE(taken.ok()) << taken.status();
  WarmUp();
  {
    const HungFor hung(*handlers_[0], absl::Milliseconds(200));
    EXPECT_EQ(RunOnce(Rows(6, 1)), absl::OkStatus());
  }
  EXPECT_EQ(pool_->counts().hedged_pairs, 0);
  taken->reset();
  handlers_[1]->Hang();
  EXPECT_EQ(RunOnce(Rows(6, 2)), absl::OkStatus());
  EXPECT_GT(pool_->counts().hedged_pairs, 10);
}

TEST_F(RemoteExpertsTest, EndsWithinItsTimeoutWhenEveryHolderHangs) {
  Start(2, /*copies=*/2);
  options_.late_min = options_.late_max = absl::Milliseconds(50);
  options_.timeout = absl::Milliseconds(80);
  Connect();
  handlers_[0]->Hang();
  handlers_[1]->Hang();
  const absl::Time begin = Clock::Real()->Now();
  const absl::Status status = RunOnce(Rows(6, 1));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_LT(Clock::Real()->Now() - begin, absl::Seconds(5));
}

TEST_F(RemoteExpertsTest, GivesUpAtTheStepsDeadline) {
  Start(1);
  Connect();
  Kill(0);
  pool_->SetDeadline(Clock::Real()->Now() + absl::Milliseconds(60), absl::InfiniteFuture());
  const absl::Time begin = Clock::Real()->Now();
  EXPECT_EQ(RunOnce(Rows(6, 1)).code(), absl::StatusCode::kUnavailable);
  EXPECT_LT(Clock::Real()->Now() - begin, absl::Seconds(5));
  pool_->SetDeadline(absl::InfiniteFuture(), absl::InfiniteFuture());
  Revive(0);
  EXPECT_EQ(RunOnce(Rows(6, 1)), absl::OkStatus());
}

TEST_F(RemoteExpertsTest, ARequestInAHurryIsNoFaultOfAShard) {
  Start(2, /*copies=*/2);
  Connect();
  handlers_[0]->Hang();
  handlers_[1]->Hang();
  for (uint32_t seed = 0; seed < 10; ++seed) {
    pool_->SetDeadline(Clock::Real()->Now() + absl::Milliseconds(2), absl::InfiniteFuture());
    EXPECT_EQ(RunOnce(Rows(6, seed)).code(), absl::StatusCode::kDeadlineExceeded);
  }
  for (const ShardFigures& shard : pool_->shard_figures()) {
    EXPECT_EQ(shard.failures, 0u);
    EXPECT_EQ(shard.ejections, 0u);
  }
}

TEST_F(RemoteExpertsTest, AStepMayBeAbandonedOnlyWhileNobodyComputesItsRows) {
  Start(1);
  Connect();
  std::atomic<int> asked{0};
  pool_->AskWhileStalled([&asked] { return ++asked > 2; });
  EXPECT_EQ(RunOnce(Rows(6, 1)), absl::OkStatus());
  EXPECT_EQ(asked, 0);
  Kill(0);
  const absl::Time begin = Clock::Real()->Now();
  EXPECT_EQ(RunOnce(Rows(6, 1)).code(), absl::StatusCode::kCancelled);
  EXPECT_LT(Clock::Real()->Now() - begin, absl::Seconds(5));
  EXPECT_EQ(asked, 3);
  asked = std::numeric_limits<int>::min();  // what waits for the connection now waits on
  Revive(0);
  EXPECT_EQ(RunOnce(Rows(6, 1)), absl::OkStatus());
}

TEST_F(RemoteExpertsTest, AStepThatIsTriedAgainWaitsNoLonger) {
  Start(1);
  options_.timeout = absl::Seconds(30);
  Connect();
  Kill(0);
  pool_->SetDeadline(absl::InfiniteFuture(), Clock::Real()->Now() - absl::Seconds(30));
  const absl::Time begin = Clock::Real()->Now();
  EXPECT_EQ(RunOnce(Rows(6, 1)).code(), absl::StatusCode::kUnavailable);
  EXPECT_LT(Clock::Real()->Now() - begin, absl::Seconds(10));
}

TEST_F(RemoteExpertsTest, ARefusalThatNoOtherHolderCanHealIsAnInternalError) {
  Start(2, /*copies=*/2);
  Connect();
  handlers_[0]->FailWith(absl::InvalidArgumentError("expert-0: rows.dtype"));
  handlers_[1]->FailWith(absl::InvalidArgumentError("expert-1: rows.dtype"));
  const absl::Status status = RunOnce(Rows(6, 1));
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("rows.dtype"));
}

TEST_F(RemoteExpertsTest, CountsWhatItsShardsDid) {
  Start(2);
  const auto metrics = Metrics::Create();
  options_.metrics = metrics.get();
  Connect();
  ASSERT_EQ(RunOnce(Rows(64, 1)), absl::OkStatus());
  const std::vector<ShardFigures> figures = pool_->shard_figures();
  ASSERT_EQ(figures.size(), 2u);
  EXPECT_EQ(figures[1].name, "expert-1");
  EXPECT_EQ(figures[1].calls, 1u);
  EXPECT_GT(figures[1].rows, 32u);
  EXPECT_GT(figures[1].latency_recent, absl::ZeroDuration());
  EXPECT_THAT(metrics->Text(), HasSubstr("conclave_router_shard_call_seconds_count{shard=\"expert-1\"} 1"));
}

TEST_F(RemoteExpertsTest, RefusesAPoolThatDoesNotFit) {
  Start(2);
  const std::vector<ShardDescription> good = descriptions_;
  const auto refuses = [&](absl::StatusCode code, const std::string& names, auto change) {
    descriptions_ = good;
    change(descriptions_[1]);
    const absl::Status status = Refusal();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(names));
  };
  constexpr auto kPrecondition = absl::StatusCode::kFailedPrecondition;
  refuses(kPrecondition, "expert shard expert-1 serves the model other",
          [](auto& d) { d.model_fingerprint = "other"; });
  refuses(kPrecondition, "expert-1 has the hidden size 9, this router 8", [](auto& d) { d.hidden = 9; });
  refuses(kPrecondition, "expert-1 takes rows of BF16, this router F32", [](auto& d) { d.row_dtype = DType::kBF16; });
  refuses(kPrecondition, "numeric profile other", [](auto& d) { d.numeric_profile = "other"; });
  options_.control = nullptr;
  refuses(absl::StatusCode::kUnavailable, "layer 1 expert 8", [](auto& d) { d.holdings.erase(d.holdings.begin()); });
  options_.allow_mixed_numerics = true;
  descriptions_ = good;
  descriptions_[1].numeric_profile = "other";
  EXPECT_TRUE(Refusal().ok()) << "mixed numerics were allowed";
  descriptions_.pop_back();
  EXPECT_EQ(Refusal().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(RemoteExpertsTest, RefusesOptionsOutOfRange) {
  Start(1);
  options_.rows_max = 0;
  EXPECT_THAT(std::string(Refusal().message()), HasSubstr("rows_max: 0"));
  options_.rows_max = 1 << 20;
  EXPECT_THAT(std::string(Refusal().message()), HasSubstr("rows_max"));
  options_.rows_max = 1;
  options_.timeout = absl::ZeroDuration();
  EXPECT_THAT(std::string(Refusal().message()), HasSubstr("timeout"));
  options_.timeout = absl::Seconds(1);
  options_.late_max = options_.late_min / 2;
  EXPECT_THAT(std::string(Refusal().message()), HasSubstr("late_max"));
  options_.late_max = options_.late_min;
  options_.hedge_share = 1.5;
  EXPECT_THAT(std::string(Refusal().message()), HasSubstr("hedge_share"));
}

}  // namespace
}  // namespace conclave
