#include "gateway/answer_text.h"

#include "absl/strings/str_cat.h"

namespace conclave {

absl::StatusOr<std::string> AnswerText::Append(absl::Span<const int32_t> ids) {
  std::string text;
  for (const int32_t id : ids) {
    if (id < 0 || id >= model_.vocab) {
      return absl::InternalError(absl::StrCat("the attention service sent the id ", id, "; the vocabulary of ",
                                              model_.name, " has ", model_.vocab));
    }
    if (model_.IsEos(id) || id >= model_.tokenizer->vocab()) continue;
    text += detokenizer_.Append(id);
  }
  return text;
}

}  // namespace conclave
