#include "placement_service/controller.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/clock.h"
#include "moe/metrics/metrics.h"
#include "placement_service/fake_shards.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;
using Call = FakeShards::Call;
using Fate = FakeShards::Fate;

constexpr int kLayers = 2, kExperts = 32;

// A domain as the demo model sees one: four experts of a layer get most of its tokens.
std::vector<double> Skewed(int hot) {
  std::vector<double> tokens(kExperts, 100);
  for (int i = 0; i < 4; ++i) tokens[static_cast<size_t>((hot + i) % kExperts)] = 4000;
  return tokens;
}

// A shard that says something else than is so.
class LyingShard final : public HoldingsControl {
 public:
  using Lie = std::function<void(ShardState& state)>;
  LyingShard(std::unique_ptr<HoldingsControl> real, Lie lie) : real_(std::move(real)), lie_(std::move(lie)) {}
  absl::StatusOr<ShardState> Describe(absl::Duration timeout) override {
    absl::StatusOr<ShardState> state = real_->Describe(timeout);
    if (state.ok()) lie_(*state);
    return state;
  }
  absl::StatusOr<ShardDescription> LoadExperts(absl::Span<const LayerHolding> experts, absl::Duration t) override {
    return real_->LoadExperts(experts, t);
  }
  absl::StatusOr<ShardDescription> KeepExperts(absl::Span<const LayerHolding> experts, uint64_t revision,
                                               absl::Duration t) override {
    return real_->KeepExperts(experts, revision, t);
  }
  absl::StatusOr<ShardDescription> UnloadExperts(absl::Span<const LayerHolding> experts, uint64_t revision,
                                                 absl::Duration t) override {
    return real_->UnloadExperts(experts, revision, t);
  }

 private:
  const std::unique_ptr<HoldingsControl> real_;
  const Lie lie_;
};

class ControllerTest : public testing::Test {
 protected:
  std::unique_ptr<Controller> New(FakeShards::Fates fates = nullptr) {
    options_.clock = &clock_;
    options_.half_life = absl::Seconds(5);
    return std::make_unique<Controller>(options_, [this, fates](const std::string& address) {
      return shards_->Connect(address, fates);
    });
  }
  RoundReport Round(Controller& controller) {
    clock_.Advance(absl::Seconds(10));
    return controller.Round(shards_->addresses());
  }
  void Serve(int hot = 0) {
    shards_->Reset();
    for (int layer = 1; layer <= kLayers; ++layer) shards_->Serve(layer, Skewed(hot + layer));
  }
  // Rounds under load until one finds nothing worth a move.
  void Settle(Controller& controller, int hot = 0) {
    for (int round = 0; round < 30; ++round) {
      Serve(hot);
      if (Round(controller).outcome == RoundOutcome::kBalanced && round > 0) return;
    }
    FAIL() << "30 rounds, and still something moves";
  }
  void ExpectComplete() const {
    for (int layer = 1; layer <= kLayers; ++layer) {
      for (int expert = 0; expert < kExperts; ++expert) {
        EXPECT_FALSE(shards_->HoldersOf(layer, expert).empty()) << "layer " << layer << " expert " << expert;
      }
    }
  }

  FakeClock clock_;
  ControllerOptions options_;
  std::unique_ptr<FakeShards> shards_ = std::make_unique<FakeShards>(4, kLayers, kExperts, /*spare=*/2);
};

TEST_F(ControllerTest, EvensOutASkewedLoadAndThenRests) {
  const auto controller = New();
  Serve();
  const double before = shards_->Imbalance();
  EXPECT_GT(before, 2.5);
  Settle(*controller);
  Serve();
  EXPECT_LT(shards_->Imbalance(), 1.2);
  const int loads = shards_->calls(Call::kLoad);
  for (int round = 0; round < 3; ++round) {
    Serve();
    EXPECT_EQ(Round(*controller).outcome, RoundOutcome::kBalanced);
  }
  EXPECT_EQ(shards_->calls(Call::kLoad), loads);
  ExpectComplete();
}

TEST_F(ControllerTest, FollowsALoadThatChangesBeyondTheRoomForCopies) {
  const auto controller = New();
  for (const int hot : {0, 9, 20, 3}) {
    Settle(*controller, hot);
    Serve(hot);
    EXPECT_LT(shards_->Imbalance(), 1.3) << hot;
    ExpectComplete();
  }
  EXPECT_GT(shards_->calls(Call::kUnload), 0) << "the spare slots were full";
  EXPECT_EQ(shards_->lost(), 0);
  for (int shard = 0; shard < 4; ++shard) EXPECT_LE(shards_->Held(shard), kLayers * (kExperts / 4 + 2));
}

