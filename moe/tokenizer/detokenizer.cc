#include "moe/tokenizer/detokenizer.h"

#include "moe/tokenizer/utf8.h"

namespace conclave {

std::string Detokenizer::Append(int32_t id) {
  if (tokenizer_->IsSpecial(id)) return "";
  const absl::string_view bytes = tokenizer_->TokenBytes(id);
  pending_.append(bytes.data(), bytes.size());
  std::string text;
  const size_t rest = AppendLossyUtf8(pending_, /*final=*/false, &text);
  pending_.erase(0, pending_.size() - rest);
  return text;
}

std::string Detokenizer::Flush() {
  std::string text;
  AppendLossyUtf8(pending_, /*final=*/true, &text);
  pending_.clear();
  return text;
}

}  // namespace conclave
