// Splits a command line into flags and their texts; knows nothing of types. Below flags.h.
#ifndef CONCLAVE_MOE_DAEMON_COMMAND_LINE_H_
#define CONCLAVE_MOE_DAEMON_COMMAND_LINE_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace conclave {

// A flag, as far as splitting needs to know it.
struct CommandLineFlag {
  std::string name;        // without dashes
  bool is_switch = false;  // takes a value only as --name=value
};

// What stood on a command line: by the flag's name the texts, in order of occurrence; a bare switch is "true".
using CommandLine = std::map<std::string, std::vector<std::string>>;

// argv[0] is skipped. INVALID_ARGUMENT names the argument: an unknown flag (with the nearest known one), a flag
// without its value, an argument without a name.
absl::StatusOr<CommandLine> SplitCommandLine(int argc, const char* const* argv,
                                             const std::vector<CommandLineFlag>& flags);

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_COMMAND_LINE_H_
