// What an answer may look like, and the program that says so.
#ifndef CONCLAVE_MOE_GRAMMAR_GRAMMAR_H_
#define CONCLAVE_MOE_GRAMMAR_GRAMMAR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "moe/grammar/program.h"

namespace conclave {

inline constexpr int64_t kGrammarChoicesMax = 4096;
inline constexpr int64_t kGrammarChoiceBytesMax = 128 << 10;  // of all choices

// One format.
struct GrammarSpec {
  enum class Kind {
    kJsonObject,  // any JSON object
    kJsonSchema,  // an instance of the schema `text` (json_schema.h)
    kRegex,       // a text that the pattern `text` matches as a whole (regex_grammar.h)
    kChoices,     // one of `choices`
  };
  Kind kind = Kind::kJsonObject;
  std::string text;
  std::vector<std::string> choices;

  // Equal for equal specs alone.
  std::string Key() const;
};

// INVALID_ARGUMENT says what is wrong with the text, and where: "#/properties/a/uniqueItems: this keyword is not
// supported".
absl::StatusOr<GrammarProgram> CompileGrammar(const GrammarSpec& spec);

}  // namespace conclave

#endif  // CONCLAVE_MOE_GRAMMAR_GRAMMAR_H_
