// The CPUs of this machine: which of them this process may use, lists of them as users write them, and threads that
// keep to some of them or leave them to others.
#ifndef CONCLAVE_MOE_BASE_CPUS_H_
#define CONCLAVE_MOE_BASE_CPUS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace conclave {

// The numbers of the CPUs that the calling thread may run on, ascending: those of the machine less what taskset or a
// container's set of CPUs withholds. Never empty.
std::vector<int> UsableCpus();

// How many threads can compute at once: the usable CPUs, or fewer where the control group at `cgroup` has a quota of
// CPU time (Kubernetes' limits are such quotas). At least 1.
int UsableCores(const std::string& cgroup = "/sys/fs/cgroup");

// "0-3,8" in the order in which it is written. INVALID_ARGUMENT quotes what is no number, no range, or there twice.
absl::StatusOr<std::vector<int>> ParseCpuList(absl::string_view text);
// The opposite, ascending and with ranges: "0-3,8".
std::string FormatCpuList(absl::Span<const int> cpus);

// INVALID_ARGUMENT names the first CPU that the calling thread may not run on, and those on which it may.
absl::Status CheckUsable(absl::Span<const int> cpus);

// Sorted so that neighbours in the list are neighbours in the machine: one memory node after the other, and the
// hardware threads of a core beside each other. `sysfs` is where Linux describes its devices; what it does not tell
// counts as one node, and as a core a CPU.
std::vector<int> SortByLocality(std::vector<int> cpus, const std::string& sysfs = "/sys/devices/system");

// From now on the calling thread, and threads that it starts later, run on these CPUs only. INTERNAL: the system
// refuses. REQUIRES: cpus is not empty
absl::Status KeepThisThreadOn(absl::Span<const int> cpus);

// From now on the calling thread, and threads that it starts later, take no core away from another thread at the moment
// they wake up: they have as much of the cores as before, but wait until whoever runs there has done or had its turn.
// For threads that compute on behalf of others. Where the system refuses, nothing changes.
void LetOthersGoFirst();

}  // namespace conclave

#endif  // CONCLAVE_MOE_BASE_CPUS_H_
