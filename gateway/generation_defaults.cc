#include "gateway/generation_defaults.h"

#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/strict_json.h"

namespace conclave {
namespace {

using nlohmann::json;

absl::Status Bad(absl::string_view name, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("generation_config.json: ", name, ": must be ", what));
}

// The number under `name`; empty where it is absent or null.
absl::StatusOr<std::optional<double>> Number(const json& object, const char* name, double min, double max) {
  const auto found = object.find(name);
  if (found == object.end() || found->is_null()) return std::optional<double>();
  const double value = found->is_number() ? found->get<double>() : max + 1;
  if (!(value >= min && value <= max)) return Bad(name, absl::StrCat("a number in [", min, ", ", max, "]"));
  return std::optional<double>(value);
}

}  // namespace

absl::StatusOr<GenerationDefaults> ParseGenerationDefaults(absl::string_view text) {
  RETURN_IF_ERROR(CheckStrictJson(text));
  const json object = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return absl::InvalidArgumentError("generation_config.json: must be an object");
  GenerationDefaults defaults;
  ASSIGN_OR_RETURN(const std::optional<double> temperature, Number(object, "temperature", 0, 100));
  ASSIGN_OR_RETURN(const std::optional<double> top_p, Number(object, "top_p", 0, 1));
  // -1 is some authors' way to say "all".
  ASSIGN_OR_RETURN(const std::optional<double> top_k, Number(object, "top_k", -1, limits::kVocabMax));
  ASSIGN_OR_RETURN(const std::optional<double> min_p, Number(object, "min_p", 0, 1));
  ASSIGN_OR_RETURN(const std::optional<double> penalty, Number(object, "repetition_penalty", 0.01, 100));
  ASSIGN_OR_RETURN(const std::optional<double> max_tokens, Number(object, "max_new_tokens", 1, limits::kContextMax));
  const auto do_sample = object.find("do_sample");
  const bool greedy = do_sample != object.end() && do_sample->is_boolean() && !do_sample->get<bool>();
  if (!greedy && temperature.has_value()) defaults.sampling.set_temperature(static_cast<float>(*temperature));
  if (top_p.has_value() && *top_p > 0) defaults.sampling.set_top_p(static_cast<float>(*top_p));
  if (top_k.has_value() && *top_k > 0) defaults.sampling.set_top_k(static_cast<int>(*top_k));
  if (min_p.has_value()) defaults.sampling.set_min_p(static_cast<float>(*min_p));
  if (penalty.has_value()) defaults.sampling.set_repetition_penalty(static_cast<float>(*penalty));
  if (max_tokens.has_value()) defaults.max_tokens = static_cast<int>(*max_tokens);
  return defaults;
}

void ApplyDefaults(const v1::SamplingOptions& defaults, v1::SamplingOptions& sampling) {
  v1::SamplingOptions both = defaults;
  both.MergeFrom(sampling);  // a field that is set replaces the default
  sampling = both;
}

}  // namespace conclave
