// The `conclave` command: finds the verb, runs it, turns its status into one line and an exit code.
#include <unistd.h>

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "cli/command.h"
#include "cli/command_line.h"
#include "moe/daemon/library_logs.h"

namespace conclave {
namespace {

std::string FromEnvironment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string BinaryDirectory() {
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
  if (length <= 0) return ".";
  const std::string executable(path, static_cast<size_t>(length));
  return executable.substr(0, executable.rfind('/'));
}

CommandContext ContextOfProcess() {
  CommandContext context;
  context.binary_directory = BinaryDirectory();
  context.hub.hub_cache = FromEnvironment("HF_HUB_CACHE");
  context.hub.hf_home = FromEnvironment("HF_HOME");
  context.hub.home = FromEnvironment("HOME");
  if (std::string directory = FromEnvironment("TMPDIR"); !directory.empty()) context.temporary_directory = directory;
  return context;
}

int Report(const Command* command, const absl::Status& status) {
  if (status.ok()) return 0;
  const bool usage = IsUsageError(status);
  const std::string who = command == nullptr ? "conclave" : absl::StrCat("conclave ", command->name());
  std::cerr << who << ": " << OneLine(status.message()) << std::endl;
  return usage ? 2 : 1;
}

int Main(int argc, char** argv) {
  std::vector<std::unique_ptr<Command>> commands;
  commands.push_back(NewUpCommand());
  commands.push_back(NewGenerateCommand());
  commands.push_back(NewChatCommand());
  commands.push_back(NewBenchCommand());
  commands.push_back(NewTopCommand());
  commands.push_back(NewLogitsCommand());
  commands.push_back(NewInspectCommand());
  commands.push_back(NewKeyCommand());
  commands.push_back(NewDoctorCommand());
  commands.push_back(NewMakeModelCommand());
  commands.push_back(NewQuantizeCommand());
  commands.push_back(NewPerplexityCommand());
  commands.push_back(NewBenchModelCommand());
  commands.push_back(NewBenchKernelsCommand());
  commands.push_back(NewCompletionCommand(&commands));

  RouteLibraryLogs();
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  absl::StatusOr<Command*> command = ParseCommandLine(arguments, commands);
  if (!command.ok()) return Report(nullptr, command.status());
  if (*command == nullptr) return 0;
  const int code = Report(*command, (*command)->Run(ContextOfProcess()));
  // A full disk or a closed pipe must not look like success.
  std::cout.flush();
  if (code == 0 && !std::cout) return Report(*command, absl::UnknownError("could not write to standard output"));
  return code;
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) { return conclave::Main(argc, argv); }
