#include "moe/checkpoint/model_config_parts.h"

#include <optional>
#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/json_fields.h"
#include "nlohmann/json.hpp"

namespace conclave {
namespace {

using nlohmann::json;

constexpr double kThetaMax = 1e12;
constexpr double kThetaDefault = 10000.0;

std::string Quoted(absl::string_view text) { return absl::StrCat("\"", absl::CHexEscape(text.substr(0, 100)), "\""); }

// What one of rope_scaling and rope_parameters says.
struct RopeSettings {
  std::optional<double> theta;
  std::optional<YarnSpec> yarn;
};

YarnSpec ParseYarn(JsonFields& fields) {
  YarnSpec yarn;
  yarn.factor = fields.Number("factor", 1.0, 1e6);
  yarn.original_max_position_embeddings = fields.Number("original_max_position_embeddings", 1.0, 1e9);
  yarn.beta_fast = fields.NumberOr("beta_fast", 1e-6, 1e6, 32.0);
  yarn.beta_slow = fields.NumberOr("beta_slow", 1e-6, 1e6, 1.0);
  yarn.mscale = fields.NumberOr("mscale", 0.0, 1e3, 1.0);
  yarn.mscale_all_dim = fields.NumberOr("mscale_all_dim", 0.0, 1e3, 0.0);
  if (yarn.beta_fast < yarn.beta_slow) fields.Fail("beta_fast", "is less than beta_slow");
  if (fields.Has("attention_factor")) fields.Fail("attention_factor", "is not supported; give mscale, mscale_all_dim");
  if (!fields.BoolOr("truncate", true)) fields.Fail("truncate", "is false, which is not supported");
  return yarn;
}

absl::StatusOr<RopeSettings> ParseRopeObject(const json& object, const std::string& name) {
  if (!object.is_object()) return absl::InvalidArgumentError(absl::StrCat("config.json: ", name, " must be an object"));
  JsonFields fields(object, absl::StrCat("config.json: ", name, "."));
  RopeSettings settings;
  if (fields.Has("rope_theta")) settings.theta = fields.Number("rope_theta", 1.0, kThetaMax);
  const std::string old_spelling = fields.StringOr("type", "");
  const std::string type = fields.StringOr("rope_type", old_spelling);
  if (!old_spelling.empty() && type != old_spelling) {
    fields.Fail("rope_type", absl::StrCat(Quoted(type), " contradicts type ", Quoted(old_spelling)));
  }
  if (type == "yarn") {
    settings.yarn = ParseYarn(fields);
  } else if (type.empty()) {
    for (const auto& [name, value] : object.items()) {
      if (name != "rope_theta" && !value.is_null())
        fields.Fail("rope_type", "is missing; supported are default and yarn");
    }
  } else if (type != "default") {
    fields.Fail("rope_type", absl::StrCat(Quoted(type), " is not supported; default and yarn are"));
  }
  RETURN_IF_ERROR(fields.status());
  return settings;
}

}  // namespace

absl::Status ParseRope(const json& root, AttentionSpec& attention) {
  JsonFields fields(root, "config.json: ");
  RopeSettings all;
  if (fields.Has("rope_theta")) all.theta = fields.Number("rope_theta", 1.0, kThetaMax);
  RETURN_IF_ERROR(fields.status());
  bool seen = false;
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    const json* object = fields.Find(name);
    if (object == nullptr) continue;
    ASSIGN_OR_RETURN(const RopeSettings settings, ParseRopeObject(*object, name));
    if (settings.theta.has_value() && all.theta.has_value() && *settings.theta != *all.theta) {
      return absl::InvalidArgumentError(
          absl::StrCat("config.json: ", name, ".rope_theta ", *settings.theta, " contradicts rope_theta ", *all.theta));
    }
    if (settings.theta.has_value()) all.theta = settings.theta;
    if (seen && settings.yarn != all.yarn) {
      return absl::InvalidArgumentError("config.json: rope_parameters contradicts rope_scaling; keep one of them");
    }
    all.yarn = settings.yarn;
    seen = true;
  }
  attention.rope_theta = all.theta.value_or(kThetaDefault);
  attention.yarn = all.yarn;
  return absl::OkStatus();
}

}  // namespace conclave
