// The file that says who used how much: one JSON object a line for each request, for bills and budgets.
#ifndef CONCLAVE_GATEWAY_TENANTS_USAGE_LOG_H_
#define CONCLAVE_GATEWAY_TENANTS_USAGE_LOG_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace conclave {

// One request, from its arrival to the end of its answers. No text of prompts or answers.
struct UsageRecord {
  absl::Time arrival, end;
  std::string request_id, tenant, model;
  int answers = 1;
  int prompt_tokens = 0, cached_tokens = 0, completion_tokens = 0;
  absl::StatusCode code = absl::StatusCode::kOk;
  std::string limit;                        // which one refused it; empty: none
  std::vector<std::string> finish_reasons;  // [answers] empty where an answer did not get so far
};
// The line, without its end.
std::string ShowUsage(const UsageRecord& record);

// Thread-safe. Lines are whole whatever happens beside: each is one write to a file opened for appending.
class UsageLog {
 public:
  // Opens `path`, or makes it, readable by its owner alone. Once a file has `bytes_max`, it is renamed to PATH.1, in
  // the place of the one before, and a new one begun; 0: never. UNAVAILABLE names the path and what the system said.
  static absl::StatusOr<std::unique_ptr<UsageLog>> Open(const std::string& path, int64_t bytes_max);
  ~UsageLog();

  // A full disk is logged once in a while, and does not stop anything.
  void Write(const UsageRecord& record);
  // To be called after something else has moved the file away: the next line goes to a new one. Where that cannot be
  // opened, the old one stays in use.
  void Reopen();

 private:
  UsageLog(std::string path, int64_t bytes_max, int file, int64_t bytes)
      : path_(std::move(path)), bytes_max_(bytes_max), file_(file), bytes_(bytes) {}
  bool AppendLocked(const std::string& line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReopenLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Complain(const char* what) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string path_;
  const int64_t bytes_max_;
  absl::Mutex mutex_;
  int file_ ABSL_GUARDED_BY(mutex_);
  int64_t bytes_ ABSL_GUARDED_BY(mutex_);
  absl::Time next_complaint_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_TENANTS_USAGE_LOG_H_
