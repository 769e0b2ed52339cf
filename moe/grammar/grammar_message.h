// A grammar as it travels: conclave.v1.Grammar.
#ifndef CONCLAVE_MOE_GRAMMAR_GRAMMAR_MESSAGE_H_
#define CONCLAVE_MOE_GRAMMAR_GRAMMAR_MESSAGE_H_

#include "absl/status/statusor.h"
#include "conclave/v1/inference.pb.h"
#include "moe/grammar/grammar.h"

namespace conclave {

// INVALID_ARGUMENT: of no kind, or of one that is not known here.
absl::StatusOr<GrammarSpec> ToGrammarSpec(const v1::Grammar& grammar);

}  // namespace conclave

#endif  // CONCLAVE_MOE_GRAMMAR_GRAMMAR_MESSAGE_H_