TEST_F(ControllerTest, ADryRunChangesNothing) {
  options_.dry_run = true;
  const auto controller = New();
  Round(*controller);
  Serve();
  const RoundReport report = Round(*controller);
  EXPECT_EQ(report.outcome, RoundOutcome::kPlanned);
  EXPECT_FALSE(report.plan.moves.empty());
  EXPECT_LT(report.plan.planned, report.plan.measured);
  EXPECT_EQ(shards_->calls(Call::kLoad) + shards_->calls(Call::kKeep) + shards_->calls(Call::kUnload), 0);
}

TEST_F(ControllerTest, OnceGoesByWhatShardsCountedSinceTheyStarted) {
  options_.once = true;
  Serve();
  EXPECT_EQ(Round(*New()).outcome, RoundOutcome::kMoved);
}

TEST_F(ControllerTest, MovesNoMoreInARoundThanItMay) {
  options_.plan.moves_max = 1;
  const auto controller = New();
  Round(*controller);
  Serve();
  const RoundReport report = Round(*controller);
  EXPECT_EQ(report.loaded, 1);
  EXPECT_GT(report.plan.moves_left, 0);
}

TEST_F(ControllerTest, LoadsNoMoreBytesThanItMayInTheLongRun) {
  options_.plan.moves_max = 2;
  options_.bytes_per_second = FakeShards::kExpertBytes / 20;  // an expert every other round
  const auto controller = New();
  Round(*controller);
  std::vector<int> loaded;
  for (int round = 0; round < 5; ++round) {
    Serve();
    loaded.push_back(Round(*controller).loaded);
  }
  EXPECT_EQ(loaded, (std::vector<int>{2, 0, 1, 0, 1})) << "a full allowance, then one expert in 20 s";
}

// Whatever a shard answers, or whether it does, it may be reading from its disk.
TEST_F(ControllerTest, LoadsWithoutAnAnswerCountAsBytesLoaded) {
  options_.plan.moves_max = 2;
  options_.bytes_per_second = FakeShards::kExpertBytes / 20;
  const auto controller = New([](Call call, int) { return call == Call::kLoad ? Fate::kUnheard : Fate::kDone; });
  Round(*controller);
  for (int round = 0; round < 5; ++round) {
    Serve();
    Round(*controller);
  }
  int held = 0;
  for (int shard = 0; shard < 4; ++shard) held += shards_->Held(shard);
  EXPECT_EQ(held, kLayers * kExperts + 4) << "as with answers";
}

TEST_F(ControllerTest, WaitsUntilEveryExpertHasAHolder) {
  shards_->Die(2);
  const auto controller = New();
  Round(*controller);
  Serve();
  const RoundReport report = Round(*controller);
  EXPECT_EQ(report.outcome, RoundOutcome::kWaiting);
  EXPECT_THAT(report.why, HasSubstr("16 experts have no holder yet"));
  shards_->ComeBack(2);
  Settle(*controller);
}

// The spare room is full of copies when a shard dies: they make room for what it alone held.
TEST_F(ControllerTest, CopiesMakeRoomForWhatADeadShardHeld) {
  shards_ = std::make_unique<FakeShards>(4, kLayers, kExperts, /*spare=*/3);
  const auto controller = New();
  for (int layer = 1; layer <= kLayers; ++layer) {
    for (int shard = 0; shard < 3; ++shard) {
      for (int copy = 0; copy < 3; ++copy) shards_->Hold(shard, layer, (shard * 8 + 8 + copy) % 24);
    }
  }
  Round(*controller);
  shards_->Die(3);
  EXPECT_EQ(Round(*controller).outcome, RoundOutcome::kMoved);
  ExpectComplete();
  EXPECT_GT(shards_->calls(Call::kUnload), 0);
  EXPECT_EQ(shards_->lost(), 0);
}

