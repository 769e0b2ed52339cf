// A verb of the `conclave` command: its flags as data, and what it does. One file a verb, below cli/.
#ifndef CONCLAVE_CLI_COMMAND_H_
#define CONCLAVE_CLI_COMMAND_H_

#include <deque>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "moe/checkpoint/model_dir.h"
#include "moe/daemon/flag_value.h"

namespace conclave {

// One flag `--name`, with its environment twin CONCLAVE_NAME, or a positional argument.
struct CommandFlag {
  std::string name;  // kebab-case, without dashes
  FlagTarget target;
  std::string help;
  std::string value_name;  // stands in the help: DIR, N, TEXT
  char short_name = '\0';  // such as 'o' for -o
  bool positional = false;
  bool hidden = false;               // for tests and experts: works, but is neither in the help nor completed
  std::vector<std::string> choices;  // empty: any value
  double minimum = -std::numeric_limits<double>::infinity();
  double maximum = std::numeric_limits<double>::infinity();
};

// The flags of one verb. Targets must outlive parsing; their values at Add are the defaults.
class CommandFlags {
 public:
  // The reference is good until the set dies: set what the flag has besides a name.
  CommandFlag& Add(absl::string_view name, FlagTarget target, absl::string_view value_name, absl::string_view help);
  // -o, --output text|json, which every verb that reads has.
  void AddOutput(std::string* output);
  const std::deque<CommandFlag>& flags() const { return flags_; }

 private:
  std::deque<CommandFlag> flags_;
};

// What a verb may know of the world; filled in by main, which alone reads the environment.
struct CommandContext {
  std::string binary_directory;              // where this executable lies
  HubEnvironment hub;                        // where models given as org/name are looked up
  std::string temporary_directory = "/tmp";  // TMPDIR
};

// Declare, then parse, then Run: once each, on the main thread.
class Command {
 public:
  virtual ~Command() = default;
  virtual std::string name() const = 0;
  virtual std::string summary() const = 0;  // one line of help
  virtual void Declare(CommandFlags& flags) = 0;
  // Runs after Declare and parsing. A status made by UsageError ends the process with 2, any other error with 1.
  virtual absl::Status Run(const CommandContext& context) = 0;
};

// The caller used the command wrongly: exit code 2. `message` says what to do instead.
absl::Status UsageError(absl::string_view message);
bool IsUsageError(const absl::Status& status);
// `message` without line breaks, as errors take one line.
std::string OneLine(absl::string_view message);

// "CONCLAVE_MAX_TOKENS" for "max-tokens".
std::string EnvironmentName(absl::string_view flag);

// The verbs, each defined in the file of its name.
std::unique_ptr<Command> NewUpCommand();
std::unique_ptr<Command> NewGenerateCommand();
std::unique_ptr<Command> NewChatCommand();
std::unique_ptr<Command> NewBenchCommand();
std::unique_ptr<Command> NewTopCommand();
std::unique_ptr<Command> NewLogitsCommand();
std::unique_ptr<Command> NewInspectCommand();
std::unique_ptr<Command> NewKeyCommand();
std::unique_ptr<Command> NewDoctorCommand();
std::unique_ptr<Command> NewMakeModelCommand();
std::unique_ptr<Command> NewQuantizeCommand();
std::unique_ptr<Command> NewPerplexityCommand();
std::unique_ptr<Command> NewBenchKernelsCommand();
std::unique_ptr<Command> NewBenchModelCommand();
// Prints scripts that complete the verbs and flags of `commands`, which must outlive it; itself may be among them.
std::unique_ptr<Command> NewCompletionCommand(const std::vector<std::unique_ptr<Command>>* commands);

}  // namespace conclave

#endif  // CONCLAVE_CLI_COMMAND_H_
