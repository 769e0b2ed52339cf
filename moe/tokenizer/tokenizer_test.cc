#include "moe/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moe/tokenizer/detokenizer.h"
#include "moe/tokenizer/tiny_tokenizer_for_test.h"

namespace conclave {
namespace {

using nlohmann::json;

std::string ReadAll(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  EXPECT_TRUE(stream) << path;
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

std::string Streamed(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  Detokenizer detokenizer(&tokenizer);
  std::string text;
  for (int32_t id : ids) text += detokenizer.Append(id);
  return text + detokenizer.Flush();
}

// Text, ids and decoded text from Hugging Face tokenizers.
void ExpectCases(const Tokenizer& tokenizer, const json& cases) {
  ASSERT_GT(cases.size(), 0u);
  for (const json& test_case : cases) {
    const std::string text = test_case["text"];
    const std::vector<int32_t> ids = test_case["ids"];
    EXPECT_EQ(tokenizer.Encode(text, SpecialText::kAsTokens), ids) << text;
    EXPECT_EQ(tokenizer.Decode(ids, /*skip_special=*/false).value(), std::string(test_case["decoded"])) << text;
    EXPECT_EQ(Streamed(tokenizer, ids), tokenizer.Decode(ids, /*skip_special=*/true).value()) << text;
  }
}

TEST(TokenizerTest, AgreesWithHuggingFaceTokenizers) {
  const auto tokenizer = Tokenizer::LoadFromJson(ReadAll("moe/tokenizer/testdata/tokenizer.json"), "");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectCases(**tokenizer, json::parse(ReadAll("moe/tokenizer/testdata/tokenizer_cases.json")));
}

TEST(TokenizerTest, AgreesWithTheWholeReference) {
  const char* shared = std::getenv("CONCLAVE_SHARED_DIR");
  if (shared == nullptr) GTEST_SKIP() << "CONCLAVE_SHARED_DIR is not set";
  const std::string directory = absl::StrCat(shared, "/reference");
  const auto tokenizer = Tokenizer::Load(directory);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectCases(**tokenizer, json::parse(ReadAll(directory + "/tokenizer_reference.json")));
}

TEST(TokenizerTest, SpecialTextInPlainTextStaysText) {
  const auto tokenizer = TinyTokenizer();
  const std::string text = "a<|end|>b";
  EXPECT_EQ(tokenizer->Encode(text, SpecialText::kAsTokens), (std::vector<int32_t>{'a', kTinyEnd, 'b'}));
  const std::vector<int32_t> plain = tokenizer->Encode(text, SpecialText::kAsPlainText);
  EXPECT_EQ(plain, (std::vector<int32_t>{'a', '<', '|', 'e', 'n', 'd', '|', '>', 'b'}));
  EXPECT_EQ(tokenizer->Decode(plain, /*skip_special=*/true).value(), text);
}

TEST(TokenizerTest, SpecialTokensNeedOneSpanOfTemplate) {
  const auto tokenizer = TinyTokenizer();
  const auto tokens = SpecialText::kAsTokens;
  const auto plain = SpecialText::kAsPlainText;
  EXPECT_EQ(tokenizer->EncodeSpans({{"<|e", tokens}, {"nd|>", plain}}).size(), 7u);
  EXPECT_EQ(tokenizer->EncodeSpans({{"<|e", plain}, {"nd|>", tokens}}).size(), 7u);
  EXPECT_EQ(tokenizer->EncodeSpans({{"<|e", tokens}, {"nd|>", tokens}}), std::vector<int32_t>{kTinyEnd});
  // Words run across the seam: "h" + "e" is one token.
  EXPECT_EQ(tokenizer->EncodeSpans({{"h", tokens}, {"e", plain}}), std::vector<int32_t>{kTinyHe});
}

TEST(TokenizerTest, SpecialTokensAreLeftOutWhereAsked) {
  const auto tokenizer = TinyTokenizer();
  const std::vector<int32_t> ids = {'a', kTinyEnd, kTinyThink, 'b'};
  EXPECT_EQ(tokenizer->Decode(ids, /*skip_special=*/true).value(), "a<think>b");
  EXPECT_EQ(tokenizer->Decode(ids, /*skip_special=*/false).value(), "a<|end|><think>b");
  EXPECT_TRUE(tokenizer->IsSpecial(kTinyEnd));
  EXPECT_FALSE(tokenizer->IsSpecial(kTinyThink));
}

TEST(TokenizerTest, DecodeRefusesIdsOutOfRange) {
  const auto tokenizer = TinyTokenizer();
  for (int32_t id : {-1, tokenizer->vocab(), 1 << 30}) {
    const absl::Status status = tokenizer->Decode({0, id}, /*skip_special=*/false).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_TRUE(absl::StrContains(status.message(), "ids[1]")) << status;
  }
}

TEST(TokenizerTest, BytesThatAreNotUtf8SurviveARoundTripAsReplacements) {
  const auto tokenizer = TinyTokenizer();
  const std::string text = "a\xFF\xE4\xB8z\xC3\xA9";
  const std::vector<int32_t> ids = tokenizer->Encode(text, SpecialText::kAsPlainText);
  EXPECT_EQ(ids, (std::vector<int32_t>{'a', 0xFF, 0xE4, 0xB8, 'z', 0xC3, 0xA9}));
  EXPECT_EQ(tokenizer->Decode(ids, /*skip_special=*/true).value(), "a\uFFFD\uFFFDz\u00E9");
}

TEST(TokenizerTest, BosStandsBeforeARawPromptOnce) {
  const auto with = TinyTokenizer({}, R"({"bos_token": "<|end|>", "add_bos_token": true})");
  EXPECT_EQ(EncodePrompt(*with, "a"), (std::vector<int32_t>{kTinyEnd, 'a'}));
  EXPECT_EQ(EncodePrompt(*with, "<|end|>a"), (std::vector<int32_t>{kTinyEnd, 'a'}));
  EXPECT_EQ(EncodePrompt(*with, ""), (std::vector<int32_t>{kTinyEnd}));
  const auto without = TinyTokenizer({}, R"({"bos_token": {"content": "<|end|>"}, "add_bos_token": false})");
  EXPECT_EQ(EncodePrompt(*without, "a"), std::vector<int32_t>{'a'});
  EXPECT_EQ(without->bos_id(), kTinyEnd);
  EXPECT_EQ(without->eos_id(), std::nullopt);
}

TEST(TokenizerTest, ATemplateOfThePostProcessorAddsBosOnce) {
  const json processor = json::parse(R"({"type": "Sequence", "processors": [{"type": "ByteLevel"},
      {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}},
                                                {"Sequence": {"id": "A", "type_id": 0}}]}]})");
  const auto tokenizer = TinyTokenizer({{"post_processor", processor}}, R"({"bos_token": "<|end|>"})");
  EXPECT_EQ(tokenizer->Encode("a", SpecialText::kAsTokens), std::vector<int32_t>{'a'});
  EXPECT_EQ(EncodePrompt(*tokenizer, "<|end|>a"), (std::vector<int32_t>{kTinyEnd, 'a'}));
}

