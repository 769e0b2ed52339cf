#include "moe/base/thread_options.h"

#include "absl/strings/str_cat.h"
#include "moe/base/cpus.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"

namespace conclave {

absl::StatusOr<ThreadPlan> PlanThreads(const ThreadOptions& options) {
  if (options.threads < 0 || options.threads > limits::kThreadsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("--threads: ", options.threads, " is not in [0, ", limits::kThreadsMax, "]"));
  }
  ThreadPlan plan;
  if (!options.cpus.empty()) {
    absl::StatusOr<std::vector<int>> cpus = ParseCpuList(options.cpus);
    absl::Status status = cpus.status();
    if (status.ok()) status = CheckUsable(*cpus);
    if (!status.ok()) return absl::InvalidArgumentError(absl::StrCat("--cpus: ", status.message()));
    plan.cpus = *std::move(cpus);
  }
  const int all = plan.cpus.empty() ? UsableCores() : static_cast<int>(plan.cpus.size());
  plan.threads = options.threads > 0 ? options.threads : all;
  return plan;
}

absl::StatusOr<ThreadPlan> PlanAndKeepThreads(const ThreadOptions& options) {
  ASSIGN_OR_RETURN(ThreadPlan plan, PlanThreads(options));
  if (!plan.cpus.empty()) RETURN_IF_ERROR(KeepThisThreadOn(plan.cpus));
  return plan;
}

}  // namespace conclave
