// Flags of a process: command line over environment (CONCLAVE_…) over --config FILE.yaml over the default.
#ifndef CONCLAVE_MOE_DAEMON_FLAGS_H_
#define CONCLAVE_MOE_DAEMON_FLAGS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave {

// Declares flags, then parses. Kebab-case names without dashes; the last occurrence wins; every flag `--a-b` has the
// environment twin CONCLAVE_A_B and the YAML key `a-b`. Lists repeat the flag; in the environment and in YAML they
// are comma-separated or a sequence. Pointers must outlive Parse.
class Flags {
 public:
  Flags(absl::string_view program, absl::string_view description);
  ~Flags();
  void Add(absl::string_view name, std::string* value, absl::string_view help);
  void Add(absl::string_view name, int* value, absl::string_view help);
  void Add(absl::string_view name, int64_t* value, absl::string_view help);
  void Add(absl::string_view name, double* value, absl::string_view help);
  void Add(absl::string_view name, bool* value, absl::string_view help);
  void Add(absl::string_view name, std::vector<std::string>* value, absl::string_view help);

  // True: go on. False: --help or --version was printed, exit 0. INVALID_ARGUMENT: a usage error (exit 2) that names
  // the flag, variable, or file and line with the nearest known name.
  absl::StatusOr<bool> Parse(int argc, const char* const* argv);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The exit code for a status by our convention: OK 0, INVALID_ARGUMENT from Parse 2, others 1; prints one line
// "program: message" to standard error where not OK.
int ExitWith(absl::string_view program, const absl::Status& status, int code_on_error);

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_FLAGS_H_