TEST(TokenizerTest, StrippingTokensSwallowWhiteSpace) {
  const json tokens = json::parse(R"([{"id": 300, "content": "<L>", "lstrip": true, "special": true},
                                      {"id": 301, "content": "<R>", "rstrip": true, "special": true}])");
  const auto tokenizer = TinyTokenizer({{"added_tokens", tokens}}, "");
  EXPECT_EQ(tokenizer->Encode("a \u3000<L> b", SpecialText::kAsTokens), (std::vector<int32_t>{'a', 300, ' ', 'b'}));
  EXPECT_EQ(tokenizer->Encode("a <R>\t\n b", SpecialText::kAsTokens), (std::vector<int32_t>{'a', ' ', 301, 'b'}));
}

TEST(TokenizerTest, TheLongestAddedTokenWins) {
  const json tokens = json::parse(R"([{"id": 300, "content": "<a", "special": true},
      {"id": 301, "content": "<a>", "special": true}, {"id": 302, "content": "<a><b", "special": true}])");
  const auto tokenizer = TinyTokenizer({{"added_tokens", tokens}}, "");
  EXPECT_EQ(tokenizer->Encode("<a><b", SpecialText::kAsTokens), std::vector<int32_t>{302});
  EXPECT_EQ(tokenizer->Encode("<a><<ab", SpecialText::kAsTokens), (std::vector<int32_t>{301, '<', 300, 'b'}));
}

TEST(TokenizerTest, IgnoreMergesTakesWholeWords) {
  json model = TinyModel();
  model["vocab"]["xyz"] = 400;
  EXPECT_EQ(TinyTokenizer({{"model", model}}, "")->Encode("xyz", SpecialText::kAsTokens).size(), 3u);
  model["ignore_merges"] = true;
  EXPECT_EQ(TinyTokenizer({{"model", model}}, "")->Encode("xyz", SpecialText::kAsTokens), std::vector<int32_t>{400});
}

TEST(TokenizerTest, BothSpellingsOfMergesAreTheSame) {
  json model = TinyModel();
  model["merges"] = json::array({"#version: 0.2", "h e", "he l"});
  const auto old_spelling = TinyTokenizer({{"model", model}}, "");
  EXPECT_EQ(old_spelling->Encode("hehel", SpecialText::kAsTokens), (std::vector<int32_t>{kTinyHe, kTinyHel}));
  EXPECT_EQ(TinyTokenizer()->Encode("hehel", SpecialText::kAsTokens), (std::vector<int32_t>{kTinyHe, kTinyHel}));
}

TEST(TokenizerTest, OnlyTheConfigurationMayNameATokenToo) {
  const auto tokenizer = TinyTokenizer({}, R"({"eos_token": "<|late|>", "added_tokens_decoder": {
      "256": {"content": "<|end|>", "special": true}, "290": {"content": "<|late|>", "special": true}}})");
  EXPECT_EQ(tokenizer->Encode("a<|late|>", SpecialText::kAsTokens), (std::vector<int32_t>{'a', 290}));
  EXPECT_EQ(tokenizer->eos_id(), 290);
  EXPECT_EQ(tokenizer->vocab(), 291);
  EXPECT_EQ(tokenizer->TokenBytes(280), "");
}

TEST(TokenizerTest, WordsThatAreNoControlTokensAreFoundInPlainText) {
  const json tokens = json::parse(R"([{"id": 300, "content": "zebra", "normalized": true},
                                      {"id": 301, "content": "<｜User｜>"}])");
  const auto tokenizer = TinyTokenizer({{"added_tokens", tokens}}, "");
  EXPECT_EQ(tokenizer->Encode("zebra", SpecialText::kAsPlainText), std::vector<int32_t>{300});
  EXPECT_GT(tokenizer->Encode("<｜User｜>", SpecialText::kAsPlainText).size(), 1u);
}

}  // namespace
}  // namespace conclave
