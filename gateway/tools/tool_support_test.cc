#include "gateway/tools/tool_support.h"

#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/match.h"
#include "gateway/tools/tool_call_format.h"
#include "moe/tokenizer/chat_template.h"
#include "moe/tokenizer/tiny_tokenizer_for_test.h"

namespace conclave {
namespace {

using nlohmann::json;

std::unique_ptr<ChatTemplate> FromSource(const std::string& source) {
  const json config = {{"bos_token", "<BOS>"}, {"eos_token", "<EOS>"}, {"chat_template", source}};
  auto chat_template = ChatTemplate::LoadFromJson(config.dump());
  EXPECT_TRUE(chat_template.ok()) << chat_template.status();
  return *std::move(chat_template);
}

ToolSupport Support(const std::string& source, const std::string& parser = "auto") {
  return FindToolSupport(FromSource(source).get(), *TinyTokenizer(), parser);
}

TEST(ToolSupportTest, TheTemplateShowsTheForm) {
  std::ifstream stream("moe/tokenizer/testdata/tool_templates.json");
  const json templates = json::parse(stream)["templates"];
  ASSERT_EQ(templates.size(), 4u);
  for (const auto& [name, source] : templates.items()) {
    const ToolSupport support = Support(source);
    ASSERT_NE(support.format, nullptr) << name;
    EXPECT_EQ(support.format->name, name);
    EXPECT_TRUE(support.shows_calls) << name;
    EXPECT_EQ(support.arguments_as_mappings, name == "hermes") << name;
    EXPECT_EQ(support.words_apart, name == "deepseek_v3") << name;
    // As published, DeepSeek-V3's tells the model of no functions.
    EXPECT_EQ(support.preamble.empty(), name != "deepseek_v3") << name;
  }
}

TEST(ToolSupportTest, ATemplateMayTellOfFunctionsAndShowNoCalls) {
  const ToolSupport kimi =
      Support("{% if tools %}<|im_system|>tool_declare<|im_middle|>{{ tools | tojson }}{% endif %}");
  ASSERT_NE(kimi.format, nullptr);
  EXPECT_EQ(kimi.format->name, "kimi_k2");
  EXPECT_FALSE(kimi.shows_calls);
  EXPECT_EQ(kimi.preamble, "");
}

TEST(ToolSupportTest, WithoutAFormFunctionsAreRefused) {
  const std::string plain = "{% for m in messages %}{{ m.content }}{% endfor %}";
  const ToolSupport none = Support(plain);
  EXPECT_EQ(none.format, nullptr);
  EXPECT_TRUE(absl::StrContains(none.status.message(), "--tool-call-parser")) << none.status;
  EXPECT_FALSE(none.shows_calls);
  EXPECT_FALSE(Support("<tool_call>{{ x }}<arg_key>").format) << "another form between the same tags";
  EXPECT_FALSE(Support("<tool_call>{{ x }}", "none").format);
  EXPECT_FALSE(FindToolSupport(nullptr, *TinyTokenizer(), "hermes").format);
  const ToolSupport named = Support(plain, "hermes");
  ASSERT_NE(named.format, nullptr);
  EXPECT_TRUE(named.status.ok());
  EXPECT_FALSE(named.preamble.empty());
}

TEST(ToolSupportTest, MarkersThatAreSpecialTokensAreKnown) {
  json file = TinyTokenizerJson();
  file["added_tokens"].push_back({{"id", 300}, {"content", "</tool_call>"}, {"special", true}});
  file["added_tokens"].push_back({{"id", 299}, {"content", "<tool_call>"}, {"special", true}});
  const auto tokenizer = Tokenizer::LoadFromJson(file.dump(), "");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(FindToolSupport(FromSource("x").get(), **tokenizer, "hermes").marker_ids, (std::vector<int32_t>{299, 300}));
  EXPECT_TRUE(Support("x", "hermes").marker_ids.empty());
}

// Every preamble is a template that runs, and shows what it must.
TEST(ToolSupportTest, PreamblesTellOfEveryFunctionAndOfTheForm) {
  const auto chat_template = FromSource("{{ messages[0].content }}");
  for (const ToolCallFormat& format : ToolCallFormats()) {
    ChatTools tools;
    tools.preamble = std::string(format.preamble);
    tools.definitions = {
        R"({"type": "function", "function": {"name": "f", "description": "Does it.", "parameters": {"b": 1, "a": 2}}})",
        R"({"type": "function", "function": {"name": "g", "description": null}})"};
    const auto pieces = chat_template->Render(std::vector<ChatTurn>{{"user", "?"}}, true, tools);
    ASSERT_TRUE(pieces.ok()) << format.name << ": " << pieces.status();
    std::string text;
    for (const PromptPiece& piece : *pieces) text += piece.text;
    EXPECT_TRUE(absl::StrContains(text,
                                  "following functions.\n\n### f\nDescription: Does it.\n\nParameters: {\"b\": 1, "
                                  "\"a\": 2}\n\n### g\nDescription: none\n\nParameters: {}\n\nTo call"))
        << text;
    for (const absl::string_view marker : {format.call_begin, format.call_end, format.header_end}) {
      EXPECT_TRUE(absl::StrContains(text, marker)) << format.name << ": " << marker;
    }
  }
}

TEST(ToolSupportTest, TheFlagsValueIsChecked) {
  for (const char* parser : {"auto", "none", "deepseek_v3", "deepseek_v31", "kimi_k2", "hermes"}) {
    EXPECT_TRUE(ValidateToolCallParser(parser).ok()) << parser;
  }
  EXPECT_TRUE(absl::StrContains(ValidateToolCallParser("qwen").message(), "auto, none, deepseek_v3, deepseek_v31"));
}

}  // namespace
}  // namespace conclave
