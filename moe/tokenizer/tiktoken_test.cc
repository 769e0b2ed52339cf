#include "moe/tokenizer/tiktoken.h"

#include <gtest/gtest.h>

#include <fstream>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moe/tokenizer/tiktoken_chunks.h"
#include "moe/tokenizer/tiny_tokenizer_for_test.h"
#include "moe/tokenizer/tokenizer.h"

namespace conclave {
namespace {

// The 256 bytes, then `more` tokens, in tiktoken's format.
std::string Ranks(const std::vector<std::string>& more) {
  std::string text;
  int rank = 0;
  for (; rank < 256; ++rank) {
    absl::StrAppend(&text, absl::Base64Escape(std::string(1, static_cast<char>(rank))), " ", rank, "\n");
  }
  for (const std::string& token : more) absl::StrAppend(&text, absl::Base64Escape(token), " ", rank++, "\n");
  return text;
}

constexpr int32_t kFirstSpecial = 260;

std::unique_ptr<Tokenizer> KimiTokenizer() {
  TokenizerConfig config;
  config.bos_token = "[BOS]";
  config.eos_token = "[EOS]";
  config.added_tokens = {{"[BOS]", kFirstSpecial, true},
                         {"[EOS]", kFirstSpecial + 1, true},
                         {"<|im_end|>", kFirstSpecial + 2, true},
                         {"<think>", kFirstSpecial + 5, false}};
  auto model = ParseTiktoken(Ranks({"th", "he", "the", "\xE4\xB8\xAD\xE6"}), config, "tiktoken.model");
  EXPECT_TRUE(model.ok()) << model.status();
  auto tokenizer = BpeTokenizer::Create(*std::move(model), config, "tiktoken.model", "tokenizer_config.json");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

TEST(TiktokenTest, PairsMergeByTheRankOfTheirJoin) {
  const auto tokenizer = KimiTokenizer();
  EXPECT_EQ(tokenizer->Encode("the", SpecialText::kAsTokens), std::vector<int32_t>{258});
  EXPECT_EQ(tokenizer->Encode("thhe", SpecialText::kAsTokens), (std::vector<int32_t>{256, 257}));
  // "th" ranks before "he", and "the" is reached from either.
  EXPECT_EQ(tokenizer->Encode("xthex", SpecialText::kAsTokens), (std::vector<int32_t>{'x', 258, 'x'}));
}

TEST(TiktokenTest, TheBaseVocabularyIsFollowedBy256SpecialTokens) {
  const auto tokenizer = KimiTokenizer();
  EXPECT_EQ(tokenizer->vocab(), kFirstSpecial + 256);
  EXPECT_EQ(tokenizer->bos_id(), kFirstSpecial);
  EXPECT_EQ(tokenizer->eos_id(), kFirstSpecial + 1);
  EXPECT_FALSE(tokenizer->add_bos());
  EXPECT_EQ(tokenizer->TokenBytes(kFirstSpecial + 2), "<|im_end|>");
  EXPECT_EQ(tokenizer->TokenBytes(515), "<|reserved_token_515|>");
  EXPECT_TRUE(tokenizer->IsSpecial(515));
  EXPECT_FALSE(tokenizer->IsSpecial(kFirstSpecial + 5));
  EXPECT_EQ(tokenizer->Encode("a<|im_end|><|reserved_token_515|>", SpecialText::kAsTokens),
            (std::vector<int32_t>{'a', kFirstSpecial + 2, 515}));
  EXPECT_GT(tokenizer->Encode("<think>", SpecialText::kAsPlainText).size(), 1u);
}

TEST(TiktokenTest, HanIsAWordOfItsOwn) {
  const auto tokenizer = KimiTokenizer();
  // The token that begins with U+4E2D spans two Han characters, and joins only them.
  EXPECT_EQ(tokenizer->Encode("\u4e2d\u6587", SpecialText::kAsTokens).size(), 6u);
  EXPECT_EQ(tokenizer->Decode(tokenizer->Encode("a\u4e2d\u6587 \u30ab'S", SpecialText::kAsTokens), false).value(),
            "a\u4e2d\u6587 \u30ab'S");
}

TEST(TiktokenTest, LoadsFromADirectory) {
  const std::string directory = FreshDirectory("tiktoken_test");
  std::ofstream(directory + "/tiktoken.model", std::ios::binary) << Ranks({"th"});
  std::ofstream(directory + "/tokenizer_config.json") << R"({"bos_token": "[BOS]",
      "added_tokens_decoder": {"257": {"content": "[BOS]", "special": true}}})";
  const auto tokenizer = Tokenizer::Load(directory);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->Encode("[BOS]th", SpecialText::kAsTokens), (std::vector<int32_t>{257, 256}));
}

TEST(TiktokenTest, RefusesFilesThatAreWrong) {
  const std::pair<std::string, const char*> cases[] = {{"", "no token for the byte"},
                                                       {"QQ== 0\n", "no token for the byte"},
                                                       {"Q", "line 1"},
                                                       {"!!! 0\n", "line 1"},
                                                       {"QQ== x\n", "line 1"},
                                                       {"QQ== 5\n", "rank 5"},
                                                       {"QQ== -1\n", "rank -1"},
                                                       {"QQ== 0\nQg== 0\n", "rank 0 stands twice"},
                                                       {"QQ== 0\nQQ== 1\n", "rank 1 stands twice"},
                                                       {Ranks({std::string(2000, 'x')}), "longer than"}};
  for (const auto& [text, part] : cases) {
    absl::Status status;
    auto model = ParseTiktoken(text, {}, "tiktoken.model");
    status = model.ok() ? BpeTokenizer::Create(*std::move(model), {}, "tiktoken.model", "").status() : model.status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << part;
    EXPECT_TRUE(absl::StrContains(status.message(), part)) << status << " should say " << part;
    EXPECT_TRUE(absl::StartsWith(status.message(), "tiktoken.model")) << status;
  }
}

TEST(TiktokenTest, LongTextsAreCutWhereKimiCutsThem) {
  using Ends = std::vector<size_t>;
  EXPECT_EQ(TiktokenChunkEnds(""), Ends({0}));
  EXPECT_EQ(TiktokenChunkEnds(std::string(25000, 'a')), Ends({25000}));
  EXPECT_EQ(TiktokenChunkEnds(std::string(50001, 'a')), Ends({25000, 50000, 50001}));
  EXPECT_EQ(TiktokenChunkEnds(std::string(25000, 'a') + std::string(25001, ' ')), Ends({50000, 50001}));
  std::string words;
  for (int i = 0; i < 250000; ++i) words += "a ";
  EXPECT_EQ(TiktokenChunkEnds(words), Ends({400000, 500000}));
}

}  // namespace
}  // namespace conclave
