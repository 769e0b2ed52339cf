// One schema of a JSON Schema document: its keywords, each checked. Internal to json_schema.
#ifndef CONCLAVE_MOE_GRAMMAR_SCHEMA_NODE_H_
#define CONCLAVE_MOE_GRAMMAR_SCHEMA_NODE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "moe/grammar/json_parts.h"
#include "moe/grammar/ordered_json.h"

namespace conclave {

// "#/properties/a" and a name below it, escaped as RFC 6901 wants.
std::string PointerTo(absl::string_view pointer, absl::string_view name);

// INVALID_ARGUMENT about the place `pointer`.
template <typename... Parts>
absl::Status SchemaError(absl::string_view pointer, const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(pointer, ": ", parts...));
}

// The keywords of an object of a schema. `json` must outlive it.
class SchemaNode {
 public:
  // INVALID_ARGUMENT names a keyword that is not supported, or that another one rules out.
  static absl::StatusOr<SchemaNode> Read(const OrderedJson& json, std::string pointer);

  const OrderedJson* Find(absl::string_view keyword) const;
  std::string PointerOf(absl::string_view keyword) const { return PointerTo(pointer_, keyword); }
  // The types that it allows, of JSON Schema's names; where it names none, those that its keywords are about; empty:
  // any.
  absl::StatusOr<std::vector<std::string>> Types() const;
  // A whole number from 0, as of minLength.
  absl::StatusOr<std::optional<int32_t>> Count(absl::string_view keyword) const;
  // Of minimum and exclusiveMinimum, or of the maxima.
  absl::StatusOr<std::optional<JsonBound>> Bound(absl::string_view closed, absl::string_view open, bool lower) const;
  absl::StatusOr<std::optional<std::string>> Text(absl::string_view keyword) const;

 private:
  absl::Status CheckKeywords() const;
  absl::Status CheckAlone(absl::string_view keyword, bool beside_type) const;

  const OrderedJson* json_ = nullptr;
  std::string pointer_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_GRAMMAR_SCHEMA_NODE_H_
