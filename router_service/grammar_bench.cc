// grammar_bench --model DIR: what grammars cost with the vocabulary of a model: compiling, the first mask of a state, a
// mask that is known, and taking a token. The texts are written by random draws among allowed tokens.
#include <cstdint>
#include <functional>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "moe/base/quantile.h"
#include "moe/base/status_macros.h"
#include "moe/daemon/flags.h"
#include "moe/grammar/token_grammar.h"

namespace conclave {
namespace {

constexpr char kSchema[] = R"({"type": "object", "properties": {
    "title": {"type": "string", "maxLength": 200}, "kind": {"enum": ["article", "book", "report"]},
    "year": {"type": "integer", "minimum": 1900, "maximum": 2100}, "url": {"type": "string"},
    "authors": {"type": "array", "items": {"$ref": "#/$defs/person"}, "minItems": 1, "maxItems": 20},
    "published": {"type": ["string", "null"], "format": "date-time"}, "score": {"type": "number"}},
    "required": ["title", "kind", "year", "authors"], "additionalProperties": false,
    "$defs": {"person": {"type": "object", "properties": {"name": {"type": "string", "minLength": 1},
    "email": {"type": "string", "format": "email"}, "knows": {"type": "array", "items": {"$ref": "#/$defs/person"}}},
    "required": ["name"], "additionalProperties": false}}})";

struct Figures {
  std::vector<double> compile, first, again, take;  // microseconds
};

double Microseconds(absl::Time since) { return absl::ToDoubleMicroseconds(absl::Now() - since); }

// One answer of at most so many tokens. New masks are told from known ones by asking for each twice.
absl::Status Walk(const std::shared_ptr<const TokenGrammar>& grammar, int tokens, std::mt19937_64& random,
                  Figures& figures) {
  GrammarMatcher matcher(grammar);
  for (int i = 0; i < tokens; ++i) {
    const absl::Time begin = absl::Now();
    ASSIGN_OR_RETURN(const TokenMask* const mask, matcher.Allowed());
    figures.first.push_back(Microseconds(begin));
    const absl::Time once_more = absl::Now();
    RETURN_IF_ERROR(matcher.Allowed().status());
    figures.again.push_back(Microseconds(once_more));
    std::vector<int32_t> allowed;
    for (int32_t id = 0; id < grammar->trie().vocab(); ++id) {
      if ((mask->words[id / 32] >> (id % 32) & 1) != 0) allowed.push_back(id);
    }
    if (allowed.empty()) break;
    const int32_t id = allowed[random() % allowed.size()];
    const absl::Time taking = absl::Now();
    RETURN_IF_ERROR(matcher.Take(id));
    figures.take.push_back(Microseconds(taking));
  }
  return absl::OkStatus();
}

void Print(const char* name, const char* what, const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  std::cout << absl::StrFormat("%-12s %-21s median %7.1f us, 99%% %7.1f us, most %8.1f us, mean %7.1f us, %d of them\n",
                               name, what, MedianOf(values), QuantileOf(values, 0.99), QuantileOf(values, 1),
                               sum / static_cast<double>(values.size()), values.size());
}

absl::Status Measure(const char* name, const GrammarSpec& spec, const std::shared_ptr<const TokenTrie>& trie) {
  Figures figures;
  for (int i = 0; i < 20; ++i) {
    const absl::Time begin = absl::Now();
    RETURN_IF_ERROR(CompileGrammar(spec).status());
    figures.compile.push_back(Microseconds(begin));
  }
  GrammarPool pool(trie);
  ASSIGN_OR_RETURN(const auto grammar, pool.Get(spec));
  std::mt19937_64 random(1);
  Print(name, "compile", figures.compile);
  RETURN_IF_ERROR(Walk(grammar, 400, random, figures));
  Print(name, "mask, first answer", figures.first);
  figures.first.clear();
  for (int i = 0; i < 20; ++i) RETURN_IF_ERROR(Walk(grammar, 400, random, figures));
  Print(name, "mask, 20 answers more", figures.first);
  Print(name, "mask, known", figures.again);
  Print(name, "take a token", figures.take);
  return absl::OkStatus();
}

absl::Status Main(const std::string& model, int vocab) {
  const absl::Time begin = absl::Now();
  ASSIGN_OR_RETURN(const auto trie, TokenTrie::Load(model, vocab, {}));
  std::cout << absl::StrFormat("%d tokens, %d nodes, read in %s\n", trie->ids().size(), trie->nodes().size() - 1,
                               absl::FormatDuration(absl::Now() - begin));
  RETURN_IF_ERROR(Measure("json_object", {GrammarSpec::Kind::kJsonObject, "", {}}, trie));
  return Measure("json_schema", {GrammarSpec::Kind::kJsonSchema, kSchema, {}}, trie);
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  std::string model;
  int vocab = 129280;
  conclave::Flags flags("grammar_bench", "Measures what grammars cost with the vocabulary of a model.");
  flags.Add("model", &model, "directory with a tokenizer.json");
  flags.Add("vocab", &vocab, "ids of the model");
  const absl::StatusOr<bool> parsed = flags.Parse(argc, argv);
  if (!parsed.ok()) return conclave::ExitWith("grammar_bench", parsed.status(), 2);
  return *parsed ? conclave::ExitWith("grammar_bench", conclave::Main(model, vocab), 1) : 0;
}
