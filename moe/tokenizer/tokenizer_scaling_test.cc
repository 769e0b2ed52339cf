// One word may be a megabyte: time per byte must not grow with its length.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "moe/tokenizer/byte_tokenizer_writer.h"
#include "moe/tokenizer/tiny_tokenizer_for_test.h"
#include "moe/tokenizer/tokenizer.h"

namespace conclave {
namespace {

std::string Repeated(const std::string& unit, size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += unit;
  return text;
}

class TokenizerScalingTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string directory = FreshDirectory("tokenizer_scaling_test");
    ASSERT_TRUE(WriteByteTokenizer(directory, 32000, 0, 1).ok());
    tokenizer_ = Tokenizer::Load(directory).value();
  }
  // The best of several runs: others use the machine too.
  double SecondsPerByte(const std::string& text, int runs) const {
    double best = 1e9;
    for (int i = 0; i < runs; ++i) {
      const auto start = std::chrono::steady_clock::now();
      const std::vector<int32_t> ids = tokenizer_->Encode(text, SpecialText::kAsTokens);
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
      EXPECT_FALSE(ids.empty());
    }
    return best / static_cast<double>(text.size());
  }
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(TokenizerScalingTest, SixtyFourTimesTheTextTakesAboutSixtyFourTimesAsLong) {
  const std::string small = Repeated(GetParam(), 16 << 10), large = Repeated(GetParam(), 1 << 20);
  const double per_byte_small = SecondsPerByte(small, 20);
  const double per_byte_large = SecondsPerByte(large, 3);
  // A quadratic step would make it 64; caches and the heap's logarithm explain a small factor.
  EXPECT_LT(per_byte_large, 12 * per_byte_small);
}

INSTANTIATE_TEST_SUITE_P(Texts, TokenizerScalingTest,
                         testing::Values("a", " ", "\n", "\U0001F600", "1", "\u4e2d", "the", "aA", "\x01", "'", "<",
                                         "\xF0\x9F", "  \n", "a b"));

}  // namespace
}  // namespace conclave
