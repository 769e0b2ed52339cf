// Typed reading of one JSON object of a request, where every field must be read, refused or known to be harmless.
#ifndef CONCLAVE_GATEWAY_HTTP_BODY_FIELDS_H_
#define CONCLAVE_GATEWAY_HTTP_BODY_FIELDS_H_

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace conclave {

// Reads go on after an error, so that callers look once, at Finish. A field that is null counts as absent. Not
// thread-safe.
class BodyFields {
 public:
  // `object` must be a JSON object and outlive this. `path` stands before names: "messages[2].".
  BodyFields(const nlohmann::json& object, std::string path) : object_(object), path_(std::move(path)) {}

  // The value, or null where it is absent or null. The field counts as read.
  const nlohmann::json* Find(const std::string& name);
  std::optional<int64_t> Int(const std::string& name, int64_t min, int64_t max);
  // Finite, in [min, max].
  std::optional<double> Number(const std::string& name, double min, double max);
  std::optional<bool> Bool(const std::string& name);
  std::optional<std::string> Text(const std::string& name);

  // These change nothing in an answer and are let pass.
  void Harmless(std::initializer_list<const char*> names);
  // These are in the API and not done here.
  void Unsupported(std::initializer_list<const char*> names);

  // Records an error about `name`; the first one counts. FailUnsupported: with the code unsupported_parameter.
  void Fail(absl::string_view name, absl::string_view what);
  void FailUnsupported(absl::string_view name, absl::string_view what);
  void Fail(absl::Status status);

  // INVALID_ARGUMENT that names the first bad field, or one that nobody has asked for.
  absl::Status Finish();
  const std::string& path() const { return path_; }

 private:
  const nlohmann::json& object_;
  const std::string path_;
  absl::flat_hash_set<std::string> known_;
  absl::Status status_;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_BODY_FIELDS_H_
