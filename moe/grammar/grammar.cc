#include "moe/grammar/grammar.h"

#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/grammar/automaton.h"
#include "moe/grammar/char_set.h"
#include "moe/grammar/json_parts.h"
#include "moe/grammar/json_schema.h"
#include "moe/grammar/regex_grammar.h"
#include "moe/tokenizer/utf8.h"

namespace conclave {
namespace {

absl::StatusOr<GrammarProgram> CompileRegex(const std::string& text) {
  const absl::StatusOr<RegexPattern> pattern = RegexPattern::Parse(text);
  if (!pattern.ok()) return absl::InvalidArgumentError(absl::StrCat("the pattern ", pattern.status().message()));
  GrammarBuilder builder;
  const auto write = [&builder](const CharSet& set, int32_t next) { return AppendChar(builder, set, next); };
  const int32_t begin = pattern->Append(builder, write, /*whole=*/true, builder.Return());
  absl::StatusOr<GrammarProgram> program = builder.Finish(begin);
  if (!program.ok()) return absl::InvalidArgumentError(absl::StrCat("the pattern ", program.status().message()));
  return program;
}

absl::StatusOr<GrammarProgram> CompileChoices(const std::vector<std::string>& choices) {
  if (choices.empty() || static_cast<int64_t>(choices.size()) > kGrammarChoicesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", choices.size(), " choices; it must have 1 to ", kGrammarChoicesMax));
  }
  int64_t bytes = 0;
  for (const std::string& choice : choices) {
    if (choice.empty()) return absl::InvalidArgumentError("has an empty choice");
    if (!IsUtf8(choice)) return absl::InvalidArgumentError("has a choice that is not UTF-8");
    bytes += static_cast<int64_t>(choice.size());
  }
  if (bytes > kGrammarChoiceBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("has choices of ", bytes, " bytes; at most ", kGrammarChoiceBytesMax, " are taken"));
  }
  GrammarBuilder builder;
  return builder.Finish(builder.Literals(choices, builder.Return()));
}

absl::StatusOr<GrammarProgram> Compile(const GrammarSpec& spec) {
  switch (spec.kind) {
    case GrammarSpec::Kind::kJsonSchema:
      return CompileJsonSchema(spec.text);
    case GrammarSpec::Kind::kRegex:
      return CompileRegex(spec.text);
    case GrammarSpec::Kind::kChoices:
      return CompileChoices(spec.choices);
    case GrammarSpec::Kind::kJsonObject:
      break;
  }
  GrammarBuilder builder;
  JsonParts parts(builder);
  return builder.Finish(parts.AnyObject(builder.Return()));
}

// A refusal quotes the caller's text: as UTF-8 whatever was cut, and no longer than others send messages on.
absl::Status Quotable(const absl::Status& refusal) {
  constexpr size_t kBytesMax = 1024;
  std::string message;
  AppendLossyUtf8(refusal.message().substr(0, kBytesMax), /*final=*/true, &message);
  if (refusal.message().size() > kBytesMax) message += "...";
  return absl::Status(refusal.code(), message);
}

}  // namespace

std::string GrammarSpec::Key() const {
  std::string key = absl::StrCat(static_cast<int>(kind), ":", text.size(), ":", text);
  for (const std::string& choice : choices) absl::StrAppend(&key, choice.size(), ":", choice);
  return key;
}

absl::StatusOr<GrammarProgram> CompileGrammar(const GrammarSpec& spec) {
  absl::StatusOr<GrammarProgram> program = Compile(spec);
  if (!program.ok()) return Quotable(program.status());
  if (GrammarAutomaton(*program).start() == GrammarAutomaton::kLimit) {
    return absl::InvalidArgumentError(absl::StrCat(spec.kind == GrammarSpec::Kind::kRegex ? "the pattern " : "#: ",
                                                   "has too many alternatives with which a text may begin"));
  }
  return program;
}

}  // namespace conclave