TEST_F(ControllerTest, AShardThatComesOrGoesIsWaitedFor) {
  shards_ = std::make_unique<FakeShards>(4, kLayers, kExperts, 2, /*copies=*/2);
  const auto controller = New();
  Round(*controller);
  Serve();
  shards_->Die(1);
  EXPECT_EQ(Round(*controller).outcome, RoundOutcome::kWaiting);
  EXPECT_NE(Round(*controller).outcome, RoundOutcome::kWaiting);
}

TEST_F(ControllerTest, AFullShardIsNotAskedAgainAtOnce) {
  const auto controller = New([](Call, int) { return Fate::kDone; });
  Round(*controller);
  for (int shard = 0; shard < 4; ++shard) shards_->SetLimit(shard, kLayers * kExperts);
  Serve();
  options_.plan.moves_max = 64;
  // It says that it has room, and has none.
  const auto lying = std::make_unique<Controller>(options_, [this](const std::string& address) {
    struct Full final : HoldingsControl {
      explicit Full(std::unique_ptr<HoldingsControl> real) : inner(std::move(real)) {}
      absl::StatusOr<ShardState> Describe(absl::Duration t) override { return inner->Describe(t); }
      absl::StatusOr<ShardDescription> LoadExperts(absl::Span<const LayerHolding>, absl::Duration) override {
        return absl::ResourceExhaustedError("the device is full");
      }
      absl::StatusOr<ShardDescription> KeepExperts(absl::Span<const LayerHolding> e, uint64_t r,
                                                   absl::Duration t) override {
        return inner->KeepExperts(e, r, t);
      }
      absl::StatusOr<ShardDescription> UnloadExperts(absl::Span<const LayerHolding> e, uint64_t r,
                                                     absl::Duration t) override {
        return inner->UnloadExperts(e, r, t);
      }
      std::unique_ptr<HoldingsControl> inner;
    };
    return std::make_unique<Full>(shards_->Connect(address));
  });
  Round(*lying);
  Serve();
  const RoundReport refused = Round(*lying);
  EXPECT_EQ(refused.outcome, RoundOutcome::kFailed);
  EXPECT_THAT(refused.why, HasSubstr("the device is full"));
  std::set<int32_t> asked;
  for (const PoolMove& move : refused.plan.moves) asked.insert(move.to);
  Serve();
  for (const PoolMove& move : Round(*lying).plan.moves) EXPECT_EQ(asked.count(move.to), 0u) << move.to;
}

TEST_F(ControllerTest, AShardThatDiesWhileItLoadsIsPlannedAroundAndTakenBack) {
  shards_ = std::make_unique<FakeShards>(4, kLayers, kExperts, 3, /*copies=*/2);
  bool armed = true;
  const auto controller = New([&](Call call, int shard) {
    if (call != Call::kLoad || !armed) return Fate::kDone;
    armed = false;
    shards_->Die(shard);
    return Fate::kDone;
  });
  options_.plan.moves_max = 1;
  Round(*controller);
  for (int round = 0; round < 6; ++round) {
    Serve();
    Round(*controller);
  }
  ASSERT_FALSE(armed);
  ExpectComplete();
  for (int shard = 0; shard < 4; ++shard) shards_->ComeBack(shard);
  Settle(*controller);
  Serve();
  EXPECT_LT(shards_->Imbalance(), 1.3);
}

// The process dies at one of its calls, before or after the shard has done it; the next one goes on from there.
TEST_F(ControllerTest, MayDieAtAnyMomentAndTheNextOneGoesOn) {
  for (const Fate last : {Fate::kRefused, Fate::kUnheard}) {
    for (int lives = 1; lives < 60; lives += 4) {
      shards_ = std::make_unique<FakeShards>(4, kLayers, kExperts, 1);
      {
        const auto first = New();
        Settle(*first, 0);  // the spare room is full now
      }
      int left = 12 + lives;  // calls, of which a round's questions are four
      const auto mortal = New([&](Call call, int) {
        if (call != Call::kDescribe && --left == 12) return last;
        return left <= 12 ? Fate::kRefused : Fate::kDone;
      });
      for (int round = 0; round < 4; ++round) {
        Serve(12);
        Round(*mortal);
      }
      EXPECT_EQ(shards_->lost(), 0) << lives;
      ExpectComplete();
      const auto next = New();
      Settle(*next, 12);
      EXPECT_EQ(shards_->lost(), 0) << lives;
      ExpectComplete();
    }
  }
}

