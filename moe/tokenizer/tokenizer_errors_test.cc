// Files that are wrong, hostile, or beyond what is supported: a clear refusal, never a crash.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moe/tokenizer/tiny_tokenizer_for_test.h"
#include "moe/tokenizer/tokenizer.h"

namespace conclave {
namespace {

using nlohmann::json;

// INVALID_ARGUMENT whose message names the file and `part`.
void ExpectRefused(const std::string& tokenizer_json, const std::string& config, const std::string& part) {
  const absl::Status status = Tokenizer::LoadFromJson(tokenizer_json, config).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << part;
  EXPECT_TRUE(absl::StrContains(status.message(), part)) << status << " should name " << part;
  EXPECT_TRUE(absl::StartsWith(status.message(), "tokenizer")) << status;
  EXPECT_LT(status.message().size(), 2000u);
}

// The tiny tokenizer with the value at a JSON pointer replaced.
void ExpectRefusedWith(const std::string& pointer, const json& value, const std::string& part) {
  json file = TinyTokenizerJson();
  file[json::json_pointer(pointer)] = value;
  ExpectRefused(file.dump(), "", part);
}

TEST(TokenizerErrorsTest, TextThatIsNoJson) {
  ExpectRefused("", "", "tokenizer.json");
  ExpectRefused("{", "", "tokenizer.json");
  ExpectRefused("[]", "", "must be a JSON object");
  ExpectRefused("{\"a\": \"\xFF\"}", "", "tokenizer.json");
  ExpectRefused(TinyTokenizerJson().dump(), "{\"bos_token\": \"\xC0\xAF\"}", "tokenizer_config.json");
  ExpectRefused(std::string(100000, '['), "", "nested deeper");
  ExpectRefused("{\"a\":" + std::string(200, '[') + std::string(200, ']') + "}", "", "nested deeper");
  ExpectRefused("{\"a\": \"" + std::string(100000, 'x'), "", "tokenizer.json");
}

TEST(TokenizerErrorsTest, OtherModelsAndOptions) {
  ExpectRefusedWith("/model/type", "Unigram", "Unigram");
  ExpectRefusedWith("/model/type", nullptr, "type is missing");
  ExpectRefusedWith("/model", nullptr, "model must be an object");
  ExpectRefusedWith("/model/dropout", 0.1, "dropout");
  ExpectRefusedWith("/model/continuing_subword_prefix", "##", "continuing_subword_prefix");
  ExpectRefusedWith("/model/end_of_word_suffix", "</w>", "end_of_word_suffix");
  ExpectRefusedWith("/model/ignore_merges", 1, "ignore_merges");
  ExpectRefusedWith("/normalizer", {{"type", "NFC"}}, "NFC");
  ExpectRefusedWith("/decoder", {{"type", "WordPiece"}}, "WordPiece");
  ExpectRefusedWith("/decoder", nullptr, "decoder");
  ExpectRefusedWith("/post_processor", {{"type", "BertProcessing"}}, "BertProcessing");
}

TEST(TokenizerErrorsTest, Vocabularies) {
  ExpectRefusedWith("/model/vocab", json::array(), "vocab must be an object");
  ExpectRefusedWith("/model/vocab/zz", -1, "outside");
  ExpectRefusedWith("/model/vocab/zz", 1 << 30, "outside");
  ExpectRefusedWith("/model/vocab/zz", 18446744073709551615u, "outside");
  ExpectRefusedWith("/model/vocab/zz", 1.5, "must be an integer");
  ExpectRefusedWith("/model/vocab/zz", "7", "must be an integer");
  ExpectRefusedWith("/model/vocab/zz", 65, "gives id 65");
  json file = TinyTokenizerJson();
  file["model"]["vocab"].erase("a");
  ExpectRefused(file.dump(), "", "0x61");
}

TEST(TokenizerErrorsTest, Merges) {
  ExpectRefusedWith("/model/merges", 3, "merges must be a list");
  ExpectRefusedWith("/model/merges/1", {"he", "q"}, "merges[1]");
  ExpectRefusedWith("/model/merges/1", {"he", "q"}, "\"heq\"");
  ExpectRefusedWith("/model/merges/1", "zz h", "\"zz\"");
  ExpectRefusedWith("/model/merges/2", "a b c", "merges[2]");
  ExpectRefusedWith("/model/merges/2", {"a"}, "merges[2]");
  ExpectRefusedWith("/model/merges/2", {1, 2}, "merges[2]");
}

TEST(TokenizerErrorsTest, AddedTokens) {
  ExpectRefusedWith("/added_tokens", 1, "added_tokens must be a list");
  ExpectRefusedWith("/added_tokens/0", 1, "added_tokens[0]");
  ExpectRefusedWith("/added_tokens/0/content", "", "content is empty");
  ExpectRefusedWith("/added_tokens/0/content", std::string(5000, 'x'), "content is longer");
  ExpectRefusedWith("/added_tokens/0/id", -5, "outside");
  ExpectRefusedWith("/added_tokens/0/id", 1 << 29, "outside");
  ExpectRefusedWith("/added_tokens/0/id", nullptr, "added_tokens[0]");
  ExpectRefusedWith("/added_tokens/0/id", kTinyThink, "id 257");
  ExpectRefusedWith("/added_tokens/0/id", 'a', "id 97");
  ExpectRefusedWith("/added_tokens/0/content", "he", "model.vocab gives 258");
  ExpectRefusedWith("/added_tokens/0/content", "<think>", "both id");
  ExpectRefusedWith("/added_tokens/0/single_word", true, "single_word");
  ExpectRefusedWith("/added_tokens/0/lstrip", "yes", "lstrip");
}

TEST(TokenizerErrorsTest, PreTokenizers) {
  const std::string first = "/pre_tokenizer/pretokenizers/0";
  ExpectRefusedWith("/pre_tokenizer", nullptr, "pre_tokenizer is missing");
  ExpectRefusedWith(first + "/type", "Metaspace", "Metaspace");
  ExpectRefusedWith(first + "/behavior", "Sometimes", "Sometimes");
  ExpectRefusedWith(first + "/pattern", "x", "pretokenizers[0].pattern");
  ExpectRefusedWith(first + "/pattern", {{"Regex", "("}}, "does not compile");
  ExpectRefusedWith(first + "/pattern", {{"Regex", R"(\w)"}}, "\\w");
  ExpectRefusedWith(first + "/pattern", {{"String", ""}}, "String is empty");
  ExpectRefusedWith(first + "/invert", 3, "invert");
  ExpectRefusedWith("/pre_tokenizer/pretokenizers/1", {{"type", "Digits"}}, "no ByteLevel");
  ExpectRefusedWith("/pre_tokenizer/pretokenizers/2", {{"type", "Digits"}}, "after ByteLevel");
  ExpectRefusedWith("/pre_tokenizer/pretokenizers", json(std::vector<json>(100, {{"type", "Digits"}})), "stages");
}

TEST(TokenizerErrorsTest, Configurations) {
  const std::string file = TinyTokenizerJson().dump();
  ExpectRefused(file, R"({"bos_token": 3})", "bos_token");
  ExpectRefused(file, R"({"bos_token": {"text": "x"}})", "bos_token");
  ExpectRefused(file, R"({"eos_token": "<nowhere>"})", "eos_token \"<nowhere>\"");
  ExpectRefused(file, R"({"add_bos_token": true})", "add_bos_token");
  ExpectRefused(file, R"({"add_bos_token": "yes"})", "add_bos_token");
  ExpectRefused(file, R"({"chat_template": 3})", "chat_template");
  ExpectRefused(file, R"({"chat_template": [{"name": "rag", "template": ""}]})", "default");
  ExpectRefused(file, R"({"added_tokens_decoder": {"x": {"content": "a"}}})", "added_tokens_decoder");
  ExpectRefused(file, R"({"added_tokens_decoder": {"99999999999": {"content": "a"}}})", "added_tokens_decoder");
  ExpectRefused(file, R"({"added_tokens_decoder": {"1": {"content": "Q"}, "01": {"content": "R"}}})", "twice");
  ExpectRefused(file, R"({"added_tokens_decoder": {"97": {"content": "<Q>"}}})", "added_tokens_decoder");
}

TEST(TokenizerErrorsTest, DirectoriesWithoutATokenizer) {
  const absl::Status status = Tokenizer::Load(FreshDirectory("empty")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "tiktoken.model")) << status;
}

}  // namespace
}  // namespace conclave
