#include "gateway/tools/tool_call_parser.h"

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gateway/tools/tool_call_format.h"

namespace conclave {
namespace {

// What an answer came to: its text, then each call as "[name arguments]".
struct Parsed {
  std::string shown;
  std::vector<std::string> ids;
  int deltas = 0;
  bool done = false;
};

class Reader {
 public:
  Reader(const std::string& format, bool single, bool begins_in_thought)
      : parser_(ToolCallParser::Create({FindToolCallFormat(format), single, begins_in_thought})) {}

  void Append(absl::string_view text) {
    Take([&](v1::GenerateResponse& chunk) { parser_->Append(text, chunk); });
  }
  Parsed Finish() {
    Take([&](v1::GenerateResponse& chunk) { parser_->Flush(chunk); });
    Parsed parsed{text_, {}, deltas_, parser_->done()};
    for (const v1::ToolCallDelta& call : calls_) {
      absl::StrAppend(&parsed.shown, "[", call.name(), " ", call.arguments(), "]");
      parsed.ids.push_back(call.id());
    }
    EXPECT_EQ(parser_->calls(), static_cast<int>(calls_.size()));
    return parsed;
  }

 private:
  template <typename Function>
  void Take(Function function) {
    v1::GenerateResponse chunk;
    function(chunk);
    text_ += chunk.text();
    deltas_ += chunk.tool_calls_size();
    for (const v1::ToolCallDelta& delta : chunk.tool_calls()) {
      if (static_cast<size_t>(delta.index()) == calls_.size()) {
        EXPECT_FALSE(delta.name().empty() || delta.id().empty());
        calls_.emplace_back();
      } else {
        EXPECT_EQ(static_cast<size_t>(delta.index()) + 1, calls_.size()) << "calls come one after the other";
        EXPECT_TRUE(delta.name().empty() && delta.id().empty()) << "only the first part names the call";
      }
      calls_.back().mutable_id()->append(delta.id());
      calls_.back().mutable_name()->append(delta.name());
      calls_.back().mutable_arguments()->append(delta.arguments());
    }
  }

