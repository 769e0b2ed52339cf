#include "moe/grammar/json_formats.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace conclave {
namespace {

// RFC 3339, section 5.6; days that their months do not have are left out.
const char kDate[] =
    "(?:[1-9]\\d{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|"
    "02-(?:0[1-9]|1\\d|2[0-8]))|"
    "(?:[1-9]\\d(?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)-02-29)";
const char kTime[] = "(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,6})?(?:Z|[+\\-](?:[01]\\d|2[0-3]):[0-5]\\d)";
const char kByte[] = "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";

const std::map<std::string, std::string>& Formats() {
  static const auto& formats =
      *new std::map<std::string, std::string>{{"date", kDate},
                                              {"time", kTime},
                                              {"date-time", absl::StrCat(kDate, "T", kTime)},
                                              {"uuid", "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"},
                                              {"ipv4", absl::StrCat(kByte, "(?:\\.", kByte, "){3}")},
                                              {"email",
                                               "[A-Za-z0-9_%+\\-]{1,30}(?:\\.[A-Za-z0-9_%+\\-]{1,30}){0,1}@"
                                               "(?:[A-Za-z0-9][A-Za-z0-9\\-]{0,30}\\.){1,4}[A-Za-z]{2,20}"}};
  return formats;
}

}  // namespace

std::string PatternOfFormat(absl::string_view format) {
  const auto found = Formats().find(std::string(format));
  return found == Formats().end() ? "" : found->second;
}

std::string KnownFormats() {
  return absl::StrJoin(Formats(), ", ", [](std::string* out, const auto& entry) { *out += entry.first; });
}

}  // namespace conclave
