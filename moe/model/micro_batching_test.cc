#include "moe/model/micro_batching.h"

#include <gtest/gtest.h>

namespace conclave {
namespace {

using absl::Milliseconds;

// Runs steps of `rows` rows that take so long whole and in two parts; how many were in two parts.
int RunSteps(MicroBatching& batching, int64_t rows, int steps, absl::Duration whole, absl::Duration parted) {
  int in_two_parts = 0;
  for (int i = 0; i < steps; ++i) {
    const bool two = batching.InTwoParts(rows);
    in_two_parts += two;
    batching.Observe(rows, two, two ? parted : whole);
  }
  return in_two_parts;
}

constexpr int kTrial = 2 * MicroBatching::kTrialSteps;

TEST(MicroBatching, KeepsWhatWasQuicker) {
  MicroBatching slower, faster;
  EXPECT_EQ(RunSteps(slower, 16, kTrial, Milliseconds(10), Milliseconds(12)), MicroBatching::kTrialSteps);
  EXPECT_EQ(RunSteps(slower, 16, 100, Milliseconds(10), Milliseconds(12)), 0);
  EXPECT_EQ(RunSteps(faster, 16, kTrial, Milliseconds(10), Milliseconds(8)), MicroBatching::kTrialSteps);
  EXPECT_EQ(RunSteps(faster, 16, 100, Milliseconds(10), Milliseconds(8)), 100);
}

TEST(MicroBatching, ASmallGainIsNone) {
  MicroBatching batching;
  RunSteps(batching, 16, kTrial, Milliseconds(100), Milliseconds(94));
  EXPECT_FALSE(batching.InTwoParts(16));
}

TEST(MicroBatching, OneHeldUpStepDecidesNothing) {
  MicroBatching batching;
  for (int i = 0; i < kTrial; ++i) {
    const bool two = batching.InTwoParts(16);
    batching.Observe(16, two, i == 1 ? Milliseconds(500) : two ? Milliseconds(8) : Milliseconds(10));
  }
  EXPECT_TRUE(batching.InTwoParts(16));
}

TEST(MicroBatching, StepsOfOtherSizesAreOthers) {
  MicroBatching batching;
  RunSteps(batching, 512, kTrial, Milliseconds(10), Milliseconds(8));
  RunSteps(batching, 4, kTrial, Milliseconds(10), Milliseconds(12));
  EXPECT_TRUE(batching.InTwoParts(512));
  EXPECT_TRUE(batching.InTwoParts(300));
  EXPECT_FALSE(batching.InTwoParts(4));
  EXPECT_FALSE(batching.InTwoParts(1));
}

TEST(MicroBatching, LooksAgainAndSeldomWhereNothingChanges) {
  MicroBatching batching;
  // Ten thousand steps of which the trials cost little.
  EXPECT_LT(RunSteps(batching, 16, 10000, Milliseconds(10), Milliseconds(12)), 50);
  // A relay comes between: by the next trial it pays.
  EXPECT_GT(RunSteps(batching, 16, 30000, Milliseconds(20), Milliseconds(14)), 15000);
}

}  // namespace
}  // namespace conclave
