#include "router_service/prefill_pacer.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace conclave {
namespace {

// A machine whose steps take fixed + decode * rows + prefill * rows seconds.
struct Machine {
  double fixed = 0.010, decode = 0.005, prefill = 0.002;
  absl::Duration Step(int decode_rows, int prefill_rows) const {
    return absl::Seconds(fixed + decode * decode_rows + prefill * prefill_rows);
  }
};

// Runs steps that take as much prefill as the pacer allows; returns the longest of the last half, over the time
// without.
double Stretch(PrefillPacer& pacer, const Machine& machine, int decode_rows, int steps) {
  double longest = 0;
  for (int step = 0; step < steps; ++step) {
    const int rows = pacer.Rows(decode_rows);
    const absl::Duration took = machine.Step(decode_rows, rows);
    pacer.Observe(decode_rows, rows, took);
    if (step >= steps / 2) longest = std::max(longest, absl::FDivDuration(took, machine.Step(decode_rows, 0)));
  }
  return longest;
}

TEST(PrefillPacerTest, WhereNobodyDecodesOrNothingIsAskedThereIsNoLimit) {
  EXPECT_EQ(PrefillPacer(2.0, 300).Rows(0), 300);
  EXPECT_EQ(PrefillPacer(0, 300).Rows(7), 300);
}

TEST(PrefillPacerTest, StepsBesideDecodesSettleAtTheStretchThatIsAllowed) {
  for (double stretch : {1.5, 2.0, 4.0}) {
    for (double prefill : {0.0003, 0.002, 0.004}) {
      PrefillPacer pacer(stretch, 512);
      const double seen = Stretch(pacer, {.prefill = prefill}, 8, 100);
      EXPECT_LT(seen, stretch * 1.05) << stretch << ", " << prefill;
      EXPECT_GT(seen, stretch * 0.85) << stretch << ", " << prefill;
    }
  }
}

TEST(PrefillPacerTest, KnowsFromPromptsAloneWhatToBeginWith) {
  const Machine machine;
  PrefillPacer pacer(2.0, 512);
  pacer.Observe(0, 256, machine.Step(0, 256));
  EXPECT_EQ(pacer.Rows(8), 0) << "first it looks how long a step takes without prefill";
  pacer.Observe(8, 0, machine.Step(8, 0));
  const int rows = pacer.Rows(8);
  EXPECT_GT(rows, 4);
  EXPECT_LT(machine.Step(8, rows), 2 * machine.Step(8, 0));
}

TEST(PrefillPacerTest, FollowsAMachineThatGetsSlowerOrFaster) {
  PrefillPacer pacer(2.0, 512);
  Stretch(pacer, {.prefill = 0.0005}, 8, 50);
  const int fast = pacer.Rows(8);
  EXPECT_LT(Stretch(pacer, {.prefill = 0.005}, 8, 20), 2.1);
  EXPECT_LT(pacer.Rows(8), fast / 5);
  Stretch(pacer, {.prefill = 0.0005}, 8, 50);
  EXPECT_GT(pacer.Rows(8), fast * 8 / 10);
}

TEST(PrefillPacerTest, LooksAgainAtTheTimeWithoutPrefillNowAndThen) {
  PrefillPacer pacer(2.0, 512);
  const Machine machine;
  int probes = 0;
  for (int step = 0; step < 1000; ++step) {
    const int rows = pacer.Rows(8);
    probes += rows == 0;
    pacer.Observe(8, rows, machine.Step(8, rows));
  }
  EXPECT_GE(probes, 1000 / (PrefillPacer::kProbeSteps + 1));
  EXPECT_LE(probes, 1000 / PrefillPacer::kProbeSteps + 1);
}

TEST(PrefillPacerTest, ManyMoreDecodesHaveATimeOfTheirOwn) {
  PrefillPacer pacer(2.0, 512);
  const Machine machine;
  Stretch(pacer, machine, 1, 50);
  const int few = pacer.Rows(1);
  EXPECT_EQ(pacer.Rows(40), 0);
  EXPECT_GT(Stretch(pacer, machine, 40, 50), 1.7);
  EXPECT_GT(pacer.Rows(40), 5 * few);
}

TEST(PrefillPacerTest, StepsThatNobodyNoticesAreNotCutShort) {
  PrefillPacer pacer(2.0, 512);
  EXPECT_GT(Stretch(pacer, {.fixed = 1e-5, .decode = 1e-6, .prefill = 1e-6}, 4, 30), 10);
  EXPECT_EQ(pacer.Rows(4), 512);
}

TEST(PrefillPacerTest, PrefillNeverStopsHoweverDearItIs) {
  PrefillPacer pacer(1.1, 512);
  Stretch(pacer, {.prefill = 1.0}, 4, 30);
  EXPECT_EQ(pacer.Rows(4), 4);
  PrefillPacer narrow(1.1, 2);
  Stretch(narrow, {.prefill = 1.0}, 1, 30);
  EXPECT_EQ(narrow.Rows(1), 2);
}

TEST(PrefillPacerTest, OneStepThatWasHeldUpDoesNotMoveItFar) {
  PrefillPacer pacer(2.0, 512);
  const Machine machine;
  Stretch(pacer, machine, 8, 50);
  const int before = pacer.Rows(8);
  pacer.Observe(8, before, absl::Seconds(10));
  EXPECT_GE(pacer.Rows(8), before / 2 - 1);
  pacer.Observe(8, 0, absl::Seconds(10));
  EXPECT_LT(Stretch(pacer, machine, 8, 10), 2.3);
}

}  // namespace
}  // namespace conclave