// One does a whole round in the middle of a round of the other, at a random call, and the load changes; calls fail too.
TEST_F(ControllerTest, TwoAtOnceLoseNothing) {
  int yields = 0;
  for (uint32_t seed = 0; seed < 40; ++seed) {
    std::mt19937 random(seed);
    shards_ = std::make_unique<FakeShards>(3 + static_cast<int>(random() % 3), kLayers, kExperts,
                                           static_cast<int>(random() % 3));
    std::unique_ptr<Controller> controllers[2];
    int depth = 0;
    const auto fates = [&](int self) {
      return [&, self](Call call, int) {
        if (call != Call::kKeep && call != Call::kUnload) return Fate::kDone;
        if (depth == 0 && random() % 3 == 0) {
          ++depth;
          Serve(static_cast<int>(random() % kExperts));
          const RoundReport other = Round(*controllers[1 - self]);
          --depth;
          yields += other.outcome == RoundOutcome::kYielded;
        }
        const uint32_t fate = random() % 12;
        return fate == 0 ? Fate::kRefused : fate == 1 ? Fate::kUnheard : Fate::kDone;
      };
    };
    for (int i = 0; i < 2; ++i) controllers[i] = New(fates(i));
    for (int round = 0; round < 12; ++round) {
      Serve(static_cast<int>(random() % kExperts));
      yields += Round(*controllers[random() % 2]).outcome == RoundOutcome::kYielded;
      ASSERT_EQ(shards_->lost(), 0) << "seed " << seed;
    }
    ExpectComplete();
  }
  EXPECT_GT(yields, 3) << "the two hardly ever met";
}

TEST_F(ControllerTest, LetsAnExpertGoOnlyWhereAnotherHolderWasSeenTheRoundBefore) {
  shards_ = std::make_unique<FakeShards>(2, kLayers, kExperts, 1);
  shards_->SetLimit(1, kLayers * kExperts / 2);  // without a spare slot: it must let go to take more
  const auto controller = New();
  Round(*controller);
  for (int layer = 1; layer <= kLayers; ++layer) shards_->Hold(0, layer, 31);
  Serve(5);
  EXPECT_FALSE(Round(*controller).plan.moves.empty());
  EXPECT_EQ(shards_->calls(Call::kUnload), 0) << "shard 1 had the only copy a moment ago";
  Serve(5);
  Round(*controller);
  EXPECT_GT(shards_->calls(Call::kUnload), 0);
  EXPECT_EQ(shards_->lost(), 0);
}

TEST_F(ControllerTest, ShardsOfAnEarlierReleaseKeepWhatTheyHold) {
  for (int shard = 0; shard < 4; ++shard) shards_->MakeOld(shard);
  const auto controller = New();
  for (int round = 0; round < 3; ++round) {
    Serve();
    Round(*controller);
  }
  EXPECT_EQ(shards_->calls(Call::kLoad), 0);
}

// It cannot confirm that it keeps an expert, nor can it let one go: it is relied on as it is.
TEST_F(ControllerTest, AShardOfAnEarlierReleaseKeepsWhatAnotherLetsGo) {
  shards_ = std::make_unique<FakeShards>(2, kLayers, kExperts, 1);
  shards_->SetLimit(1, kLayers * kExperts / 2);  // without a spare slot: it must let go to take more
  shards_->MakeOld(0);
  for (int layer = 1; layer <= kLayers; ++layer) shards_->Hold(0, layer, 31);
  const auto controller = New();
  for (int round = 0; round < 3; ++round) {
    Serve(5);
    Round(*controller);
  }
  EXPECT_GT(shards_->calls(Call::kUnload), 0);
  EXPECT_EQ(shards_->calls(Call::kKeep), 0);
  EXPECT_EQ(shards_->lost(), 0);
  ExpectComplete();
}

TEST_F(ControllerTest, AShardThatFailsEveryChangeDoesNotKeepTheOthersFromMoving) {
  shards_ = std::make_unique<FakeShards>(4, kLayers, kExperts, 1);
  Settle(*New(), 0);  // the spare room is full now
  int broken = -1, failed = 0;
  const auto controller = New([&](Call call, int shard) {
    if (call != Call::kUnload || (broken >= 0 && shard != broken)) return Fate::kDone;
    broken = shard;  // the first that is asked
    ++failed;
    return Fate::kBroken;
  });
  int moved = 0;
  for (int round = 0; round < 6; ++round) {
    Serve(12);
    moved += Round(*controller).outcome == RoundOutcome::kMoved;
  }
  EXPECT_EQ(failed, 1) << "within a minute";
  EXPECT_GT(moved, 0);
  EXPECT_EQ(shards_->lost(), 0);
}

