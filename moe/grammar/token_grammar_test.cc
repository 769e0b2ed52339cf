#include "moe/grammar/token_grammar.h"

#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/grammar/char_set.h"
#include "moe/tokenizer/utf8.h"
#include "nlohmann/json.hpp"

namespace conclave {
namespace {

using ::testing::HasSubstr;

// Every byte but `without`, and texts of several bytes, some of them parts of characters.
std::shared_ptr<const TokenTrie> Vocabulary(const std::string& without = "") {
  std::vector<std::string> texts{
      "",         "{\"",   "\":",     "\": \"", "\"}",  "\"}}",  "}}",   "[[",         "]]",
      ", \"",     "true",  "tru",     "12",     "007",  "a\"",   "\xc3", "\xc3\xa9\"", "日本",
      "\xe6\x97", "\\u00", "\\ud83d", "\n  ",   "    ", "null}", "name", "na",         "aaaaaaaaaaaaaaaa",
      ""};
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    texts.push_back(without.find(c) == std::string::npos ? std::string(1, c) : "");
  }
  return std::make_shared<const TokenTrie>(std::move(texts));
}

bool Has(const TokenMask& mask, int32_t id) { return (mask.words[id / 32] >> (id % 32) & 1) != 0; }

std::shared_ptr<const TokenGrammar> Grammar(const GrammarSpec& spec, std::shared_ptr<const TokenTrie> trie) {
  GrammarPool pool(std::move(trie));
  const auto grammar = pool.Get(spec);
  EXPECT_TRUE(grammar.ok()) << grammar.status();
  return *grammar;
}

GrammarSpec Schema(const std::string& text) { return {GrammarSpec::Kind::kJsonSchema, text, {}}; }

const GrammarSpec kSpecs[] = {
    {GrammarSpec::Kind::kJsonObject, "", {}},
    Schema(R"({"properties": {"name": {"type": "string", "minLength": 20, "maxLength": 40}, "naa": {"type": "boolean"}},
               "additionalProperties": {"type": ["array", "null"], "items": {"type": "integer"}}})"),
    {GrammarSpec::Kind::kRegex, "[a-zé]{3,30}(\\d+|日本)?", {}},
    {GrammarSpec::Kind::kChoices, "", {"name", "na", "日本", "é\""}},
};

// A mask of some 15,500 states, where 16,384 may be remembered, behind 1,500 tokens with a state each.
TEST(GrammarMatcher, AMaskDoesNotFailForWhatCameBeforeIt) {
  std::vector<std::string> texts{"[\"", "a", "\","};
  std::string words;
  for (int i = 10000; i < 24000; ++i) {
    texts.push_back(absl::StrCat(i));
    absl::StrAppend(&words, words.empty() ? "" : ",", i, "11");
  }
  const auto grammar = Grammar(Schema(absl::StrCat(R"({"prefixItems": [{"type": "string", "minLength": 1500},
      {"enum": [)", words, "]}], \"minItems\": 2, \"maxItems\": 2}")),
                               std::make_shared<const TokenTrie>(std::move(texts)));
  GrammarMatcher matcher(grammar);
  ASSERT_TRUE(matcher.Take(0).ok());
  for (int i = 0; i < 1500; ++i) ASSERT_TRUE(matcher.Take(1).ok());
  ASSERT_TRUE(matcher.Take(2).ok());
  const auto mask = matcher.Allowed();
  ASSERT_TRUE(mask.ok()) << mask.status();
  EXPECT_TRUE(Has(**mask, 3) && Has(**mask, 14002) && !Has(**mask, 0));
}

// Tokens of 1,900 states, which are remembered, and of 8,500: together they have more threads than have room.
TEST(GrammarMatcher, ATokenIsNotRefusedForWhatCameBeforeIt) {
  std::vector<std::string> texts{"\"", std::string(1900, 'a'), std::string(8000, 'a')};
  GrammarMatcher matcher(Grammar(Schema(R"({"type": "string", "minLength": 9900})"),
                                 std::make_shared<const TokenTrie>(std::move(texts))));
  for (const int id : {0, 1, 2, 0}) {
    const absl::Status taken = matcher.Take(id);
    ASSERT_TRUE(taken.ok()) << taken << ", token " << id;
  }
  EXPECT_TRUE(matcher.accepts());
}

TEST(CompileGrammar, RefusesWhatBeginsInTooManyWays) {
  std::string alternatives, schemas;
  for (int i = 0; i < 3000; ++i) {
    alternatives += "a|";
    schemas += R"({"const": 1}, )";
  }
  for (const GrammarSpec& spec : {GrammarSpec{GrammarSpec::Kind::kRegex, alternatives + "b", {}},
                                  Schema(absl::StrCat("{\"anyOf\": [", schemas, "{}]}"))}) {
    const absl::Status status = CompileGrammar(spec).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(status.message(), testing::HasSubstr("too many alternatives"));
  }
}

