// Leveled log lines on standard error: "I 2026-11-23T10:00:00.123Z router: text". Thread-safe, one write a line.
#ifndef CONCLAVE_MOE_BASE_LOG_H_
#define CONCLAVE_MOE_BASE_LOG_H_

#include "absl/strings/string_view.h"

namespace conclave {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// Lines below `level` are dropped; the default is kInfo. Call once, before threads start.
void SetLogLevel(LogLevel level);
// The name that stands in every line, such as "expert-2". Call once, before threads start.
void SetLogName(absl::string_view name);

// Writes one line. The short forms name their level.
void Log(LogLevel level, absl::string_view text);
inline void LogDebug(absl::string_view text) { Log(LogLevel::kDebug, text); }
inline void LogInfo(absl::string_view text) { Log(LogLevel::kInfo, text); }
inline void LogWarning(absl::string_view text) { Log(LogLevel::kWarning, text); }
inline void LogError(absl::string_view text) { Log(LogLevel::kError, text); }

}  // namespace conclave

#endif  // CONCLAVE_MOE_BASE_LOG_H_
