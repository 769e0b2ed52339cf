#include "moe/grammar/grammar_message.h"

namespace conclave {

absl::StatusOr<GrammarSpec> ToGrammarSpec(const v1::Grammar& grammar) {
  GrammarSpec spec;
  switch (grammar.kind_case()) {
    case v1::Grammar::kJsonObject:
      if (!grammar.json_object()) return absl::InvalidArgumentError("grammar.json_object: must be true, or absent");
      spec.kind = GrammarSpec::Kind::kJsonObject;
      return spec;
    case v1::Grammar::kJsonSchema:
      spec.kind = GrammarSpec::Kind::kJsonSchema;
      spec.text = grammar.json_schema();
      return spec;
    case v1::Grammar::kRegex:
      spec.kind = GrammarSpec::Kind::kRegex;
      spec.text = grammar.regex();
      return spec;
    case v1::Grammar::kChoices:
      spec.kind = GrammarSpec::Kind::kChoices;
      spec.choices.assign(grammar.choices().texts().begin(), grammar.choices().texts().end());
      return spec;
    case v1::Grammar::KIND_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("grammar: is of no kind that this server knows");
}

}  // namespace conclave
