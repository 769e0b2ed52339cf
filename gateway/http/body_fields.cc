#include "gateway/http/body_fields.h"

#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "gateway/http/error_body.h"

namespace conclave {
namespace {

using nlohmann::json;

// What a value is, in JSON's own words.
std::string TypeOf(const json& value) {
  if (value.is_number_float()) return "a number with a fraction or exponent";
  if (value.is_number()) return "a whole number";
  if (value.is_boolean()) return "true or false";
  if (value.is_array()) return "a list";
  return absl::StrCat(value.is_object() ? "an " : "a ", value.type_name());
}

}  // namespace

const json* BodyFields::Find(const std::string& name) {
  known_.insert(name);
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

std::optional<int64_t> BodyFields::Int(const std::string& name, int64_t min, int64_t max) {
  const json* field = Find(name);
  if (field == nullptr) return std::nullopt;
  if (!field->is_number()) {
    Fail(name, absl::StrCat("must be a whole number, not ", TypeOf(*field)));
    return std::nullopt;
  }
  // Numbers beyond 64 bits arrive as floating point, and so do 1.0 and 1e3, which OpenAI refuses as well.
  const bool huge = field->is_number_unsigned() &&
                    field->get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  if (field->is_number_float() && std::abs(field->get<double>()) < 9e18) {
    Fail(name, absl::StrCat("must be a whole number, not ", TypeOf(*field)));
    return std::nullopt;
  }
  if (huge || field->is_number_float() || field->get<int64_t>() < min || field->get<int64_t>() > max) {
    Fail(name, absl::StrCat("is ", field->dump(), "; it must be from ", min, " to ", max));
    return std::nullopt;
  }
  return field->get<int64_t>();
}

std::optional<double> BodyFields::Number(const std::string& name, double min, double max) {
  const json* field = Find(name);
  if (field == nullptr) return std::nullopt;
  if (!field->is_number()) {
    Fail(name, absl::StrCat("must be a number, not ", TypeOf(*field)));
    return std::nullopt;
  }
  const double value = field->get<double>();
  if (!(value >= min && value <= max)) {
    Fail(name, absl::StrCat("is ", field->dump(), "; it must be from ", min, " to ", max));
    return std::nullopt;
  }
  return value;
}

std::optional<bool> BodyFields::Bool(const std::string& name) {
  const json* field = Find(name);
  if (field == nullptr) return std::nullopt;
  if (field->is_boolean()) return field->get<bool>();
  Fail(name, absl::StrCat("must be true or false, not ", TypeOf(*field)));
  return std::nullopt;
}

std::optional<std::string> BodyFields::Text(const std::string& name) {
  const json* field = Find(name);
  if (field == nullptr) return std::nullopt;
  if (field->is_string()) return field->get<std::string>();
  Fail(name, absl::StrCat("must be a string, not ", TypeOf(*field)));
  return std::nullopt;
}

void BodyFields::Harmless(std::initializer_list<const char*> names) {
  for (const char* name : names) known_.insert(name);
}

void BodyFields::Unsupported(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (Find(name) != nullptr) FailUnsupported(name, "is not supported by this server");
  }
}

void BodyFields::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}
void BodyFields::Fail(absl::string_view name, absl::string_view what) {
  Fail(absl::InvalidArgumentError(absl::StrCat(path_, name, ": ", what)));
}
void BodyFields::FailUnsupported(absl::string_view name, absl::string_view what) {
  Fail(WithErrorCode(absl::InvalidArgumentError(absl::StrCat(path_, name, ": ", what)), "unsupported_parameter"));
}

absl::Status BodyFields::Finish() {
  if (!status_.ok()) return status_;
  for (const auto& [name, value] : object_.items()) {
    if (known_.contains(name) || value.is_null()) continue;
    return WithErrorCode(
        absl::InvalidArgumentError(absl::StrCat(path_, absl::CHexEscape(name.substr(0, 64)), ": is unknown here")),
        "unknown_parameter");
  }
  return absl::OkStatus();
}

}  // namespace conclave