// Random walks through every grammar: each mask is what every token would say, taken byte by byte from the start by
// another automaton.
TEST(GrammarMatcher, MasksAreThoseOfEveryTokenOnItsOwn) {
  const auto trie = Vocabulary();
  std::mt19937_64 random(1);
  for (const GrammarSpec& spec : kSpecs) {
    const auto grammar = Grammar(spec, trie);
    for (int walk = 0; walk < 3; ++walk) {
      GrammarMatcher matcher(grammar);
      std::string text;
      for (int step = 0; step < 20; ++step) {
        const auto mask = matcher.Allowed();
        ASSERT_TRUE(mask.ok()) << mask.status();
        std::vector<int32_t> allowed;
        for (int32_t id = 0; id < trie->vocab(); ++id) {
          GrammarAutomaton automaton(grammar->program());
          int32_t state = automaton.start();
          const std::string with = absl::StrCat(text, trie->text(id));
          for (size_t i = 0; i < with.size() && state >= 0; ++i) {
            state = automaton.Step(state, static_cast<uint8_t>(with[i]));
          }
          const bool expected = state >= 0 && !trie->text(id).empty();
          ASSERT_EQ(Has(**mask, id), expected) << "'" << trie->text(id) << "' behind '" << text << "'";
          if (expected) allowed.push_back(id);
        }
        EXPECT_EQ((*mask)->any, !allowed.empty());
        if (allowed.empty()) break;
        const int32_t id = allowed[random() % allowed.size()];
        ASSERT_TRUE(matcher.Take(id).ok());
        absl::StrAppend(&text, trie->text(id));
      }
    }
  }
}

// Whatever is drawn, what comes out where an answer may end is a whole text of the grammar.
TEST(GrammarMatcher, WalksEndInJson) {
  const auto trie = Vocabulary();
  std::mt19937_64 random(2);
  int ended = 0;
  for (int walk = 0; walk < 60; ++walk) {
    GrammarMatcher matcher(Grammar(kSpecs[walk % 2], trie));
    std::string text;
    for (int step = 0; step < 300; ++step) {
      const auto mask = matcher.Allowed();
      ASSERT_TRUE(mask.ok()) << mask.status();
      if ((*mask)->accepts) {
        EXPECT_TRUE(nlohmann::json::accept(text)) << text;
        ++ended;
        break;
      }
      std::vector<int32_t> allowed;
      for (int32_t id = 0; id < trie->vocab(); ++id) {
        if (Has(**mask, id)) allowed.push_back(id);
      }
      ASSERT_FALSE(allowed.empty());
      const int32_t id = allowed[random() % allowed.size()];
      ASSERT_TRUE(matcher.Take(id).ok());
      absl::StrAppend(&text, trie->text(id));
    }
  }
  EXPECT_GT(ended, 15);
}

TEST(GrammarMatcher, TakesOnlyWhatTheGrammarAllows) {
  const auto trie = Vocabulary();
  GrammarMatcher matcher(Grammar(kSpecs[3], trie));
  EXPECT_THAT(std::string(matcher.Take(0).message()), HasSubstr("does not allow the token 0"));
  EXPECT_FALSE(matcher.Take(-1).ok());
  EXPECT_FALSE(matcher.Take(trie->vocab()).ok());
  EXPECT_FALSE(matcher.accepts());
  EXPECT_TRUE(matcher.Take(24).ok()) << "name";
  EXPECT_TRUE(matcher.accepts());
  ASSERT_TRUE(matcher.Allowed().ok());
  EXPECT_FALSE((*matcher.Allowed())->any) << "nothing comes behind the whole of it";
}

TEST(GrammarMatcher, AVocabularyThatLacksTheBytesIsNamed) {
  GrammarMatcher matcher(Grammar({GrammarSpec::Kind::kChoices, "", {"xyz"}}, Vocabulary("z")));
  for (const char c : std::string("xy")) {
    ASSERT_TRUE(matcher.Allowed().ok());
    ASSERT_TRUE(matcher.Take(28 + c).ok());
  }
  EXPECT_THAT(std::string(matcher.Allowed().status().message()), HasSubstr("has no token"));
}

