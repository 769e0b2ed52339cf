#include "moe/checkpoint/weight_index.h"

#include <algorithm>
#include <map>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moe/checkpoint/strict_json.h"
#include "nlohmann/json.hpp"

namespace conclave {
namespace {

using nlohmann::json;

std::string Quoted(absl::string_view text) { return absl::StrCat("\"", absl::CHexEscape(text.substr(0, 200)), "\""); }

bool IsSafeFileName(absl::string_view name) {
  return name.size() <= 255 && absl::EndsWith(name, ".safetensors") && name[0] != '.' &&
         !absl::StrContains(name, "/") && !absl::StrContains(name, "..") &&
         !absl::StrContains(name, absl::string_view("\0", 1));
}

}  // namespace

absl::StatusOr<WeightIndex> ParseWeightIndex(absl::string_view text) {
  if (const absl::Status strict = CheckStrictJson(text); !strict.ok()) return absl::DataLossError(strict.message());
  const json root = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!root.is_object() || !root.contains("weight_map") || !root["weight_map"].is_object()) {
    return absl::DataLossError("has no object weight_map");
  }
  WeightIndex index;
  std::map<std::string, int> file_numbers;
  for (const auto& [tensor, file] : root["weight_map"].items()) {
    if (!file.is_string() || !IsSafeFileName(file.get_ref<const std::string&>())) {
      return absl::DataLossError(
          absl::StrCat("weight_map places ", Quoted(tensor), " in ",
                       Quoted(file.is_string() ? file.get<std::string>() : file.dump()),
                       "; it must be the name of a .safetensors file beside the index, without '/' and '..'"));
    }
    file_numbers[file.get_ref<const std::string&>()] = 0;
  }
  for (auto& [name, number] : file_numbers) {
    number = static_cast<int>(index.files.size());
    index.files.push_back(name);
  }
  index.entries.reserve(root["weight_map"].size());
  for (const auto& [tensor, file] : root["weight_map"].items()) {
    index.entries.push_back({tensor, file_numbers[file.get_ref<const std::string&>()]});
  }
  std::sort(index.entries.begin(), index.entries.end(),
            [](const WeightIndex::Entry& a, const WeightIndex::Entry& b) { return a.tensor < b.tensor; });
  if (root.contains("metadata") && root["metadata"].is_object()) {
    const json size = root["metadata"].value("total_size", json());
    if (size.is_number_unsigned() && size.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX)) {
      index.total_bytes = size.get<int64_t>();
    }
  }
  return index;
}

std::string FormatWeightIndex(const WeightIndex& index) {
  std::vector<WeightIndex::Entry> entries = index.entries;
  std::sort(entries.begin(), entries.end(),
            [](const WeightIndex::Entry& a, const WeightIndex::Entry& b) { return a.tensor < b.tensor; });
  std::string text =
      absl::StrCat("{\n  \"metadata\": {\"total_size\": ", index.total_bytes.value_or(0), "},\n  \"weight_map\": {");
  for (size_t i = 0; i < entries.size(); ++i) {
    absl::StrAppend(&text, i == 0 ? "\n" : ",\n", "    \"", entries[i].tensor, "\": \"", index.files[entries[i].file],
                    "\"");
  }
  return text + "\n  }\n}\n";
}

}  // namespace conclave
