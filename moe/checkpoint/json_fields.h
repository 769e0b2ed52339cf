// Typed reading of one JSON object's fields: each in its range, or the first error by the field's name.
// Private to this folder: it brings nlohmann's header with it.
#ifndef CONCLAVE_MOE_CHECKPOINT_JSON_FIELDS_H_
#define CONCLAVE_MOE_CHECKPOINT_JSON_FIELDS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace conclave {

// Reads go on after an error with the lower bound or default, so that callers need look at status() only once.
// A field that is null counts as absent. Not thread-safe.
class JsonFields {
 public:
  // `object` must be a JSON object and live as long as this. `path` stands before names in errors: "rope_scaling.".
  JsonFields(const nlohmann::json& object, absl::string_view path) : object_(object), path_(path) {}

  // The value, or null where the field is absent or null.
  const nlohmann::json* Find(const std::string& name) const;
  bool Has(const std::string& name) const { return Find(name) != nullptr; }
  // An integer in [min, max].
  int Int(const std::string& name, int min, int max);
  int IntOr(const std::string& name, int min, int max, int otherwise);
  // A finite number in [min, max].
  double Number(const std::string& name, double min, double max);
  double NumberOr(const std::string& name, double min, double max, double otherwise);
  bool BoolOr(const std::string& name, bool otherwise);
  std::string StringOr(const std::string& name, absl::string_view otherwise);

  // Records an error about `name`; the first one counts.
  void Fail(absl::string_view name, absl::string_view what);
  // INVALID_ARGUMENT that names the first bad field.
  const absl::Status& status() const { return status_; }

 private:
  const nlohmann::json& object_;
  std::string path_;
  absl::Status status_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_JSON_FIELDS_H_
