#include "moe/tokenizer/pre_tokenizer_json.h"

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/json_file.h"

namespace conclave {
namespace {

using nlohmann::json;

constexpr size_t kStagesMax = 32;
// GPT-2's pattern, which ByteLevel applies where use_regex is true (Radford et al. 2019, encoder.py).
constexpr char kGpt2Pattern[] = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// One stage and how errors name it, such as "tokenizer.json: pre_tokenizer.pretokenizers[2]".
struct Stage {
  const json* value;
  std::string where;
};

// Prefixes the reason of a refusal with its place.
absl::Status At(const std::string& where, const absl::Status& status) { return FileError(where, status.message()); }

absl::StatusOr<SplitBehavior> ParseBehavior(const std::string& name, const std::string& where) {
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return FileError(where, absl::StrCat("behavior \"", name, "\" is not supported"));
}

absl::Status ParseSplit(const Stage& stage, PreTokenizer* out) {
  ASSIGN_OR_RETURN(const std::string name, RequiredString(*stage.value, "behavior", stage.where));
  ASSIGN_OR_RETURN(const SplitBehavior behavior, ParseBehavior(name, stage.where));
  ASSIGN_OR_RETURN(const std::optional<bool> invert, OptionalBool(*stage.value, "invert", stage.where));
  const auto pattern = stage.value->find("pattern");
  const std::string where = absl::StrCat(stage.where, ".pattern");
  if (pattern == stage.value->end() || !pattern->is_object()) {
    return FileError(where, "must be an object with Regex or String");
  }
  ASSIGN_OR_RETURN(const std::optional<std::string> regex, OptionalString(*pattern, "Regex", where));
  ASSIGN_OR_RETURN(const std::optional<std::string> literal, OptionalString(*pattern, "String", where));
  if (regex.has_value() == literal.has_value()) return FileError(where, "must have either Regex or String");
  if (literal.has_value() && literal->empty()) return FileError(where, "String is empty");
  absl::StatusOr<Regex> compiled = regex.has_value() ? Regex::Compile(*regex) : Regex::CompileLiteral(*literal);
  if (!compiled.ok()) return At(where, compiled.status());
  out->AddSplit(*std::move(compiled), behavior, invert.value_or(false));
  return absl::OkStatus();
}

absl::Status ParseDigits(const Stage& stage, PreTokenizer* out) {
  ASSIGN_OR_RETURN(const std::optional<bool> individual, OptionalBool(*stage.value, "individual_digits", stage.where));
  ASSIGN_OR_RETURN(Regex digits, Regex::Compile("\\p{N}"));
  out->AddSplit(std::move(digits), individual.value_or(false) ? SplitBehavior::kIsolated : SplitBehavior::kContiguous,
                /*invert=*/false);
  return absl::OkStatus();
}

absl::Status ParseByteLevel(const Stage& stage, PreTokenizer* out) {
  ASSIGN_OR_RETURN(const std::optional<bool> prefix, OptionalBool(*stage.value, "add_prefix_space", stage.where));
  ASSIGN_OR_RETURN(const std::optional<bool> use_regex, OptionalBool(*stage.value, "use_regex", stage.where));
  if (!prefix.has_value()) return FileError(stage.where, "add_prefix_space is missing");
  if (*prefix) out->AddPrefixSpace();
  if (use_regex.value_or(true)) {
    ASSIGN_OR_RETURN(Regex words, Regex::Compile(kGpt2Pattern));
    out->AddSplit(std::move(words), SplitBehavior::kIsolated, /*invert=*/false);
  }
  return absl::OkStatus();
}

// The stages of a Sequence within a Sequence follow each other as well.
absl::Status Flatten(const json& value, const std::string& where, std::vector<Stage>* stages) {
  if (!value.is_object()) return FileError(where, "must be an object");
  ASSIGN_OR_RETURN(const std::string type, RequiredString(value, "type", where));
  if (type != "Sequence") {
    if (stages->size() == kStagesMax) return FileError(where, absl::StrCat("more than ", kStagesMax, " stages"));
    stages->push_back({&value, where});
    return absl::OkStatus();
  }
  const auto members = value.find("pretokenizers");
  if (members == value.end() || !members->is_array()) return FileError(where, "pretokenizers must be a list");
  for (size_t i = 0; i < members->size(); ++i) {
    RETURN_IF_ERROR(Flatten((*members)[i], absl::StrCat(where, ".pretokenizers[", i, "]"), stages));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PreTokenizer> ParsePreTokenizer(const json& value, absl::string_view file) {
  const std::string where = absl::StrCat(std::string(file), ": pre_tokenizer");
  std::vector<Stage> stages;
  RETURN_IF_ERROR(Flatten(value, where, &stages));
  PreTokenizer result;
  bool byte_level = false;
  for (const Stage& stage : stages) {
    ASSIGN_OR_RETURN(const std::string type, RequiredString(*stage.value, "type", stage.where));
    if (byte_level) return FileError(stage.where, absl::StrCat("\"", type, "\" after ByteLevel is not supported"));
    if (type == "Split") {
      RETURN_IF_ERROR(ParseSplit(stage, &result));
    } else if (type == "Digits") {
      RETURN_IF_ERROR(ParseDigits(stage, &result));
    } else if (type == "ByteLevel") {
      RETURN_IF_ERROR(ParseByteLevel(stage, &result));
      byte_level = true;
    } else {
      return FileError(stage.where, absl::StrCat("type \"", type,
                                                 "\" is not supported; Sequence, Split, Digits and "
                                                 "ByteLevel are"));
    }
  }
  if (!byte_level) return FileError(where, "has no ByteLevel stage; only byte-level BPE is supported");
  return result;
}

}  // namespace conclave
