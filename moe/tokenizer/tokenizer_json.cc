#include "moe/tokenizer/tokenizer_json.h"

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/added_tokens_json.h"
#include "moe/tokenizer/byte_level.h"
#include "moe/tokenizer/json_file.h"
#include "moe/tokenizer/pre_tokenizer_json.h"

namespace conclave {
namespace {

using nlohmann::json;
// From a token as the file spells it to its id; views of the parsed JSON.
using VocabularyIds = absl::flat_hash_map<absl::string_view, int32_t>;

const json* Find(const json& object, const char* name) {
  const auto member = object.find(name);
  return member == object.end() || member->is_null() ? nullptr : &*member;
}

// A token for a message: whole tokens may be long.
std::string Shown(absl::string_view token) {
  return absl::StrCat("\"", std::string(token.substr(0, 60)), token.size() > 60 ? "…" : "", "\"");
}

absl::Status CheckModelOptions(const json& model, const std::string& where) {
  ASSIGN_OR_RETURN(const std::string type, RequiredString(model, "type", where));
  if (type != "BPE") return FileError(where, absl::StrCat("type \"", type, "\" is not supported, only \"BPE\" is"));
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    ASSIGN_OR_RETURN(const std::optional<std::string> text, OptionalString(model, name, where));
    if (!text.value_or("").empty()) return FileError(where, absl::StrCat(name, " is not supported"));
  }
  const json* dropout = Find(model, "dropout");
  if (dropout != nullptr && *dropout != 0.0) return FileError(where, "dropout is not supported");
  // byte_fallback, unk_token and fuse_unk say what to do with characters that have no token. Here each byte has one.
  return absl::OkStatus();
}

absl::StatusOr<VocabularyIds> ParseVocabulary(const json& model, const std::string& where, BpeModel* out) {
  const json* vocabulary = Find(model, "vocab");
  if (vocabulary == nullptr || !vocabulary->is_object()) return FileError(where, "vocab must be an object");
  VocabularyIds ids;
  ids.reserve(vocabulary->size());
  for (const auto& [token, value] : vocabulary->get_ref<const json::object_t&>()) {
    ASSIGN_OR_RETURN(const int32_t id, ParseTokenId(value, absl::StrCat(where, ".vocab[", Shown(token), "]")));
    ids.emplace(token, id);
    if (static_cast<size_t>(id) >= out->token_bytes.size()) {
      out->token_bytes.resize(id + 1);
      out->is_word.resize(id + 1, false);
    }
    if (!out->token_bytes[id].empty()) {
      return FileError(where, absl::StrCat("vocab gives id ", id, " to ", Shown(token), " and to another token"));
    }
    std::optional<std::string> bytes = FromByteLevel(token);
    out->is_word[id] = bytes.has_value() && !bytes->empty();
    out->token_bytes[id] = bytes.has_value() ? *std::move(bytes) : token;
  }
  return ids;
}

// "a b" in older files, ["a", "b"] in newer ones.
std::optional<std::pair<absl::string_view, absl::string_view>> MergeParts(const json& merge) {
  if (merge.is_string()) {
    const std::vector<absl::string_view> parts = absl::StrSplit(merge.get_ref<const std::string&>(), ' ');
    if (parts.size() == 2) return std::make_pair(parts[0], parts[1]);
  } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return std::make_pair(absl::string_view(merge[0].get_ref<const std::string&>()),
                          absl::string_view(merge[1].get_ref<const std::string&>()));
  }
  return std::nullopt;
}

absl::Status ParseMerges(const json& model, const VocabularyIds& ids, const std::string& where, BpeModel* out) {
  const json* merges = Find(model, "merges");
  if (merges == nullptr || !merges->is_array()) return FileError(where, "merges must be a list");
  if (merges->size() > static_cast<size_t>(limits::kVocabMax) * 4) return FileError(where, "merges is too long");
  out->merger.Reserve(static_cast<int64_t>(merges->size()));
  for (size_t i = 0; i < merges->size(); ++i) {
    const json& merge = (*merges)[i];
    // The first line of GPT-2's merges.txt, which some converters kept.
    if (merge.is_string() && absl::StartsWith(merge.get_ref<const std::string&>(), "#version")) continue;
    const auto at = [&] { return absl::StrCat(where, ".merges[", i, "]"); };
    const auto parts = MergeParts(merge);
    if (!parts.has_value()) return FileError(at(), "must be \"left right\" or [\"left\", \"right\"]");
    const auto find = [&](absl::string_view token) {
      const auto id = ids.find(token);
      return id == ids.end() ? -1 : id->second;
    };
    const std::string joined = absl::StrCat(std::string(parts->first), std::string(parts->second));
    const int32_t left = find(parts->first), right = find(parts->second), result = find(joined);
    if (left < 0 || right < 0 || result < 0) {
      const absl::string_view missing = left < 0 ? parts->first : right < 0 ? parts->second : joined;
      return FileError(at(), absl::StrCat("names ", Shown(missing), ", which is no token of the vocabulary"));
    }
    out->merger.Add(left, right, {static_cast<int32_t>(i), result});
  }
  return absl::OkStatus();
}

