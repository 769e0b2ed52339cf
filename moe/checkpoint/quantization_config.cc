// How config.json says that weights are quantised, in its two supported spellings.
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/json_fields.h"
#include "moe/checkpoint/model_config_parts.h"
#include "nlohmann/json.hpp"

namespace conclave {
namespace {

using nlohmann::json;

constexpr int kQuantBlockMax = 1 << 16;
constexpr absl::string_view kPath = "config.json: quantization_config.";
constexpr absl::string_view kUse =
    "use a checkpoint in BF16, F16, F32, FP8 with weight blocks of 128 x 128, or packed INT4 or INT8";

std::string Quoted(absl::string_view text) { return absl::StrCat("\"", absl::CHexEscape(text.substr(0, 100)), "\""); }

// FP8 as DeepSeek publishes it.
absl::Status ParseBlocks(JsonFields& fields, BlockQuantSpec& quant) {
  const std::string format = fields.StringOr("fmt", "e4m3");
  if (format != "e4m3") fields.Fail("fmt", absl::StrCat(Quoted(format), " is not supported; e4m3 is"));
  const std::string scheme = fields.StringOr("activation_scheme", "dynamic");
  if (scheme != "dynamic") {
    fields.Fail("activation_scheme", absl::StrCat(Quoted(scheme), " is not supported; dynamic is"));
  }
  const std::string scale_format = fields.StringOr("scale_fmt", "float");
  if (scale_format != "ue8m0" && scale_format != "float" && scale_format != "float32") {
    fields.Fail("scale_fmt", absl::StrCat(Quoted(scale_format), " is not supported; ue8m0 and float32 are"));
  }
  RETURN_IF_ERROR(fields.status());
  const json* block = fields.Find("weight_block_size");
  if (block == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        "config.json: quantization_config.weight_block_size is missing (FP8 with one scale a tensor?); ", kUse));
  }
  const auto is_size = [](const json& n) {
    return n.is_number_unsigned() && n.get<uint64_t>() >= 1 && n.get<uint64_t>() <= kQuantBlockMax;
  };
  if (!block->is_array() || block->size() != 2 || !is_size((*block)[0]) || !is_size((*block)[1])) {
    return absl::InvalidArgumentError(
        "config.json: quantization_config.weight_block_size must be two positive integers, such as [128, 128]");
  }
  quant.block_rows = (*block)[0].get<int>();
  quant.block_cols = (*block)[1].get<int>();
  quant.ue8m0_scales = scale_format == "ue8m0";
  return absl::OkStatus();
}

// Fails where `fields` says anything but `only` of `name`; absent says nothing.
void Only(JsonFields& fields, const std::string& name, absl::string_view only) {
  const std::string value = fields.StringOr(name, only);
  if (value != only) fields.Fail(name, absl::StrCat(Quoted(value), " is not supported; ", only, " is"));
}

void Absent(JsonFields& fields, const std::string& name) {
  if (fields.Has(name)) fields.Fail(name, "is not null, which is not supported; weights alone may be quantised");
}

// One of config_groups: symmetric integers with a scale a group, or a row.
absl::Status ParseWeights(const json& weights, const std::string& path, PackedQuantSpec& quant) {
  if (!weights.is_object()) return absl::InvalidArgumentError(absl::StrCat(path, "weights must be an object"));
  JsonFields fields(weights, absl::StrCat(path, "weights."));
  Only(fields, "type", "int");
  quant.bits = fields.Int("num_bits", 1, 64);
  if (quant.bits != 4 && quant.bits != 8) fields.Fail("num_bits", absl::StrCat(quant.bits, " are not supported; 4, 8"));
  if (!fields.BoolOr("symmetric", true)) fields.Fail("symmetric", "is false; zero points are not supported");
  if (fields.BoolOr("dynamic", false)) fields.Fail("dynamic", "is true, which weights cannot be");
  const std::string strategy = fields.StringOr("strategy", fields.Has("group_size") ? "group" : "channel");
  if (strategy == "group") {
    quant.group_cols = fields.Int("group_size", 1, kQuantBlockMax);
    if (quant.group_cols % 8 != 0) fields.Fail("group_size", absl::StrCat(quant.group_cols, " is no multiple of 8"));
  } else if (strategy != "channel") {
    fields.Fail("strategy", absl::StrCat(Quoted(strategy), " is not supported; group and channel are"));
  }
  // "weight" and "static" only say how scales were found; "group" reorders columns.
  const json* order = fields.Find("actorder");
  const bool plain = order == nullptr || *order == json(false) || *order == json("weight") || *order == json("static");
  if (!plain) fields.Fail("actorder", "reorders columns, which is not supported");
  return fields.status();
}

