#include "moe/checkpoint/json_fields.h"

#include <cmath>
#include <cstdint>
#include <limits>

#include "absl/strings/str_cat.h"

namespace conclave {

const nlohmann::json* JsonFields::Find(const std::string& name) const {
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

void JsonFields::Fail(absl::string_view name, absl::string_view what) {
  if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(path_, name, " ", what));
}

int JsonFields::Int(const std::string& name, int min, int max) {
  if (!Has(name)) {
    Fail(name, "is missing");
    return min;
  }
  return IntOr(name, min, max, min);
}

int JsonFields::IntOr(const std::string& name, int min, int max, int otherwise) {
  const nlohmann::json* field = Find(name);
  if (field == nullptr) return otherwise;
  if (!field->is_number_integer()) {
    Fail(name, absl::StrCat("must be an integer, not ", field->is_number() ? "a fraction" : field->type_name()));
    return min;
  }
  // An unsigned beyond int64 would come out negative.
  const bool huge = field->is_number_unsigned() &&
                    field->get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  const int64_t value = huge ? std::numeric_limits<int64_t>::max() : field->get<int64_t>();
  if (value < min || value > max) {
    Fail(name, absl::StrCat("is ", value, "; it must be from ", min, " to ", max));
    return min;
  }
  return static_cast<int>(value);
}

double JsonFields::Number(const std::string& name, double min, double max) {
  if (!Has(name)) {
    Fail(name, "is missing");
    return min;
  }
  return NumberOr(name, min, max, min);
}

double JsonFields::NumberOr(const std::string& name, double min, double max, double otherwise) {
  const nlohmann::json* field = Find(name);
  if (field == nullptr) return otherwise;
  if (!field->is_number()) {
    Fail(name, absl::StrCat("must be a number, not ", field->type_name()));
    return min;
  }
  const double value = field->get<double>();
  if (!(value >= min && value <= max)) {
    Fail(name, absl::StrCat("is ", value, "; it must be from ", min, " to ", max));
    return min;
  }
  return value;
}

bool JsonFields::BoolOr(const std::string& name, bool otherwise) {
  const nlohmann::json* field = Find(name);
  if (field == nullptr) return otherwise;
  if (field->is_boolean()) return field->get<bool>();
  Fail(name, absl::StrCat("must be true or false, not ", field->type_name()));
  return otherwise;
}

std::string JsonFields::StringOr(const std::string& name, absl::string_view otherwise) {
  const nlohmann::json* field = Find(name);
  if (field == nullptr) return std::string(otherwise);
  if (field->is_string()) return field->get<std::string>();
  Fail(name, absl::StrCat("must be a string, not ", field->type_name()));
  return std::string(otherwise);
}

}  // namespace conclave
