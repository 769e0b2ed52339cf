// JSON Schema (draft 2020-12) as a grammar. Every text of the grammar is an instance of the schema; not every instance
// is a text of the grammar: members come in the order of `properties`, white space and digits have an end
// (json_parts.h), and members that are not listed come where `additionalProperties` asks for them alone, or where
// nothing is listed.
#ifndef CONCLAVE_MOE_GRAMMAR_JSON_SCHEMA_H_
#define CONCLAVE_MOE_GRAMMAR_JSON_SCHEMA_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moe/grammar/program.h"

namespace conclave {

inline constexpr int64_t kSchemaBytesMax = 128 << 10;

// INVALID_ARGUMENT names what is wrong or not supported by its JSON pointer: "#/properties/a/uniqueItems: …". Nothing
// is ignored but what JSON Schema calls annotations, and `x-…`. oneOf is taken as anyOf. Time and memory are
// linear in the size of the text, but for the heights of recursive schemas (program.h).
absl::StatusOr<GrammarProgram> CompileJsonSchema(absl::string_view schema);

}  // namespace conclave

#endif  // CONCLAVE_MOE_GRAMMAR_JSON_SCHEMA_H_