  std::unique_ptr<ToolCallParser> parser_;
  std::string text_;
  std::vector<v1::ToolCallDelta> calls_;
  int deltas_ = 0;
};

Parsed Read(const std::string& format, const std::vector<absl::string_view>& pieces, bool single = false,
            bool begins_in_thought = false) {
  Reader reader(format, single, begins_in_thought);
  for (const absl::string_view piece : pieces) reader.Append(piece);
  return reader.Finish();
}

// Long markers by short names.
std::string Spell(absl::string_view text) {
  return absl::StrReplaceAll(text, {{"<<", "<｜tool▁calls▁begin｜>"},
                                    {">>", "<｜tool▁calls▁end｜>"},
                                    {"{(", "<｜tool▁call▁begin｜>"},
                                    {")}", "<｜tool▁call▁end｜>"},
                                    {"|/|", "<｜tool▁sep｜>"},
                                    {"K<", "<|tool_calls_section_begin|>"},
                                    {">K", "<|tool_calls_section_end|>"},
                                    {"k(", "<|tool_call_begin|>"},
                                    {")k", "<|tool_call_end|>"},
                                    {"k=", "<|tool_call_argument_begin|>"},
                                    {"T(", "<tool_call>"},
                                    {")T", "</tool_call>"}});
}

struct Case {
  const char* format;
  const char* answer;
  const char* shown;
};

constexpr Case kCases[] = {
    // Calls as the models write them.
    {"deepseek_v3", "Hm.\n<<{(function|/|f\n```json\n{\"a\": 1}\n```)}>>", "Hm.[f {\"a\": 1}]"},
    {"deepseek_v3", "<<{(function|/|f\n```json\n{}\n```)}\n{(function|/|g-2\n```json\n{\"x\": \"```\\n\"}\n```)}>>\n",
     "[f {}][g-2 {\"x\": \"```\\n\"}]"},
    {"deepseek_v31", "<<{(f|/|{\"a\": \"é▁｜\"})}{(g|/|{})}>>", "[f {\"a\": \"é▁｜\"}][g {}]"},
    {"deepseek_v31", "Wait.<<{(f|/|{\"a\": [1,\n 2]}\n)}>>", "Wait.[f {\"a\": [1,\n 2]}]"},
    {"kimi_k2", "I look. K<k(functions.f:0k={\"a\": 1})kk(functions.g:1k={})k>K", "I look.[f {\"a\": 1}][g {}]"},
    {"kimi_k2", "K<\nk(functions.f:0\nk=  {\"a\": 1}\n)k\n>K\n", "[f {\"a\": 1}]"},
    {"hermes", "So:\nT(\n{\"name\": \"f\", \"arguments\": {\"a\": \")T}\"}}\n)T", "So:[f {\"a\": \"</tool_call>}\"}]"},
    {"hermes", "T({\"arguments\": {\"a\": [1, {}]}, \"name\": \"f\"})T\nT({\"name\":\"g\",\"arguments\":{}})T",
     "[f {\"a\": [1, {}]}][g {}]"},
    {"hermes", "T({\"id\": 7, \"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"})T", "[f {\"a\": 1}]"},
    // Small liberties.
    {"deepseek_v31", "{(f|/|{})}", "[f {}]"},
    {"deepseek_v31", "<<{(f|/|)}>>", "[f {}]"},
    {"deepseek_v31", "<<{(f|/|{}{(g|/|{}>>", "[f {}][g {}]"},
    {"deepseek_v3", "<<{(function|/|f\n```json\n{\"a\": 1}\n```", "[f {\"a\": 1}]"},
    {"kimi_k2", "k(f:12k={})k", "[f {}]"},
    {"kimi_k2", "K<k(functions.f:ak={})k>K", "k(functions.f:ak={})k"},
    {"hermes", "T({\"name\": \"f\"})T", "[f {}]"},
    {"hermes", "T({\"name\": \"f\", \"arguments\": null })T", "[f null]"},
    {"hermes", "T({\"name\": \"f\", \"arguments\": {}}", "[f {}]"},
    {"hermes", "T({\"name\": \"f\"}\nT({\"name\": \"g\"})T", "[f {}][g {}]"},
    {"hermes", "T({\"name\": \"f\" T({\"name\": \"g\"})T", "[f {}][g {}]"},
    {"hermes", "T({\"name\": \"f\", \"arguments\": {\"a\": 1}, \"parameters\": {}})T", "[f {\"a\": 1}]"},
    {"hermes", "T({\"arguments\": \"{}\", \"arguments\": {\"a\": 1}, \"name\": \"f\"})T", "[f {}]"},
    // No JSON: a line ends within a string. It is the client's to refuse, not ours to lose.
    {"hermes", "T({\"name\": \"f\", \"arguments\": \"{1\n}\"})T", "[f \"{1\n}\"]"},
    // Text stays text.
    {"deepseek_v31", "  plain <｜ text <｜tool▁ \n", "  plain <｜ text <｜tool▁ \n"},
    {"deepseek_v3", "```json\n{}\n```\n", "```json\n{}\n```\n"},
    {"deepseek_v3", "<think>\n<<{(function|/|f\n```json\n{}\n```)}>></think>\n\nNo.",
     "<think>\n<<{(function|/|f\n```json\n{}\n```)}>></think>\n\nNo."},
    {"hermes", " <think>T({\"name\": \"f\"})T</think>T({\"name\": \"g\"})T",
     " <think>T({\"name\": \"f\"})T</think>[g {}]"},
    {"hermes", "<think", "<think"},
    {"hermes", "<think>so", "<think>so"},
    {"hermes", " \n", " \n"},
    {"hermes", "", ""},
    // What is no call is text, and the next one is read.
    {"deepseek_v31", "a \n<<{(a name|/|{})}{(f|/|{})}>>", "a \n{(a name|/|{})}[f {}]"},
    {"deepseek_v31", "<<{(f)}>>", "{(f)}"},
    {"deepseek_v31", "<<{(f{(g|/|{})}", "{(f[g {}]"},
    {"deepseek_v31", "<<{(f", "{(f"},
    {"deepseek_v31", "<<{(f|/", "{(f|/"},
    {"deepseek_v3", "<<{(f\n```json\n{}\n```)}>>", "{(f\n```json\n{}\n```)}"},
    {"kimi_k2", "K<k(functions.:0k={})k>K", "k(functions.:0k={})k"},
    {"hermes", "T(no)T T({\"name\": \"f\", \"arguments\": {}})T", "T(no)T[f {}]"},
    {"hermes", "T(T({\"name\": \"f\"})T", "T([f {}]"},
    {"hermes", "T({T({\"name\": \"f\"})T", "T({[f {}]"},
    {"hermes", "T({\"name\": \"f x\"})T", "T({\"name\": \"f x\"})T"},
    {"hermes", "T({\"name\": 7})T", "T({\"name\": 7})T"},
    {"hermes", "T({\"arguments\": {}})T", "T({\"arguments\": {}})T"},
    {"hermes", "T({\"name\"", "T({\"name\""},
    // Cut off.
    {"deepseek_v31", "<<{(f|/|{\"a\": \"b", "[f {\"a\": \"b]"},
    {"deepseek_v31", "<<{(f|/|{\"a\"<｜tool", "[f {\"a\"<｜tool]"},
    {"kimi_k2", "K<k(functions.f:0k=", "[f ]"},
    {"hermes", "T({\"name\": \"f\", \"arguments\": {\"a\": 1", "[f {\"a\": 1]"},
};

TEST(ToolCallParserTest, ReadsEveryFormWhereverItIsSplit) {
  for (const Case& test_case : kCases) {
    const std::string answer = Spell(test_case.answer);
    const std::string expected = Spell(test_case.shown);
    EXPECT_EQ(Read(test_case.format, {answer}).shown, expected) << test_case.format << ": " << answer;
    std::vector<absl::string_view> bytes;
    for (size_t i = 0; i < answer.size(); ++i) bytes.push_back(absl::string_view(answer).substr(i, 1));
    EXPECT_EQ(Read(test_case.format, bytes).shown, expected) << test_case.format << ", byte by byte: " << answer;
    for (size_t i = 1; i < answer.size(); ++i) {
      const absl::string_view text = answer;
      EXPECT_EQ(Read(test_case.format, {text.substr(0, i), text.substr(i)}).shown, expected)
          << test_case.format << ", split at " << i << ": " << answer;
    }
  }
}

TEST(ToolCallParserTest, ArgumentsComeAsTheyAreWritten) {
  for (const auto& [format, begin, end] :
       std::vector<std::array<const char*, 3>>{{"deepseek_v3", "<<{(function|/|f\n```json\n", "\n```)}>>"},
                                               {"deepseek_v31", "<<{(f|/|", ")}>>"},
                                               {"kimi_k2", "K<k(functions.f:3k=", ")k>K"},
                                               {"hermes", "T({\"name\": \"f\", \"arguments\": ", "})T"}}) {
    ToolCallReading reading{FindToolCallFormat(format)};
    const auto parser = ToolCallParser::Create(reading);
    v1::GenerateResponse head, body, tail;
    parser->Append(Spell(begin), head);
    ASSERT_EQ(head.tool_calls_size(), 1) << format << ": the name comes before the arguments";
    EXPECT_EQ(head.tool_calls(0).name(), "f");
    EXPECT_EQ(head.tool_calls(0).arguments(), "");
    parser->Append("{\"city\": \"Ro", body);
    ASSERT_EQ(body.tool_calls_size(), 1) << format;
    EXPECT_EQ(body.tool_calls(0).arguments(), "{\"city\": \"Ro") << format;
    parser->Append(Spell(absl::StrCat("me\"}", end)), tail);
    EXPECT_EQ(tail.tool_calls(0).arguments(), "me\"}") << format;
    EXPECT_EQ(tail.text(), "") << format;
  }
}

TEST(ToolCallParserTest, KimisIdsStayOthersAreDrawn) {
  EXPECT_EQ(Read("kimi_k2", {Spell("K<k(functions.f:4k={})kk(functions.f:5k={})k>K")}).ids,
            (std::vector<std::string>{"functions.f:4", "functions.f:5"}));
  // A model that miscounts.
  EXPECT_EQ(Read("kimi_k2", {Spell("K<k(functions.f:2k={})kk(functions.f:0k={})kk(functions.f:0k={})k>K")}).ids,
            (std::vector<std::string>{"functions.f:2", "functions.f:0", "functions.f:3"}));
  const auto ids = Read("deepseek_v31", {Spell("<<{(f|/|{})}{(f|/|{})}>>")}).ids;
  ASSERT_EQ(ids.size(), 2u);
  EXPECT_TRUE(absl::StartsWith(ids[0], "call_"));
  EXPECT_NE(ids[0], ids[1]);
}

TEST(ToolCallParserTest, ASingleCallEndsTheAnswer) {
  for (const auto& [format, answer] :
       std::vector<std::pair<std::string, std::string>>{{"deepseek_v31", "a<<{(f|/|{})}{(g|/|{})}>>b"},
                                                        {"kimi_k2", "aK<k(functions.f:0k={})kk(functions.g:1k={})k>Kb"},
                                                        {"hermes", "aT({\"name\": \"f\"})T T({\"name\": \"g\"})Tb"}}) {
    const Parsed one = Read(format, {Spell(answer)}, /*single=*/true);
    EXPECT_EQ(one.shown, "a[f {}]") << format;
    EXPECT_TRUE(one.done);
    EXPECT_FALSE(Read(format, {Spell(answer)}).done);
  }
}

TEST(ToolCallParserTest, AnAnswerThatBeginsInThoughtIsReadBehindIt) {
  const std::string answer = Spell("hm T({\"name\": \"f\"})T</think>\nT({\"name\": \"g\"})T");
  EXPECT_EQ(Read("hermes", {answer}, false, /*begins_in_thought=*/true).shown,
            Spell("hm T({\"name\": \"f\"})T</think>[g {}]"));
}

// What a prompt is continued with to force a call is read as if the model had written it.
TEST(ToolCallParserTest, ForcedBeginningsAreBeginningsOfCalls) {
  for (const ToolCallFormat& format : ToolCallFormats()) {
    const auto parser = ToolCallParser::Create({&format});
    v1::GenerateResponse chunk;
    parser->Append(CallBeginning(format, "get_weather", 2), chunk);
    ASSERT_EQ(chunk.tool_calls_size(), 1) << format.name;
    EXPECT_EQ(chunk.tool_calls(0).name(), "get_weather");
    EXPECT_EQ(chunk.text(), "");
    const bool named_by_id = format.header == CallHeader::kId;
    EXPECT_EQ(chunk.tool_calls(0).id() == "functions.get_weather:2", named_by_id) << format.name;
    const auto open = ToolCallParser::Create({&format});
    v1::GenerateResponse unnamed;
    open->Append(CallBeginning(format, "", 0), unnamed);
    EXPECT_EQ(unnamed.tool_calls_size(), 0) << format.name;
    EXPECT_EQ(unnamed.text(), "");
  }
}

TEST(ToolCallParserTest, WorkIsLinearInHostileAnswers) {
  std::string name(1 << 15, 'x'), space(1 << 15, ' '), fence(1 << 15, '`'), half;
  for (int i = 0; i < (1 << 11); ++i) half += "<｜tool▁call▁";
  for (const ToolCallFormat& format : ToolCallFormats()) {
    for (const std::string* body : {&name, &space, &fence, &half}) {
      Reader reader(std::string(format.name), false, false);
      reader.Append(CallBeginning(format, "", 0));
      for (const char byte : *body) reader.Append(absl::string_view(&byte, 1));
      reader.Append(CallBeginning(format, "f", 0));
      for (const char byte : *body) reader.Append(absl::string_view(&byte, 1));
      EXPECT_LE(reader.Finish().ids.size(), 2u);
    }
  }
}

TEST(ToolCallParserTest, WhiteSpaceThatAnAnswerBeginsWithIsReadOnce) {
  const std::string answer = absl::StrCat(std::string(1 << 20, '\n'), Spell("T({\"name\": \"f\"})T"));
  EXPECT_EQ(Read("hermes", {answer}).shown, "[f {}]");
}

TEST(ToolCallParserTest, AMarkerMayBeginWhereAHeaderHasBecomeTooLong) {
  const std::string header(256, 'x');
  EXPECT_EQ(Read("deepseek_v31", {Spell(absl::StrCat("{(", header, "<")), Spell("{(f|/|{})}")}).shown,
            Spell(absl::StrCat("{(", header, "<[f {}]")));
}

TEST(ToolCallFormatTest, NamesOfFunctionsAreOpenAIs) {
  for (const char* name :
       {"f", "get_weather", "A-1", "0123456789012345678901234567890123456789012345678901234567890123"}) {
    EXPECT_TRUE(IsFunctionName(name)) << name;
  }
  for (const char* name :
       {"", "a b", "a.b", "é", "<", "01234567890123456789012345678901234567890123456789012345678901234"}) {
    EXPECT_FALSE(IsFunctionName(name)) << name;
  }
  EXPECT_EQ(FindToolCallFormat("nothing"), nullptr);
}

}  // namespace
}  // namespace conclave