absl::Status ParseAddedTokens(const json& root, const VocabularyIds& ids, const std::string& file, BpeModel* out) {
  const json* tokens = Find(root, "added_tokens");
  if (tokens == nullptr) return absl::OkStatus();
  if (!tokens->is_array()) return FileError(file, "added_tokens must be a list");
  for (size_t i = 0; i < tokens->size(); ++i) {
    const std::string where = absl::StrCat(file, ": added_tokens[", i, "]");
    ASSIGN_OR_RETURN(AddedToken token, ParseAddedToken((*tokens)[i], where));
    if (!(*tokens)[i].contains("id")) return FileError(where, "id is missing");
    ASSIGN_OR_RETURN(token.id, ParseTokenId((*tokens)[i]["id"], where));
    const auto known = ids.find(token.content);
    if (known != ids.end() && known->second != token.id) {
      return FileError(where, absl::StrCat("gives ", Shown(token.content), " id ", token.id, ", but model.vocab gives ",
                                           known->second));
    }
    out->added_tokens.push_back(std::move(token));
  }
  return absl::OkStatus();
}

// Text must reach BPE as it is.
absl::Status CheckNormalizer(const json& root, const std::string& file) {
  const json* normalizer = Find(root, "normalizer");
  if (normalizer == nullptr) return absl::OkStatus();
  if (!normalizer->is_object()) return FileError(file, "normalizer must be an object or null");
  ASSIGN_OR_RETURN(const std::string type, RequiredString(*normalizer, "type", file + ": normalizer"));
  const json* members = Find(*normalizer, "normalizers");
  if (type == "Sequence" && members != nullptr && members->is_array() && members->empty()) return absl::OkStatus();
  return FileError(file, absl::StrCat("normalizer \"", type, "\" is not supported, only null or an empty Sequence is"));
}

absl::Status CheckDecoder(const json& root, const std::string& file) {
  const json* decoder = Find(root, "decoder");
  if (decoder == nullptr) return FileError(file, "decoder is missing; byte-level BPE needs \"ByteLevel\"");
  if (!decoder->is_object()) return FileError(file, "decoder must be an object");
  ASSIGN_OR_RETURN(const std::string type, RequiredString(*decoder, "type", file + ": decoder"));
  if (type == "ByteLevel") return absl::OkStatus();
  const json* members = Find(*decoder, "decoders");
  if (type == "Sequence" && members != nullptr && members->is_array() && members->size() == 1 &&
      (*members)[0].is_object() && (*members)[0].value("type", json()) == "ByteLevel") {
    return absl::OkStatus();
  }
  return FileError(file, absl::StrCat("decoder \"", type, "\" is not supported, only \"ByteLevel\" is"));
}

// ByteLevel only trims offsets. Of a template we take whether BOS leads; EncodePrompt adds it, once.
absl::Status ParsePostProcessor(const json& processor, const std::optional<std::string>& bos_token,
                                const std::string& where, BpeModel* out) {
  if (!processor.is_object()) return FileError(where, "must be an object");
  ASSIGN_OR_RETURN(const std::string type, RequiredString(processor, "type", where));
  if (type == "ByteLevel") return absl::OkStatus();
  const json* members = Find(processor, type == "Sequence" ? "processors" : "single");
  if ((type != "Sequence" && type != "TemplateProcessing") || members == nullptr || !members->is_array()) {
    return FileError(where, absl::StrCat("\"", type,
                                         "\" is not supported; ByteLevel, TemplateProcessing and Sequence "
                                         "are"));
  }
  if (type == "Sequence") {
    for (const json& member : *members) RETURN_IF_ERROR(ParsePostProcessor(member, bos_token, where, out));
  } else if (!members->empty() && (*members)[0].is_object() && (*members)[0].contains("SpecialToken")) {
    const json& first = (*members)[0]["SpecialToken"];
    out->adds_bos_by_default = bos_token.has_value() && first.is_object() && first.value("id", json()) == *bos_token;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BpeModel> ParseTokenizerJson(absl::string_view text, const std::optional<std::string>& bos_token,
                                            const std::string& file) {
  ASSIGN_OR_RETURN(const json root, ParseJsonObject(text, file));
  const json* model = Find(root, "model");
  if (model == nullptr || !model->is_object()) return FileError(file, "model must be an object");
  const std::string where = absl::StrCat(file, ": model");
  RETURN_IF_ERROR(CheckModelOptions(*model, where));
  RETURN_IF_ERROR(CheckNormalizer(root, file));
  RETURN_IF_ERROR(CheckDecoder(root, file));
  BpeModel result;
  ASSIGN_OR_RETURN(const std::optional<bool> ignore_merges, OptionalBool(*model, "ignore_merges", where));
  result.ignore_merges = ignore_merges.value_or(false);
  ASSIGN_OR_RETURN(const VocabularyIds ids, ParseVocabulary(*model, where, &result));
  RETURN_IF_ERROR(ParseMerges(*model, ids, where, &result));
  RETURN_IF_ERROR(ParseAddedTokens(root, ids, file, &result));
  const json* pre_tokenizer = Find(root, "pre_tokenizer");
  if (pre_tokenizer == nullptr) {
    return FileError(file, "pre_tokenizer is missing; only byte-level BPE is supported, which has one");
  }
  ASSIGN_OR_RETURN(result.pre_tokenizer, ParsePreTokenizer(*pre_tokenizer, file));
  const json* post_processor = Find(root, "post_processor");
  if (post_processor != nullptr) {
    RETURN_IF_ERROR(ParsePostProcessor(*post_processor, bos_token, file + ": post_processor", &result));
  }
  return result;
}

}  // namespace conclave
