// Answers that hold to a grammar, over a model whose logits are random.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "moe/grammar/automaton.h"
#include "moe/grammar/grammar.h"
#include "moe/grammar/token_trie.h"
#include "nlohmann/json.hpp"
#include "router_service/engine.h"
#include "router_service/engine_testing.h"
#include "router_service/fake_transformer.h"
#include "router_service/finish_reason.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

constexpr int32_t kEos = 60;

// The fake model's 61 tokens: what JSON needs, whole and in pieces; of the poison and the end nothing.
const std::vector<std::string>& Texts() {
  static const auto& texts = *new std::vector<std::string>{
      "{",  "}",  "[",  "]",  "\"", ":", ",",    " ",     "\n",   "0",  "1",   "2",    "3",   "4",    "5",    "6",
      "7",  "8",  "9",  "-",  ".",  "e", "true", "false", "null", "a",  "b",   "ab",   "{\"", "\":",  "\",",  "\"}",
      "}}", "]}", "[[", "],", "x",  "y", "z",    "\xc3",  "\xa9", "é",  "\\n", "\\\"", "日",  "\xe6", "\x97", "\xa5",
      "t",  "r",  "u",  "f",  "l",  "s", "n",    "12",    "00",   "na", "aa",  "",     ""};
  return texts;
}

EngineOptions Options() {
  EngineOptions options = TestEngineOptions();
  options.vocabulary = std::make_shared<const TokenTrie>(Texts());
  return options;
}

const GrammarSpec kSpecs[] = {
    {GrammarSpec::Kind::kJsonSchema,
     R"({"properties": {"b": {"type": "string", "maxLength": 6}, "a": {"type": "array", "items": {"type": "integer",
         "minimum": 0, "maximum": 120}, "minItems": 1, "maxItems": 3}, "ab": {"type": ["boolean", "null"]}},
         "required": ["b", "a"]})",
     {}},
    {GrammarSpec::Kind::kRegex, "(a|é|日){2,9}[0-9]+", {}},
    {GrammarSpec::Kind::kChoices, "", {"ab", "aab", "baa", "日x"}}};

EngineRequest Request(const GrammarSpec& spec, uint64_t seed) {
  EngineRequest request = TestRequest(5 + static_cast<int>(seed % 3), 80, seed);
  request.sampling = {.temperature = 1.5f, .seed = seed};
  request.sampling.frequency_penalty = seed % 2 == 0 ? 0.3f : 0.0f;
  request.grammar = spec;
  request.ignore_eos = false;
  return request;
}

std::string TextOf(const std::vector<int32_t>& ids) {
  std::string text;
  for (const int32_t id : ids) text += Texts()[id];
  return text;
}

bool Accepts(const GrammarSpec& spec, const std::string& text) {
  const auto program = CompileGrammar(spec);
  GrammarAutomaton automaton(*program);
  int32_t state = automaton.start();
  for (size_t i = 0; i < text.size() && state >= 0; ++i) state = automaton.Step(state, static_cast<uint8_t>(text[i]));
  return state >= 0 && automaton.Accepts(state);
}

std::vector<int32_t> AnswerOf(Engine& engine, const EngineRequest& request) {
  Answer answer;
  EXPECT_TRUE(engine.Submit(request, answer.Callback()).ok());
  EXPECT_TRUE(answer.Wait().status.ok()) << answer.Wait().status;
  return answer.ids();
}

TEST(EngineGrammarTest, RandomLogitsAlwaysGiveWholeTexts) {
  auto engine = MakeEngine(Options());
  int ended = 0;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const GrammarSpec& spec = kSpecs[seed % 3];
    std::vector<int32_t> ids = AnswerOf(*engine, Request(spec, seed));
    ASSERT_FALSE(ids.empty());
    if (ids.back() != kEos) continue;  // numbers and indents may be longer than 80 tokens
    ++ended;
    const std::string text = TextOf(ids);
    EXPECT_TRUE(Accepts(spec, text)) << text;
    EXPECT_TRUE(seed % 3 != 0 || nlohmann::json::accept(text)) << text;
  }
  EXPECT_GT(ended, 50);
}

TEST(EngineGrammarTest, AGreedyAnswerHoldsToItsGrammarToo) {
  auto engine = MakeEngine(Options());
  EngineRequest request = Request(kSpecs[2], 1);
  request.sampling = {};
  const std::vector<int32_t> ids = AnswerOf(*engine, request);
  EXPECT_EQ(ids.back(), kEos);
  EXPECT_TRUE(Accepts(kSpecs[2], TextOf(ids))) << TextOf(ids);
}

