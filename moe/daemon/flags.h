// Flags of a process: command line over environment (CONCLAVE_…) over --config FILE.yaml over the default.
#ifndef CONCLAVE_MOE_DAEMON_FLAGS_H_
#define CONCLAVE_MOE_DAEMON_FLAGS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace conclave {

// The value of an environment variable, null where it is not set.
using Environment = absl::FunctionRef<const char*(const char* name)>;

// One flag, as documentation, shell completion and tests of manifests see it.
struct FlagInfo {
  std::string name;         // without dashes
  std::string environment;  // CONCLAVE_…
  std::string placeholder;  // "INT"; empty for switches
  std::string default_text;
  std::string help;
  bool is_list = false;
};

// Declares flags, then parses. Kebab-case names without dashes; the last occurrence wins; every flag `--a-b` has the
// environment twin CONCLAVE_A_B and the YAML key `a-b`. Lists repeat the flag; in the environment and in YAML they
// are comma-separated or a sequence. A switch is `--a-b`, or `--a-b=false` to turn it off. An empty variable counts as
// not set; a variable that names no flag is not looked at, since it may be another process's. --config, --help and
// --version are there by themselves. Pointers must outlive Parse; what they hold when added is the default.
class Flags {
 public:
  // `program` stands in the usage line and may be two words, such as "conclave up".
  Flags(absl::string_view program, absl::string_view description);
  ~Flags();
  void Add(absl::string_view name, std::string* value, absl::string_view help);
  void Add(absl::string_view name, int* value, absl::string_view help);
  void Add(absl::string_view name, int64_t* value, absl::string_view help);
  void Add(absl::string_view name, double* value, absl::string_view help);
  void Add(absl::string_view name, bool* value, absl::string_view help);
  void Add(absl::string_view name, std::vector<std::string>* value, absl::string_view help);
  // A time such as 20s or 500ms, never negative.
  void Add(absl::string_view name, absl::Duration* value, absl::string_view help);
  // Bytes with an optional unit: 4096, 512MiB, 4GB.
  void AddBytes(absl::string_view name, int64_t* value, absl::string_view help);

  // True: go on. False: --help or --version was printed, exit 0. INVALID_ARGUMENT: a usage error (exit 2) that names
  // the flag, variable, or file and line with the nearest known name.
  // This is the one place that reads the process's environment; the other form takes it from the caller.
  absl::StatusOr<bool> Parse(int argc, const char* const* argv);
  absl::StatusOr<bool> Parse(int argc, const char* const* argv, Environment environment);

  // What --help prints.
  std::string Help() const;
  // All flags in the order of declaration, --config included.
  std::vector<FlagInfo> List() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Prints one line "program: message" to standard error where `status` is not OK, and returns the process's exit code:
// 0 for OK, else `code_on_error`, which is 2 for what Parse refused and 1 for everything else.
int ExitWith(absl::string_view program, const absl::Status& status, int code_on_error);

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_FLAGS_H_
