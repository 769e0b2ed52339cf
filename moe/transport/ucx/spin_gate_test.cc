#include "moe/transport/ucx/spin_gate.h"

#include "gtest/gtest.h"

namespace conclave {
namespace {

constexpr absl::Duration kSpin = absl::Microseconds(50);

// How many of the next `waits` waits spin, where every spin ends as said.
int Spins(SpinGate& gate, int waits, bool something_comes, bool preempted) {
  int spins = 0;
  for (int i = 0; i < waits; ++i) {
    if (gate.Budget() == absl::ZeroDuration()) continue;
    ++spins;
    gate.Spun(something_comes, preempted);
  }
  return spins;
}

TEST(SpinGate, SpinsOnAsLongAsItPays) {
  SpinGate gate(kSpin);
  EXPECT_EQ(Spins(gate, 1000, true, false), 1000);
}

TEST(SpinGate, SpinsSeldomWhereNothingComesInTime) {
  SpinGate gate(kSpin);
  EXPECT_LT(Spins(gate, 10000, false, false), 60);
  EXPECT_GT(Spins(gate, 10000, false, false), 10) << "it must notice when times change";
}

TEST(SpinGate, OneSpinInVainChangesNothing) {
  SpinGate gate(kSpin);
  gate.Budget();
  gate.Spun(false, false);
  EXPECT_EQ(gate.Budget(), kSpin);
}

TEST(SpinGate, DoesNotSpinWhereOthersWantTheCore) {
  SpinGate gate(kSpin);
  EXPECT_LT(Spins(gate, 1000, true, true), 20);
}

TEST(SpinGate, OnePreemptionAloneIsSoonForgotten) {
  SpinGate gate(kSpin);
  gate.Budget();
  gate.Spun(true, true);
  EXPECT_GE(Spins(gate, 20, true, false), 3);
}

TEST(SpinGate, SpinsAgainOnceWaitsAreShort) {
  SpinGate gate(kSpin);
  Spins(gate, 1000, false, false);
  while (gate.Budget() != absl::ZeroDuration()) gate.Spun(false, false);
  gate.Blocked(absl::Microseconds(400));
  EXPECT_EQ(gate.Budget(), absl::ZeroDuration());
  gate.Blocked(absl::Microseconds(20));
  EXPECT_EQ(gate.Budget(), kSpin);
}

TEST(SpinGate, LosingTheCoreForAMomentCountsOnceItHappensAgainAndAgain) {
  SpinGate gate(kSpin);
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(gate.Budget(), kSpin) << i;
    gate.Spun(true, true, /*briefly=*/true);
    gate.Blocked(absl::Microseconds(65));
  }
  for (int i = 0; i < 20; ++i) gate.Spun(true, true, /*briefly=*/true);
  EXPECT_EQ(gate.Budget(), absl::ZeroDuration());
}

TEST(SpinGate, SpinsLongerOnceWhereAWakeUpTakesLong) {
  SpinGate gate(kSpin);
  gate.Blocked(absl::Microseconds(65));
  EXPECT_EQ(gate.Budget(), absl::Microseconds(130));
  gate.Spun(true, false);
  EXPECT_EQ(gate.Budget(), kSpin);
  gate.Blocked(absl::Microseconds(140));
  EXPECT_EQ(gate.Budget(), 3 * kSpin);
  gate.Spun(false, false);
  EXPECT_EQ(gate.Budget(), kSpin);
}

TEST(SpinGate, ShortWaitsDoNotBringSpinningBackWhileCoresAreBusy) {
  SpinGate gate(kSpin);
  gate.Budget();
  gate.Spun(true, true);
  gate.Blocked(absl::Microseconds(20));
  EXPECT_EQ(gate.Budget(), absl::ZeroDuration());
}

}  // namespace
}  // namespace conclave
