// The text of one answer as its ids come: whole characters only, and no end-of-sequence token.
#ifndef CONCLAVE_GATEWAY_ANSWER_TEXT_H_
#define CONCLAVE_GATEWAY_ANSWER_TEXT_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "gateway/served_model.h"
#include "moe/tokenizer/detokenizer.h"

namespace conclave {

// One per answer; used by one thread at a time. `model` must outlive it.
class AnswerText {
 public:
  explicit AnswerText(const ServedModel& model) : model_(model), detokenizer_(model.tokenizer.get()) {}
  // The text that became certain with `ids`. Ids that the model has and the tokenizer lacks have no text.
  // INTERNAL: an id that the model does not have.
  absl::StatusOr<std::string> Append(absl::Span<const int32_t> ids);
  // What is left at the end: an incomplete character becomes U+FFFD.
  std::string Flush() { return detokenizer_.Flush(); }

 private:
  const ServedModel& model_;
  Detokenizer detokenizer_;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_ANSWER_TEXT_H_
