#include "moe/tokenizer/tiktoken.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/json_file.h"

namespace conclave {
namespace {

constexpr int kSpecialTokens = 256;
// Every split of a token is looked at, so that its length must be bounded.
constexpr size_t kTokenBytesMax = 1024;

// The split pattern that Moonshot publishes with its models (tokenization_kimi.py, pat_str).
constexpr char kKimiPattern[] =
    R"([\p{Han}]+)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+)"
    R"(|\s+(?!\S))"
    R"(|\s+)";

absl::StatusOr<std::vector<std::string>> ParseRanks(absl::string_view text, const std::string& file) {
  const std::vector<absl::string_view> lines = absl::StrSplit(text, '\n', absl::SkipWhitespace());
  if (lines.size() > static_cast<size_t>(limits::kVocabMax - kSpecialTokens)) {
    return FileError(file, absl::StrCat(lines.size(), " tokens, more than are supported"));
  }
  std::vector<std::string> tokens(lines.size());
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::string where = absl::StrCat(file, ": token line ", i + 1);
    const std::vector<absl::string_view> fields = absl::StrSplit(lines[i], absl::ByAnyChar(" \r"), absl::SkipEmpty());
    std::string bytes;
    int64_t rank = -1;
    if (fields.size() != 2 || !absl::Base64Unescape(fields[0], &bytes) || bytes.empty() ||
        !absl::SimpleAtoi(fields[1], &rank)) {
      return FileError(where, "must be a token in base64 and its rank");
    }
    if (bytes.size() > kTokenBytesMax) return FileError(where, absl::StrCat("longer than ", kTokenBytesMax, " bytes"));
    if (rank < 0 || rank >= static_cast<int64_t>(tokens.size())) {
      return FileError(where, absl::StrCat("rank ", rank, " is outside [0, ", tokens.size(), ")"));
    }
    if (!tokens[rank].empty()) return FileError(where, absl::StrCat("rank ", rank, " stands twice"));
    tokens[rank] = std::move(bytes);
  }
  return tokens;
}

// tiktoken joins two neighbours wherever their bytes together are a token, and ranks the pair by that token's id.
absl::Status AddMerges(const std::string& file, BpeModel* model) {
  absl::flat_hash_map<absl::string_view, int32_t> ids;
  ids.reserve(model->token_bytes.size());
  for (size_t id = 0; id < model->token_bytes.size(); ++id) {
    if (!ids.emplace(model->token_bytes[id], static_cast<int32_t>(id)).second) {
      return FileError(file, absl::StrCat("the token of rank ", id, " stands twice"));
    }
  }
  for (size_t id = 0; id < model->token_bytes.size(); ++id) {
    const absl::string_view bytes = model->token_bytes[id];
    for (size_t cut = 1; cut < bytes.size(); ++cut) {
      const auto left = ids.find(bytes.substr(0, cut));
      if (left == ids.end()) continue;
      const auto right = ids.find(bytes.substr(cut));
      if (right == ids.end()) continue;
      model->merger.Add(left->second, right->second, {static_cast<int32_t>(id), static_cast<int32_t>(id)});
    }
  }
  return absl::OkStatus();
}

std::vector<AddedToken> SpecialTokens(const TokenizerConfig& config, int32_t first) {
  std::vector<AddedToken> tokens(kSpecialTokens);
  for (int32_t i = 0; i < kSpecialTokens; ++i) {
    tokens[i].id = first + i;
    tokens[i].content = absl::StrCat("<|reserved_token_", first + i, "|>");
    tokens[i].special = true;
  }
  for (const AddedToken& named : config.added_tokens) {
    if (named.id >= first && named.id < first + kSpecialTokens) tokens[named.id - first] = named;
  }
  return tokens;
}

}  // namespace

absl::StatusOr<BpeModel> ParseTiktoken(absl::string_view text, const TokenizerConfig& config, const std::string& file) {
  BpeModel model;
  ASSIGN_OR_RETURN(model.token_bytes, ParseRanks(text, file));
  model.is_word.assign(model.token_bytes.size(), true);
  model.ignore_merges = true;
  model.cut_long_text = true;
  RETURN_IF_ERROR(AddMerges(file, &model));
  model.added_tokens = SpecialTokens(config, static_cast<int32_t>(model.token_bytes.size()));
  absl::StatusOr<Regex> pattern = Regex::Compile(kKimiPattern);
  RETURN_IF_ERROR(pattern.status());
  model.pre_tokenizer.AddSplit(*std::move(pattern), SplitBehavior::kIsolated, /*invert=*/false);
  return model;
}

}  // namespace conclave
