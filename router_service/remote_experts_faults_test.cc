// What the router makes of a network that drops, delays, duplicates and damages by seed: each fault alone and all
// together, over dozens of seeds, or thousands with CONCLAVE_TEST_FULL=1.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "moe/base/log.h"
#include "moe/transport/faulty/faulty_transport.h"
#include "router_service/remote_experts_testing.h"

namespace conclave {
namespace {

uint64_t Seeds() {
  const char* const full = std::getenv("CONCLAVE_TEST_FULL");
  return full != nullptr && absl::string_view(full) == "1" ? 2000 : 20;
}

class UnderFaults : public RemoteExpertsTest {
 protected:
  struct Outcome {
    FaultyCounts faults;
    int64_t resent_pairs = 0, hedged_pairs = 0;
    int wrong = 0;  // layers that did not come out right
  };
  // Twelve layers of four rows for each seed, with every expert on two of three shards.
  Outcome Run(FaultyOptions faults, uint64_t seeds) {
    SetLogLevel(LogLevel::kError);  // each fault is told of
    options_.late_min = absl::Milliseconds(15);
    options_.late_max = absl::Milliseconds(100);
    Outcome outcome;
    for (uint64_t seed = 0; seed < seeds; ++seed) {
      faults.seed = seed;
      StartAgain(3, /*copies=*/2);
      MakeFaulty(faults);
      Connect();
      for (uint32_t i = 0; i < 12; ++i) {
        const absl::Status status = RunOnce(Rows(4, static_cast<uint32_t>(seed) * 100 + i));
        outcome.wrong += !status.ok();
        if (!status.ok()) last_wrong_ = std::to_string(seed) + ": " + status.ToString();
      }
      const FaultyCounts& counts = faulty_->counts();
      outcome.faults.dropped += counts.dropped;
      outcome.faults.delayed += counts.delayed;
      outcome.faults.duplicated += counts.duplicated;
      outcome.faults.corrupted += counts.corrupted;
      outcome.faults.replies_unwanted += counts.replies_unwanted;
      outcome.resent_pairs += pool_->counts().resent_pairs;
      outcome.hedged_pairs += pool_->counts().hedged_pairs;
    }
    return outcome;
  }
  std::string last_wrong_;
};

TEST_F(UnderFaults, LostRequestsAndRepliesAreSentAgain) {
  for (double FaultyOptions::*kind : {&FaultyOptions::drop_request, &FaultyOptions::drop_reply}) {
    FaultyOptions faults;
    faults.*kind = 0.03;
    const Outcome outcome = Run(faults, Seeds());
    EXPECT_EQ(outcome.wrong, 0) << last_wrong_;
    EXPECT_GT(outcome.faults.dropped, 0);
    EXPECT_GT(outcome.resent_pairs + outcome.hedged_pairs, 0);
  }
}

TEST_F(UnderFaults, RepliesThatOvertakeEachOtherLandWhereTheyBelong) {
  FaultyOptions faults;
  faults.delay = 0.5;
  faults.delay_max = absl::Milliseconds(20);
  const Outcome outcome = Run(faults, Seeds());
  EXPECT_EQ(outcome.wrong, 0) << last_wrong_;
  EXPECT_GT(outcome.faults.delayed, 0);
  EXPECT_GT(outcome.faults.replies_unwanted, 0) << "some came after their call was given up";
}

TEST_F(UnderFaults, DoubledRepliesCountOnce) {
  FaultyOptions faults;
  faults.duplicate = 0.5;
  const Outcome outcome = Run(faults, Seeds());
  EXPECT_EQ(outcome.wrong, 0) << last_wrong_;
  EXPECT_GT(outcome.faults.duplicated, 0);
  EXPECT_GT(outcome.faults.replies_unwanted, 0);
}

TEST_F(UnderFaults, DamageIsNoticedAndSentAgain) {
  for (double FaultyOptions::*kind : {&FaultyOptions::corrupt_status, &FaultyOptions::corrupt_bytes}) {
    FaultyOptions faults;
    faults.*kind = 0.1;
    faults.checksum = true;
    const Outcome outcome = Run(faults, Seeds());
    EXPECT_EQ(outcome.wrong, 0) << last_wrong_;
    EXPECT_GT(outcome.faults.corrupted, 0);
    EXPECT_GT(outcome.resent_pairs, 0);
  }
}

// The others would pass if damage could not be seen at all.
TEST_F(UnderFaults, DamageWithoutChecksumsShowsInTheRows) {
  FaultyOptions faults;
  faults.corrupt_bytes = 0.1;
  EXPECT_GT(Run(faults, 10).wrong, 0);
}

TEST_F(UnderFaults, AllTogetherRowsAreRight) {
  FaultyOptions faults;
  faults.drop_request = faults.drop_reply = 0.01;
  faults.delay = faults.duplicate = 0.2;
  faults.corrupt_status = faults.corrupt_bytes = 0.05;
  faults.checksum = true;
  const Outcome outcome = Run(faults, Seeds());
  EXPECT_EQ(outcome.wrong, 0) << last_wrong_;
  EXPECT_GT(outcome.faults.dropped, 0);
  EXPECT_GT(outcome.faults.corrupted, 0);
}

}  // namespace
}  // namespace conclave
