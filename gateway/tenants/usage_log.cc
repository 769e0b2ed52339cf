#include "gateway/tenants/usage_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "moe/base/log.h"

namespace conclave {
namespace {

constexpr absl::Duration kComplaintInterval = absl::Seconds(10);

// The file and its length, or -1 with errno.
std::pair<int, int64_t> OpenForAppending(const std::string& path) {
  const int file = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  struct stat status {};
  if (file < 0 || ::fstat(file, &status) != 0) return {file, 0};
  return {file, status.st_size};
}

std::string ShowTime(absl::Time time) { return absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", time, absl::UTCTimeZone()); }

}  // namespace

std::string ShowUsage(const UsageRecord& record) {
  nlohmann::ordered_json json;
  json["time"] = ShowTime(record.arrival);
  json["request_id"] = record.request_id;
  json["tenant"] = record.tenant;
  json["model"] = record.model;
  json["code"] = absl::StatusCodeToString(record.code);
  if (!record.limit.empty()) json["limit"] = record.limit;
  json["n"] = record.answers;
  json["prompt_tokens"] = record.prompt_tokens;
  json["cached_tokens"] = record.cached_tokens;
  json["completion_tokens"] = record.completion_tokens;
  json["finish_reasons"] = record.finish_reasons;
  json["duration_ms"] = absl::ToInt64Milliseconds(record.end - record.arrival);
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

absl::StatusOr<std::unique_ptr<UsageLog>> UsageLog::Open(const std::string& path, int64_t bytes_max) {
  const auto [file, bytes] = OpenForAppending(path);
  if (file < 0) return absl::UnavailableError(absl::StrCat("cannot write ", path, ": ", strerror(errno)));
  return absl::WrapUnique(new UsageLog(path, bytes_max, file, bytes));
}

UsageLog::~UsageLog() {
  absl::MutexLock lock(&mutex_);
  ::close(file_);
}

void UsageLog::Write(const UsageRecord& record) {
  const std::string line = absl::StrCat(ShowUsage(record), "\n");
  const int64_t size = static_cast<int64_t>(line.size());
  absl::MutexLock lock(&mutex_);
  if (bytes_max_ > 0 && bytes_ > 0 && bytes_ + size > bytes_max_) {
    if (std::rename(path_.c_str(), absl::StrCat(path_, ".1").c_str()) != 0) Complain("renamed");
    ReopenLocked();
  }
  if (!AppendLocked(line)) return Complain("written");
  bytes_ += size;
}

// Whether the line stands in the file, whole; else errno says why, and no part of it stays.
bool UsageLog::AppendLocked(const std::string& line) {
  ssize_t written = ::write(file_, line.data(), line.size());
  if (written == static_cast<ssize_t>(line.size())) return true;
  if (written <= 0) return false;
  // The disk was full after a part: the next attempt tells.
  const ssize_t more = ::write(file_, line.data() + written, line.size() - static_cast<size_t>(written));
  const int error = more < 0 ? errno : ENOSPC;
  written += std::max<ssize_t>(more, 0);
  if (written == static_cast<ssize_t>(line.size())) return true;
  struct stat status {};
  const bool last = ::fstat(file_, &status) == 0 && status.st_size == bytes_ + written;
  if (last && ::ftruncate(file_, bytes_) != 0) bytes_ += written;
  errno = error;
  return false;
}

void UsageLog::Reopen() {
  absl::MutexLock lock(&mutex_);
  ReopenLocked();
}

void UsageLog::ReopenLocked() {
  const auto [file, bytes] = OpenForAppending(path_);
  if (file < 0) return Complain("opened");
  ::close(std::exchange(file_, file));
  bytes_ = bytes;
}

void UsageLog::Complain(const char* what) {
  const std::string why = strerror(errno);
  if (absl::Now() < next_complaint_) return;
  next_complaint_ = absl::Now() + kComplaintInterval;
  LogError(absl::StrCat("the usage log ", path_, " could not be ", what, ": ", why));
}

}  // namespace conclave
