#include "moe/daemon/nearest_name.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(EditDistance, CountsEditsAndSwaps) {
  EXPECT_EQ(EditDistance("", ""), 0);
  EXPECT_EQ(EditDistance("model", ""), 5);
  EXPECT_EQ(EditDistance("", "model"), 5);
  EXPECT_EQ(EditDistance("model", "model"), 0);
  EXPECT_EQ(EditDistance("modle", "model"), 1);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3);
}

TEST(NearestName, FindsTheNearestAndNothingWhereNoneIsNear) {
  const std::vector<std::string> known = {"model", "shard", "shards-file", "threads", "kv-memory"};
  EXPECT_EQ(NearestName("modle", known), "model");
  EXPECT_EQ(NearestName("shardd", known), "shard");
  EXPECT_EQ(NearestName("kv_memory", known), "kv-memory");
  EXPECT_EQ(NearestName("temperature", known), "");
  EXPECT_EQ(NearestName("", known), "");
  EXPECT_EQ(NearestName(std::string(1'000'000, 'x'), known), "");
}

TEST(DidYouMean, EndsAMessageOrIsEmpty) {
  EXPECT_EQ(DidYouMean("modle", {"model"}, "--"), "; did you mean --model?");
  EXPECT_EQ(DidYouMean("xyz", {"model"}, "--"), "");
}

}  // namespace
}  // namespace conclave
