#include "moe/tokenizer/tokenizer_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/added_tokens_json.h"
#include "moe/tokenizer/json_file.h"

namespace conclave {
namespace {

using nlohmann::json;

// A token is its text, or an object with "content" (an AddedToken).
absl::StatusOr<std::optional<std::string>> ParseNamedToken(const json& config, const char* name,
                                                           absl::string_view file) {
  const auto member = config.find(name);
  if (member == config.end() || member->is_null()) return std::optional<std::string>();
  if (member->is_string()) return std::optional<std::string>(member->get<std::string>());
  if (member->is_object()) {
    ASSIGN_OR_RETURN(std::string content,
                     RequiredString(*member, "content", absl::StrCat(std::string(file), ": ", name)));
    return std::optional<std::string>(std::move(content));
  }
  return FileError(file, absl::StrCat(name, " must be a string or an object with content"));
}

absl::StatusOr<std::vector<AddedToken>> ParseAddedTokensDecoder(const json& config, absl::string_view file) {
  std::vector<AddedToken> tokens;
  const auto decoder = config.find("added_tokens_decoder");
  if (decoder == config.end() || decoder->is_null()) return tokens;
  if (!decoder->is_object()) return FileError(file, "added_tokens_decoder must be an object");
  for (const auto& [key, entry] : decoder->items()) {
    const std::string where = absl::StrCat(std::string(file), ": added_tokens_decoder[\"", key.substr(0, 40), "\"]");
    int64_t id = -1;
    if (!absl::SimpleAtoi(key, &id) || id < 0 || id >= limits::kVocabMax) {
      return FileError(where, absl::StrCat("the token id must be an integer within [0, ", limits::kVocabMax, ")"));
    }
    ASSIGN_OR_RETURN(AddedToken token, ParseAddedToken(entry, where));
    token.id = static_cast<int32_t>(id);
    tokens.push_back(std::move(token));
  }
  std::sort(tokens.begin(), tokens.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  for (size_t i = 1; i < tokens.size(); ++i) {  // "1" and "01" are different keys but the same id
    if (tokens[i].id == tokens[i - 1].id) {
      return FileError(file, absl::StrCat("added_tokens_decoder names id ", tokens[i].id, " twice"));
    }
  }
  return tokens;
}

absl::StatusOr<std::optional<std::string>> ParseChatTemplate(const json& config, absl::string_view file) {
  const auto member = config.find("chat_template");
  if (member == config.end() || !member->is_array()) return OptionalString(config, "chat_template", file);
  for (const json& entry : *member) {
    if (!entry.is_object()) return FileError(file, "chat_template must be a string or a list of objects");
    ASSIGN_OR_RETURN(const std::string name,
                     RequiredString(entry, "name", absl::StrCat(std::string(file), ": chat_template")));
    if (name == "default") return OptionalString(entry, "template", absl::StrCat(std::string(file), ": chat_template"));
  }
  return FileError(file, "chat_template lists no template named \"default\"");
}

}  // namespace

absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(absl::string_view text, absl::string_view file) {
  TokenizerConfig config;
  if (text.empty()) return config;
  ASSIGN_OR_RETURN(const json object, ParseJsonObject(text, file));
  ASSIGN_OR_RETURN(config.bos_token, ParseNamedToken(object, "bos_token", file));
  ASSIGN_OR_RETURN(config.eos_token, ParseNamedToken(object, "eos_token", file));
  ASSIGN_OR_RETURN(config.pad_token, ParseNamedToken(object, "pad_token", file));
  ASSIGN_OR_RETURN(config.unk_token, ParseNamedToken(object, "unk_token", file));
  ASSIGN_OR_RETURN(config.add_bos_token, OptionalBool(object, "add_bos_token", file));
  ASSIGN_OR_RETURN(const std::optional<std::string> tokenizer_class, OptionalString(object, "tokenizer_class", file));
  config.tokenizer_class = tokenizer_class.value_or("");
  ASSIGN_OR_RETURN(config.added_tokens, ParseAddedTokensDecoder(object, file));
  ASSIGN_OR_RETURN(config.chat_template, ParseChatTemplate(object, file));
  return config;
}

absl::StatusOr<TokenizerConfig> ReadTokenizerConfig(const std::string& directory) {
  const std::string path = absl::StrCat(directory, "/tokenizer_config.json");
  const absl::StatusOr<std::string> text = ReadFileUpTo(path, limits::kConfigFileBytesMax);
  if (absl::IsNotFound(text.status())) return TokenizerConfig();
  RETURN_IF_ERROR(text.status());
  if (text->empty()) return FileError(path, "is empty");
  return ParseTokenizerConfig(*text, path);
}

}  // namespace conclave
