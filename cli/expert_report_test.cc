#include "cli/expert_report.h"

#include <gtest/gtest.h>

#include "moe/base/ids.h"
#include "moe/placement/placement.h"

namespace conclave {
namespace {

TEST(ExpertReportTest, ShowsEachShardsBarsShareAndTheBusiestExpert) {
  const ExpertUse use = {{}, {8, 1, 0, 4}};
  const std::vector<ShardHoldings> shards = {
      {"expert-0", {{LayerId{1}, {ExpertId{0}, ExpertId{2}}}}},
      {"expert-1", {{LayerId{1}, {ExpertId{1}, ExpertId{3}}}}},
  };
  EXPECT_EQ(ExpertReport(use, shards, 8),
            "layer  | expert-0 | expert-1 | busiest\n"
            "    1  | █·   61% | ▁▄   38% | expert 0 (61%)\n");
}

TEST(ExpertReportTest, SumsNeighboursWhereAShardHasManyExperts) {
  ExpertUse use = {std::vector<uint32_t>(256, 1)};
  use[0][255] = 33;
  EXPECT_EQ(ExpertReport(use, SingleHolder("here", use), 8),
            "layer  | here          | busiest\n"
            "    0  | ▄▄▄▄▄▄▄█ 100% | expert 255 (11%)\n");
}

TEST(ExpertReportTest, LayerThatNobodyUsedOrHoldsIsShownAsIdle) {
  const ExpertUse use = {{0, 0}};
  EXPECT_EQ(ExpertReport(use, {ShardHoldings{"expert-0", {}}}, 8),
            "layer  | expert-0 | busiest\n"
            "    0  |       0% | none\n");
}

}  // namespace
}  // namespace conclave
