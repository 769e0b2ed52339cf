// Leveled log lines on standard error: "I 2026-11-23T10:00:00.123Z router: text", or one JSON object a line.
// Thread-safe, one write a line.
#ifndef CONCLAVE_MOE_BASE_LOG_H_
#define CONCLAVE_MOE_BASE_LOG_H_

#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

#include "absl/strings/string_view.h"

namespace conclave {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// Lines below `level` are dropped; the default is kInfo. Call once, before threads start.
void SetLogLevel(LogLevel level);
// The name that stands in every line, such as "expert-2". Call once, before threads start.
void SetLogName(absl::string_view name);

// How lines look; the default is kText. Call once, before threads start.
enum class LogFormat { kText, kJson };
void SetLogFormat(LogFormat format);

// One named value of a structured line.
struct LogField {
  absl::string_view name;
  std::variant<std::string, int64_t, bool> value;

  LogField(absl::string_view field, std::string text) : name(field), value(std::move(text)) {}
  // A template, so that a pointer to characters is text and not a truth.
  template <typename T, typename = std::enable_if_t<std::is_integral_v<T>>>
  LogField(absl::string_view field, T number) : name(field) {
    if constexpr (std::is_same_v<T, bool>) {
      value = number;
    } else {
      value = static_cast<int64_t>(number);
    }
  }
};

// One line about an event: "http status=200 route=/v1/models", or the same as an object with the key "event".
void LogFields(LogLevel level, absl::string_view event, std::initializer_list<LogField> fields);

// Writes one line. The short forms name their level.
void Log(LogLevel level, absl::string_view text);
inline void LogDebug(absl::string_view text) { Log(LogLevel::kDebug, text); }
inline void LogInfo(absl::string_view text) { Log(LogLevel::kInfo, text); }
inline void LogWarning(absl::string_view text) { Log(LogLevel::kWarning, text); }
inline void LogError(absl::string_view text) { Log(LogLevel::kError, text); }

}  // namespace conclave

#endif  // CONCLAVE_MOE_BASE_LOG_H_
