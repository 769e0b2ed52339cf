// Reads the YAML of --config: `name: value` lines and lists, and nothing that YAML could do beyond that.
#ifndef CONCLAVE_MOE_DAEMON_CONFIG_FILE_H_
#define CONCLAVE_MOE_DAEMON_CONFIG_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave {

// A larger file is refused.
inline constexpr int64_t kFlagsFileBytesMax = 1 << 20;

// One name with its value or list.
struct ConfigEntry {
  std::string name;
  std::vector<std::string> values;  // one for a scalar
  bool is_list = false;
  int line = 0;  // of the name, from one
};

// The entries of a YAML text; `path` stands in messages only. INVALID_ARGUMENT "path:line: …": not YAML, a repeated
// name, a name without a value, or what a flat file never needs and hostile ones use: anchors, aliases, tags, nesting,
// a second document.
absl::StatusOr<std::vector<ConfigEntry>> ParseConfig(const std::string& path, const std::string& text);

// ParseConfig of a file. INVALID_ARGUMENT: it cannot be read, or is larger than kFlagsFileBytesMax.
absl::StatusOr<std::vector<ConfigEntry>> ReadConfigFile(const std::string& path);

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_CONFIG_FILE_H_
