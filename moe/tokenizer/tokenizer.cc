#include "moe/tokenizer/tokenizer.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/bpe_tokenizer.h"
#include "moe/tokenizer/json_file.h"
#include "moe/tokenizer/tiktoken.h"
#include "moe/tokenizer/tokenizer_config.h"
#include "moe/tokenizer/tokenizer_json.h"

namespace conclave {
namespace {

absl::StatusOr<std::unique_ptr<Tokenizer>> FromTokenizerJson(absl::string_view text, const TokenizerConfig& config,
                                                             const std::string& file, const std::string& config_file) {
  ASSIGN_OR_RETURN(BpeModel model, ParseTokenizerJson(text, config.bos_token, file));
  // This class adds BOS unless it is told not to.
  if (absl::StartsWith(config.tokenizer_class, "LlamaTokenizer")) model.adds_bos_by_default = true;
  return BpeTokenizer::Create(std::move(model), config, file, config_file);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& directory) {
  const std::string config_file = absl::StrCat(directory, "/tokenizer_config.json");
  const std::string json_file = absl::StrCat(directory, "/tokenizer.json");
  const std::string tiktoken_file = absl::StrCat(directory, "/tiktoken.model");
  ASSIGN_OR_RETURN(const TokenizerConfig config, ReadTokenizerConfig(directory));
  absl::StatusOr<std::string> text = ReadFileUpTo(json_file, limits::kTokenizerFileBytesMax);
  if (text.ok()) return FromTokenizerJson(*text, config, json_file, config_file);
  if (!absl::IsNotFound(text.status())) return text.status();
  text = ReadFileUpTo(tiktoken_file, limits::kTokenizerFileBytesMax);
  if (absl::IsNotFound(text.status())) {
    return absl::NotFoundError(
        absl::StrCat(directory, " has no tokenizer: neither tokenizer.json nor tiktoken.model is there"));
  }
  RETURN_IF_ERROR(text.status());
  ASSIGN_OR_RETURN(BpeModel model, ParseTiktoken(*text, config, tiktoken_file));
  return BpeTokenizer::Create(std::move(model), config, tiktoken_file, config_file);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::LoadFromJson(absl::string_view tokenizer_json,
                                                                   absl::string_view tokenizer_config_json) {
  ASSIGN_OR_RETURN(const TokenizerConfig config, ParseTokenizerConfig(tokenizer_config_json, "tokenizer_config.json"));
  return FromTokenizerJson(tokenizer_json, config, "tokenizer.json", "tokenizer_config.json");
}

std::vector<int32_t> Tokenizer::EncodeSpans(absl::Span<const TextSpan> spans) const {
  std::vector<int32_t> ids;
  for (const TextSpan& span : spans) {
    const std::vector<int32_t> more = Encode(span.text, span.special);
    ids.insert(ids.end(), more.begin(), more.end());
  }
  return ids;
}

std::vector<int32_t> EncodePrompt(const Tokenizer& tokenizer, absl::string_view text) {
  std::vector<int32_t> ids = tokenizer.Encode(text, SpecialText::kAsTokens);
  const std::optional<int32_t> bos = tokenizer.bos_id();
  if (tokenizer.add_bos() && bos.has_value() && (ids.empty() || ids[0] != *bos)) ids.insert(ids.begin(), *bos);
  return ids;
}

}  // namespace conclave