// compressed-tensors (vLLM's llm-compressor; Kimi-K2-Thinking), in the format "pack-quantized".
absl::Status ParsePacked(JsonFields& fields, PackedQuantSpec& quant) {
  const std::string format = fields.StringOr("format", "");
  if (format != "pack-quantized") {
    fields.Fail("format", absl::StrCat(Quoted(format), " of compressed-tensors is not supported; pack-quantized is"));
  }
  Only(fields, "quantization_status", "compressed");
  Absent(fields, "kv_cache_scheme");
  RETURN_IF_ERROR(fields.status());
  const json* sparsity = fields.Find("sparsity_config");
  const bool dense = sparsity == nullptr ||
                     (sparsity->is_object() && JsonFields(*sparsity, "").StringOr("format", "dense") == "dense");
  if (!dense) return absl::InvalidArgumentError(absl::StrCat(kPath, "sparsity_config is not supported; ", kUse));
  const json* groups = fields.Find("config_groups");
  if (groups == nullptr || !groups->is_object() || groups->empty()) {
    return absl::InvalidArgumentError(absl::StrCat(kPath, "config_groups must be an object with a group"));
  }
  for (const auto& [name, group] : groups->items()) {
    const std::string path = absl::StrCat(kPath, "config_groups.", absl::CHexEscape(name.substr(0, 100)), ".");
    if (!group.is_object()) return absl::InvalidArgumentError(absl::StrCat(path, ": must be an object"));
    JsonFields group_fields(group, path);
    Only(group_fields, "format", "pack-quantized");
    Absent(group_fields, "input_activations");
    Absent(group_fields, "output_activations");
    RETURN_IF_ERROR(group_fields.status());
    const json* weights = group_fields.Find("weights");
    if (weights == nullptr) return absl::InvalidArgumentError(absl::StrCat(path, "weights is missing"));
    PackedQuantSpec one;
    RETURN_IF_ERROR(ParseWeights(*weights, path, one));
    if (quant.present() && !(one == quant)) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, "weights differs from another group's; one way is supported"));
    }
    quant = one;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ParseQuantization(const json& root, ModelSpec& spec) {
  JsonFields root_fields(root, "config.json: ");
  if (root_fields.Has("compression_config")) {
    return absl::InvalidArgumentError(absl::StrCat(
        "config.json: compression_config (an old spelling of compressed-tensors) is not supported; ", kUse));
  }
  const json* object = root_fields.Find("quantization_config");
  if (object == nullptr) return absl::OkStatus();
  if (!object->is_object()) return absl::InvalidArgumentError("config.json: quantization_config must be an object");
  JsonFields fields(*object, kPath);
  const std::string algorithm = fields.StringOr("quant_algo", "");
  std::string method = fields.StringOr("quant_method", "");
  RETURN_IF_ERROR(fields.status());
  if (method.empty() && !algorithm.empty()) method = "modelopt";
  if (method == "compressed-tensors") return ParsePacked(fields, spec.packed_quant);
  if (method != "fp8") {
    const std::string named = method.empty() ? "without a quant_method" : absl::StrCat("quant_method ", Quoted(method));
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: quantization_config ", named, algorithm.empty() ? "" : " ", algorithm, " (",
                     method.empty() ? "unknown" : absl::AsciiStrToUpper(method), ") is not supported; ", kUse));
  }
  return ParseBlocks(fields, spec.block_quant);
}

}  // namespace conclave
