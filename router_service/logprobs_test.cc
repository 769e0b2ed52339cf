#include "router_service/logprobs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

namespace conclave {
namespace {

TEST(LogprobsTest, AreTheLogarithmsOfTheSoftmax) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.6f), std::log(0.3f)};
  const TokenLogprobs got = LogprobsOf(logits, 2, 2);
  EXPECT_EQ(got.id, 2);
  EXPECT_NEAR(got.logprob, std::log(0.3), 1e-6);
  ASSERT_EQ(got.top.size(), 2u);
  EXPECT_EQ(got.top[0].first, 1);
  EXPECT_NEAR(got.top[0].second, std::log(0.6), 1e-6);
  EXPECT_EQ(got.top[1].first, 2);
  EXPECT_EQ(got.top[1].second, got.logprob);
}

TEST(LogprobsTest, AnyShiftOfTheLogitsLeavesThemAndLargeOnesDoNotOverflow) {
  EXPECT_NEAR(LogprobsOf({3e38f, 3e38f}, 0, 0).logprob, -std::log(2.0), 1e-6);
  EXPECT_NEAR(LogprobsOf({-1e4f, -1e4f + 1}, 1, 0).logprob, LogprobsOf({0, 1}, 1, 0).logprob, 1e-6);
  EXPECT_NEAR(LogprobsOf({0.0f, 2000.0f}, 0, 0).logprob, -2000, 1e-3);
}

TEST(LogprobsTest, TheTopIsThatOfAStableSortOfAllIds) {
  std::mt19937 random(3);
  for (int vocab : {1, 2, 17, 1000}) {
    std::vector<float> logits(vocab);
    for (float& logit : logits) logit = static_cast<float>(random() % 40);  // with many equals
    std::vector<int32_t> order(vocab);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    for (int top : {0, 1, 5, 20}) {
      const TokenLogprobs got = LogprobsOf(logits, order[vocab / 2], top);
      ASSERT_EQ(static_cast<int>(got.top.size()), std::min(top, vocab));
      for (size_t i = 0; i < got.top.size(); ++i) EXPECT_EQ(got.top[i].first, order[i]) << vocab << ", " << top;
    }
  }
}

TEST(LogprobsTest, ProbabilitiesAddUpToOne) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal(0, 4);
  std::vector<float> logits(500);
  for (float& logit : logits) logit = normal(random);
  const TokenLogprobs got = LogprobsOf(logits, 7, 500);
  double sum = 0;
  for (const auto& [id, logprob] : got.top) sum += std::exp(logprob);
  EXPECT_NEAR(sum, 1.0, 1e-5);
}

}  // namespace
}  // namespace conclave
