// What --threads and --cpus say: how many threads compute, and where.
#ifndef CONCLAVE_MOE_BASE_THREAD_OPTIONS_H_
#define CONCLAVE_MOE_BASE_THREAD_OPTIONS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace conclave {

// As given by the user.
struct ThreadOptions {
  int threads = 0;   // 0: one for each of `cpus`, or for each core that the process may use
  std::string cpus;  // such as "0-3,8"; empty: the system decides
};

// What follows from it: arguments of a ThreadPool.
struct ThreadPlan {
  int threads = 1;
  std::vector<int> cpus;  // thread i runs on cpus[i % size]; empty: anywhere
};

// INVALID_ARGUMENT names the flag and what is wrong with it, such as a CPU that is not there.
absl::StatusOr<ThreadPlan> PlanThreads(const ThreadOptions& options);

// PlanThreads, and the calling thread, with all that it starts later, keeps to the CPUs of the plan, where there are
// some: called first in a process, none of its threads takes time from others' CPUs, and memory that it touches first
// lies beside its own. Threads that run already stay where they are. Also INTERNAL: the system refuses.
absl::StatusOr<ThreadPlan> PlanAndKeepThreads(const ThreadOptions& options);

}  // namespace conclave

#endif  // CONCLAVE_MOE_BASE_THREAD_OPTIONS_H_