TEST_F(ControllerTest, AShardThatTalksNonsenseIsLeftAlone) {
  const auto with = [](std::vector<int32_t> experts) {
    return [experts](ShardState& state) {
      state.description.holdings[0].experts.clear();
      for (const int32_t expert : experts) state.description.holdings[0].experts.push_back(ExpertId{expert});
    };
  };
  const std::vector<LyingShard::Lie> lies = {
      with({1'000'000, 0}),
      with({std::numeric_limits<int32_t>::max()}),
      with({-1, 0}),
      with({3, 3}),
      [](ShardState& state) { state.description.holdings[1].layer = state.description.holdings[0].layer; },
      [](ShardState& state) { state.description.holdings[1].layer = LayerId{1'000'000}; },
      [](ShardState& state) { state.tokens.push_back({LayerId{77}, {1}}); },
  };
  for (size_t i = 0; i < lies.size(); ++i) {
    SCOPED_TRACE(i);
    shards_ = std::make_unique<FakeShards>(4, kLayers, kExperts, 2, /*copies=*/2);
    options_.clock = &clock_;
    Controller controller(options_, [&](const std::string& address) -> std::unique_ptr<HoldingsControl> {
      auto shard = shards_->Connect(address);
      if (address != "shard-0") return shard;
      return std::make_unique<LyingShard>(std::move(shard), lies[i]);
    });
    for (int round = 0; round < 3; ++round) {
      Serve();
      EXPECT_EQ(Round(controller).pool.shards.size(), 3u);
    }
    EXPECT_GT(shards_->calls(Call::kLoad), 0) << "the others go on";
    EXPECT_EQ(shards_->lost(), 0);
  }
}

TEST_F(ControllerTest, ExpertsThatNobodyHasRoomForAreNotCalledBalanced) {
  shards_ = std::make_unique<FakeShards>(4, kLayers, kExperts, /*spare=*/0);
  const auto controller = New();
  Round(*controller);
  shards_->Die(3);
  const RoundReport report = Round(*controller);
  EXPECT_EQ(report.outcome, RoundOutcome::kWaiting);
  EXPECT_THAT(report.why, HasSubstr("16 experts have no holder, and no shard has room for them"));
}

TEST_F(ControllerTest, TooFewTokensTellNothing) {
  const auto controller = New();
  Round(*controller);
  std::vector<double> tokens(kExperts, 1);
  tokens[0] = 300;
  shards_->Serve(1, tokens);
  EXPECT_EQ(Round(*controller).outcome, RoundOutcome::kBalanced);
}

TEST_F(ControllerTest, AListWithoutShardsAndShardsThatDoNotAnswerFailTheRound) {
  const auto controller = New();
  EXPECT_THAT(controller->Round({}).why, HasSubstr("no shard is listed"));
  for (int shard = 0; shard < 4; ++shard) shards_->Die(shard);
  const RoundReport report = Round(*controller);
  EXPECT_EQ(report.outcome, RoundOutcome::kFailed);
  EXPECT_THAT(report.why, HasSubstr("no shard answers: it is dead"));
}

TEST_F(ControllerTest, ShowsThatItLivesAndWhatItDoes) {
  const auto metrics = Metrics::Create();
  options_.metrics = metrics.get();
  const auto controller = New();
  Settle(*controller);
  const std::string text = metrics->Text();
  EXPECT_THAT(text, HasSubstr("conclave_placement_rounds_total{outcome=\"moved\"}"));
  EXPECT_THAT(text, HasSubstr("conclave_placement_last_round_timestamp_seconds"));
  EXPECT_THAT(text, HasSubstr("conclave_placement_moves_total{kind=\"load\"}"));
  EXPECT_THAT(text, HasSubstr("conclave_placement_imbalance_ratio{of=\"planned\"}"));
  EXPECT_THAT(text, HasSubstr("conclave_placement_shards{state=\"answering\"} 4"));
  shards_->Die(0);
  Round(*controller);
  EXPECT_THAT(metrics->Text(), HasSubstr("conclave_placement_shards{state=\"silent\"} 1"));
}

}  // namespace
}  // namespace conclave