// Counts that are further away than any token goes are alike: a long string costs no mask a character.
TEST(GrammarAutomaton, KeysTellCountsApartOnlyWhereATokenReachesTheirEnd) {
  const auto program = CompileGrammar(Schema(R"({"type": "string", "minLength": 500, "maxLength": 1000})"));
  ASSERT_TRUE(program.ok());
  GrammarAutomaton automaton(*program);
  std::vector<std::string> keys;
  int32_t state = automaton.Step(automaton.start(), '"');
  for (int i = 0; i <= 1000; ++i) {
    keys.push_back(automaton.KeyOf(state, 16));
    state = automaton.Step(state, 'x');
  }
  EXPECT_LT(state, 0) << "a character too many";
  EXPECT_EQ(keys[0], keys[300]);
  EXPECT_EQ(keys[600], keys[900]);
  EXPECT_NE(keys[300], keys[600]);
  EXPECT_NE(keys[999], keys[1000]);
  EXPECT_NE(keys[490], keys[491]);
}

TEST(GrammarAutomaton, ForgettingChangesNothing) {
  const auto program = CompileGrammar(kSpecs[0]);
  ASSERT_TRUE(program.ok());
  GrammarAutomaton automaton(*program), other(*program);
  const std::string text = R"({"a": [1, {"b": "é", "c": [[], {}]}], "d": 1.5e3})";
  int32_t state = automaton.start(), kept = other.start();
  for (size_t i = 0; i < text.size(); ++i) {
    kept = other.Forget(kept);
    EXPECT_EQ(automaton.KeyOf(state, 8).size(), other.KeyOf(kept, 8).size());
    state = automaton.Step(state, static_cast<uint8_t>(text[i]));
    kept = other.Step(kept, static_cast<uint8_t>(text[i]));
    ASSERT_GE(state, 0) << text.substr(0, i + 1);
    ASSERT_GE(kept, 0) << text.substr(0, i + 1);
  }
  EXPECT_TRUE(automaton.Accepts(state));
  EXPECT_TRUE(other.Accepts(kept));
}

TEST(GrammarPool, KeepsWhatItCompiled) {
  GrammarPool pool(Vocabulary());
  const auto first = pool.Get(kSpecs[1]);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(*pool.Get(kSpecs[1]), *first);
  for (int i = 0; i < 40; ++i) ASSERT_TRUE(pool.Get({GrammarSpec::Kind::kChoices, "", {absl::StrCat(i)}}).ok());
  EXPECT_NE(*pool.Get(kSpecs[1]), *first) << "not for ever";
}

TEST(CompileGrammar, NamesWhatIsWrong) {
  const auto refusal = [](const GrammarSpec& spec) { return std::string(CompileGrammar(spec).status().message()); };
  EXPECT_THAT(refusal({GrammarSpec::Kind::kRegex, "a{2", {}}), HasSubstr("the pattern has a '{' without '}'"));
  EXPECT_THAT(refusal({GrammarSpec::Kind::kRegex, "(a?){2,3}", {}}), HasSubstr("may be empty"));
  EXPECT_THAT(refusal({GrammarSpec::Kind::kRegex, "a\\b", {}}), HasSubstr("'\\b'"));
  EXPECT_THAT(refusal({GrammarSpec::Kind::kRegex, "(a)\\1", {}}), HasSubstr("'\\1'"));
  EXPECT_THAT(refusal({GrammarSpec::Kind::kRegex, std::string(40, '('), {}}), HasSubstr("nested deeper"));
  EXPECT_THAT(refusal({GrammarSpec::Kind::kChoices, "", {}}), HasSubstr("0 choices"));
  EXPECT_THAT(refusal({GrammarSpec::Kind::kChoices, "", {""}}), HasSubstr("empty choice"));
  EXPECT_THAT(refusal({GrammarSpec::Kind::kRegex, "(?日)", {}}), HasSubstr("'(?\uFFFD'"));
  const std::string long_one = refusal(Schema(absl::StrCat("{\"", std::string(60000, 'k'), "\": 1}")));
  EXPECT_THAT(long_one, HasSubstr("kkk"));
  EXPECT_LT(long_one.size(), 1100u);
}

TEST(CharSet, IsUtf8AndNothingElse) {
  GrammarBuilder builder;
  const auto program = builder.Finish(AppendChar(builder, CharSet::All(), builder.Return()));
  ASSERT_TRUE(program.ok());
  GrammarAutomaton automaton(*program);
  std::mt19937 random(3);
  for (int i = 0; i < 40000; ++i) {
    std::string text;
    for (int byte = 0; byte < 1 + i % 4; ++byte)
      text += static_cast<char>(byte == 0 ? random() : 0x80 | (random() & 0x3f));
    if (i % 7 == 0) text.back() = static_cast<char>(random());
    int32_t state = automaton.start();
    for (size_t at = 0; at < text.size() && state >= 0; ++at)
      state = automaton.Step(state, static_cast<uint8_t>(text[at]));
    const bool one = IsUtf8(text) && Utf8Length(text) == 1;
    ASSERT_EQ(state >= 0 && automaton.Accepts(state), one) << testing::PrintToString(text);
  }
}

}  // namespace
}  // namespace conclave
