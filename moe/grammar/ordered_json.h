// JSON as it was written: members in their order, numbers as text. For schemas, where both matter.
#ifndef CONCLAVE_MOE_GRAMMAR_ORDERED_JSON_H_
#define CONCLAVE_MOE_GRAMMAR_ORDERED_JSON_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave {

struct OrderedJson {
  enum class Kind { kNull, kBoolean, kInteger, kFloat, kString, kArray, kObject };
  Kind kind = Kind::kNull;
  bool boolean = false;
  double number = 0;               // of kInteger and kFloat
  std::string text;                // a string's, or a number as it was written
  std::vector<std::string> names;  // of the members of a kObject, none twice
  std::vector<OrderedJson> items;  // of kArray; of kObject, the members' values

  bool is_number() const { return kind == Kind::kInteger || kind == Kind::kFloat; }
  bool is_string() const { return kind == Kind::kString; }
  bool is_object() const { return kind == Kind::kObject; }
  bool is_array() const { return kind == Kind::kArray; }
  bool is_boolean() const { return kind == Kind::kBoolean; }
  // Null where there is no such member.
  const OrderedJson* Find(absl::string_view name) const;
};

// At most limits::kJsonDepthMax deep. INVALID_ARGUMENT says what is wrong and where.
absl::StatusOr<OrderedJson> ParseOrderedJson(absl::string_view text);

// The value as text, without white space.
std::string WriteJson(const OrderedJson& value);
// `text` as a JSON string, quotes included; escaped where it must be and nowhere else.
std::string JsonQuoted(absl::string_view text);

}  // namespace conclave

#endif  // CONCLAVE_MOE_GRAMMAR_ORDERED_JSON_H_
