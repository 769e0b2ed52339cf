#include "moe/daemon/flag_value.h"

#include <cstddef>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace conclave {
namespace {

struct ByteUnit {
  absl::string_view name;
  int64_t bytes;
};
// The largest first, so that ShowByteCount finds the one that makes the shortest text.
constexpr ByteUnit kByteUnits[] = {
    {"TiB", int64_t{1} << 40}, {"GiB", 1 << 30},  {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"TB", 1'000'000'000'000},
    {"GB", 1'000'000'000},     {"MB", 1'000'000}, {"KB", 1'000},    {"B", 1},         {"", 1},
};

// What a message quotes of a value: its beginning, without control characters.
std::string Quoted(absl::string_view text) {
  std::string shown;
  for (char c : text.substr(0, 60)) shown += absl::ascii_iscntrl(static_cast<unsigned char>(c)) ? '?' : c;
  return absl::StrCat("'", shown, text.size() > 60 ? "…" : "", "'");
}

absl::Status Expected(absl::string_view what, absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat("expected ", what, ", got ", Quoted(text)));
}

struct Setter {
  const std::vector<std::string>& values;
  const std::string& last() const { return values.back(); }

  absl::Status operator()(std::string* target) const {
    *target = last();
    return absl::OkStatus();
  }
  absl::Status operator()(int* target) const { return SetInteger(target); }
  absl::Status operator()(int64_t* target) const { return SetInteger(target); }
  template <typename Integer>
  absl::Status SetInteger(Integer* target) const {
    Integer value = 0;
    if (!absl::SimpleAtoi(last(), &value)) return Expected("an integer", last());
    *target = value;
    return absl::OkStatus();
  }
  absl::Status operator()(double* target) const {
    double value = 0;
    if (!absl::SimpleAtod(last(), &value)) return Expected("a number", last());
    *target = value;
    return absl::OkStatus();
  }
  absl::Status operator()(bool* target) const {
    bool value = false;
    if (!absl::SimpleAtob(last(), &value)) return Expected("true or false", last());
    *target = value;
    return absl::OkStatus();
  }
  absl::Status operator()(ByteCount target) const {
    absl::StatusOr<int64_t> value = ParseByteCount(last());
    if (!value.ok()) return value.status();
    *target.value = *value;
    return absl::OkStatus();
  }
  absl::Status operator()(absl::Duration* target) const {
    absl::Duration value;
    if (!absl::ParseDuration(last(), &value) || value < absl::ZeroDuration()) {
      return Expected("a time such as 20s, 500ms or 1m30s", last());
    }
    *target = value;
    return absl::OkStatus();
  }
  absl::Status operator()(std::vector<std::string>* target) const {
    *target = values;
    return absl::OkStatus();
  }
};

struct Shower {
  std::string operator()(const std::string* value) const { return *value; }
  std::string operator()(const int* value) const { return absl::StrCat(*value); }
  std::string operator()(const int64_t* value) const { return absl::StrCat(*value); }
  std::string operator()(const double* value) const { return absl::StrCat(*value); }
  std::string operator()(const bool* value) const { return *value ? "true" : "false"; }
  std::string operator()(ByteCount value) const { return ShowByteCount(*value.value); }
  std::string operator()(const absl::Duration* value) const { return absl::FormatDuration(*value); }
  std::string operator()(const std::vector<std::string>* value) const { return absl::StrJoin(*value, ","); }
};

}  // namespace

absl::StatusOr<int64_t> ParseByteCount(absl::string_view text) {
  const char* const kWanted = "a size such as 4096, 512MiB or 4GiB";
  size_t digits = 0;
  while (digits < text.size() && absl::ascii_isdigit(static_cast<unsigned char>(text[digits]))) ++digits;
  int64_t count = 0;
  if (!absl::SimpleAtoi(text.substr(0, digits), &count)) return Expected(kWanted, text);
  const absl::string_view unit_name = absl::StripLeadingAsciiWhitespace(text.substr(digits));
  for (const ByteUnit& unit : kByteUnits) {
    if (!absl::EqualsIgnoreCase(unit.name, unit_name)) continue;
    if (count > std::numeric_limits<int64_t>::max() / unit.bytes) return Expected(kWanted, text);
    return count * unit.bytes;
  }
  return Expected(kWanted, text);
}

std::string ShowByteCount(int64_t bytes) {
  for (const ByteUnit& unit : kByteUnits) {
    if (unit.name.size() == 3 && bytes > 0 && bytes % unit.bytes == 0)
      return absl::StrCat(bytes / unit.bytes, unit.name);
  }
  return absl::StrCat(bytes);
}

absl::Status SetFlag(const FlagTarget& target, const std::vector<std::string>& values) {
  return std::visit(Setter{values}, target);
}

std::string ShowFlag(const FlagTarget& target) { return std::visit(Shower{}, target); }

absl::string_view FlagPlaceholder(const FlagTarget& target) {
  // In the order of the variant's alternatives.
  constexpr absl::string_view kNames[] = {"TEXT", "INT", "INT", "NUMBER", "", "SIZE", "TIME", "TEXT"};
  static_assert(std::variant_size_v<FlagTarget> == sizeof(kNames) / sizeof(kNames[0]));
  return kNames[target.index()];
}

bool IsList(const FlagTarget& target) { return std::holds_alternative<std::vector<std::string>*>(target); }
bool IsSwitch(const FlagTarget& target) { return std::holds_alternative<bool*>(target); }

}  // namespace conclave
