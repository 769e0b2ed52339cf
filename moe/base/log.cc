#include "moe/base/log.h"

#include <unistd.h>

#include <atomic>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace conclave {
namespace {

std::atomic<LogLevel> g_level{LogLevel::kInfo};

std::string& Name() {
  static std::string& name = *new std::string("conclave");
  return name;
}

}  // namespace

void SetLogLevel(LogLevel level) { g_level.store(level); }
void SetLogName(absl::string_view name) { Name() = std::string(name); }

void Log(LogLevel level, absl::string_view text) {
  if (level < g_level.load(std::memory_order_relaxed)) return;
  const std::string line =
      absl::StrCat(std::string(1, "DIWE"[static_cast<int>(level)]), " ",
                   absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone()), " ", Name(), ": ",
                   text, "\n");
  // One write keeps lines of several processes on one terminal whole; a full disk must not end the process.
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace conclave