TEST(EngineGrammarTest, ResumesAnywhereWithTheSameIds) {
  auto engine = MakeEngine(Options());
  for (uint64_t seed = 0; seed < 3; ++seed) {
    const EngineRequest request = Request(kSpecs[seed], seed);
    const std::vector<int32_t> ids = AnswerOf(*engine, request);
    for (size_t kept = 1; kept < ids.size(); ++kept) {
      EngineRequest rest = request;
      rest.generated_ids.assign(ids.begin(), ids.begin() + static_cast<int64_t>(kept));
      EXPECT_EQ(AnswerOf(*engine, rest), std::vector<int32_t>(ids.begin() + static_cast<int64_t>(kept), ids.end()));
    }
  }
}

// Beside others, with grammars and without, on a device that draws for those and on the host.
TEST(EngineGrammarTest, BatchMatesDoNotMatter) {
  for (const bool draws : {false, true}) {
    auto alone = MakeEngine(Options());
    auto engine = draws ? MakeDrawingEngine(Options()) : MakeEngine(Options());
    std::vector<EngineRequest> requests;
    std::vector<Answer> answers(12);
    for (uint64_t seed = 0; seed < answers.size(); ++seed) {
      EngineRequest& request = requests.emplace_back(Request(kSpecs[seed % 3], seed));
      request.hash_logits = seed % 5 == 0;
      if (seed % 4 == 3) request.grammar = std::nullopt;
      ASSERT_TRUE(engine->Submit(request, answers[seed].Callback()).ok());
    }
    for (size_t i = 0; i < answers.size(); ++i) {
      const TokenEvent& last = answers[i].Wait();
      EXPECT_TRUE(last.status.ok()) << last.status;
      EXPECT_EQ(last.holds_to_grammar, requests[i].grammar.has_value());
      EXPECT_EQ(answers[i].ids(), AnswerOf(*alone, requests[i])) << i;
    }
  }
}

TEST(EngineGrammarTest, RefusesWhatCannotBeHeldTo) {
  auto engine = MakeEngine(Options());
  const auto refusal = [&engine](EngineRequest request) {
    const auto sequence = engine->Submit(std::move(request), [](const TokenEvent&) {});
    EXPECT_EQ(sequence.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(sequence.status().message());
  };
  EngineRequest request = Request(kSpecs[2], 1);
  request.ignore_eos = true;
  EXPECT_THAT(refusal(request), HasSubstr("ignore_eos"));
  request = Request(kSpecs[2], 1);
  request.min_tokens = 1;
  EXPECT_THAT(refusal(request), HasSubstr("min_tokens"));
  request = Request(kSpecs[2], 1);
  request.generated_ids = {0};
  EXPECT_THAT(refusal(request), HasSubstr("generated_ids[0]"));
  request = Request({GrammarSpec::Kind::kJsonSchema, R"({"not": {}})", {}}, 1);
  EXPECT_THAT(refusal(request), HasSubstr("#/not"));
  const auto without = MakeEngine()->Submit(Request(kSpecs[2], 1), [](const TokenEvent&) {});
  EXPECT_EQ(without.status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(EngineGrammarTest, AnAnswerThatCannotGoOnFailsAndOthersDoNot) {
  auto engine = MakeEngine(Options());
  Answer stuck, other;
  ASSERT_TRUE(engine->Submit(Request({GrammarSpec::Kind::kChoices, "", {"aQ"}}, 1), stuck.Callback()).ok());
  ASSERT_TRUE(engine->Submit(Request(kSpecs[2], 2), other.Callback()).ok());
  EXPECT_THAT(std::string(stuck.Wait().status.message()), HasSubstr("has no token"));
  EXPECT_EQ(stuck.ids().size(), 1u);
  EXPECT_TRUE(other.Wait().status.ok());
}

TEST(EngineGrammarTest, AGrammarThatCanBeReadInTooManyWaysFailsByName) {
  auto engine = MakeEngine(Options());
  EngineRequest request = Request({GrammarSpec::Kind::kRegex, "(a{1,100}){1,100}b", {}}, 1);
  request.sampling = {.logit_bias = {{58, 100.0f}}};  // "aa", for ever
  Answer answer;
  ASSERT_TRUE(engine->Submit(request, answer.Callback()).ok());
  EXPECT_EQ(answer.Wait().status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(answer.Wait().status.message()), HasSubstr("too ambiguous"));
}

}  // namespace
}  // namespace conclave
