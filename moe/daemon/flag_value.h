// The types of flags: text to value and back. Below flags.h, which is what programs use.
#ifndef CONCLAVE_MOE_DAEMON_FLAG_VALUE_H_
#define CONCLAVE_MOE_DAEMON_FLAG_VALUE_H_

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace conclave {

// Bytes: "4096", "512MiB", "4GiB", "2GB".
struct ByteCount {
  int64_t* value;
};
// Where a flag's value goes. Non-owning.
using FlagTarget =
    std::variant<std::string*, int*, int64_t*, double*, bool*, ByteCount, absl::Duration*, std::vector<std::string>*>;

// A whole number with an optional unit: B, KB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (powers of 1024).
// INVALID_ARGUMENT: anything else, a negative number, or more than an int64 holds.
absl::StatusOr<int64_t> ParseByteCount(absl::string_view text);
// "4GiB": the largest binary unit that divides it, else plain bytes.
std::string ShowByteCount(int64_t bytes);

// Sets the target: a list to all of `values`, anything else to the last one, which must be there.
// INVALID_ARGUMENT: "expected an integer, got 'x'"; the target is then unchanged.
absl::Status SetFlag(const FlagTarget& target, const std::vector<std::string>& values);
// The value as it would be written on the command line; lists with commas.
std::string ShowFlag(const FlagTarget& target);
// What stands for the value in --help: "INT", "SIZE", …; empty for switches.
absl::string_view FlagPlaceholder(const FlagTarget& target);
bool IsList(const FlagTarget& target);
bool IsSwitch(const FlagTarget& target);

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_FLAG_VALUE_H_
