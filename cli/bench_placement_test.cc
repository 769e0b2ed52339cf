#include "cli/bench_placement.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "cli/command.h"

namespace conclave {
namespace {

TEST(BenchPlacementTest, ReadsPlaces) {
  const std::vector<BenchPlacement> placements = *ParseBenchPlacements("ucx:2,inproc:4");
  ASSERT_EQ(placements.size(), 2);
  EXPECT_EQ(placements[0].transport, "ucx");
  EXPECT_EQ(placements[0].shards, 2);
  EXPECT_EQ(placements[1].Name(), "inproc:4");
  EXPECT_TRUE(ParseBenchPlacements("")->empty());
}

TEST(BenchPlacementTest, RefusesOthersByName) {
  for (const std::string text : {"ucx", "ucx:", "ucx:0", "ucx:257", "ucx:2:3", "nccl:2", ":2", "ucx:x"}) {
    const absl::Status status = ParseBenchPlacements("grpc:1," + text).status();
    EXPECT_TRUE(IsUsageError(status)) << text;
    EXPECT_TRUE(absl::StrContains(status.message(), "'" + text + "' is none")) << status;
  }
}

}  // namespace
}  // namespace conclave
