// Parses the command line into the flags of one verb. The only file that knows CLI11 is command_line.cc.
#ifndef CONCLAVE_CLI_COMMAND_LINE_H_
#define CONCLAVE_CLI_COMMAND_LINE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/command.h"

namespace conclave {

// Finds the verb, declares its flags, and fills them: command line over environment (CONCLAVE_…) over the default; the
// last occurrence of a flag wins. nullptr: help or version was printed, exit 0. UsageError names the flag and what
// it takes.
absl::StatusOr<Command*> ParseCommandLine(const std::vector<std::string>& arguments,
                                          const std::vector<std::unique_ptr<Command>>& commands);

}  // namespace conclave

#endif  // CONCLAVE_CLI_COMMAND_LINE_H_
