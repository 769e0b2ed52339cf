#include "moe/base/log.h"

#include <unistd.h>

#include <atomic>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "moe/base/json_writer.h"

namespace conclave {
namespace {

std::atomic<LogLevel> g_level{LogLevel::kInfo};
std::atomic<LogFormat> g_format{LogFormat::kText};

std::string& Name() {
  static std::string& name = *new std::string("conclave");
  return name;
}

std::string Now() { return absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone()); }

void WriteLine(std::string line) {
  line += '\n';
  // One write keeps lines of several processes on one terminal whole; a full disk must not end the process.
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

void WriteTextLine(LogLevel level, absl::string_view text) {
  WriteLine(absl::StrCat(std::string(1, "DIWE"[static_cast<int>(level)]), " ", Now(), " ", Name(), ": ", text));
}

JsonWriter BeginJsonLine(LogLevel level) {
  constexpr const char* kNames[] = {"debug", "info", "warning", "error"};
  JsonWriter json;
  json.BeginObject().Key("time").Text(Now()).Key("level").Text(kNames[static_cast<int>(level)]);
  json.Key("process").Text(Name());
  return json;
}

// Quoted where a reader could not see where it ends.
std::string TextOf(const LogField& field) {
  if (const auto* number = std::get_if<int64_t>(&field.value)) return absl::StrCat(*number);
  if (const auto* flag = std::get_if<bool>(&field.value)) return *flag ? "true" : "false";
  const std::string& text = std::get<std::string>(field.value);
  const bool plain = !text.empty() && text.find_first_of(" =\"\\\t\r\n") == std::string::npos;
  return plain ? text : absl::StrCat("\"", absl::CHexEscape(text), "\"");
}

}  // namespace

void SetLogLevel(LogLevel level) { g_level.store(level); }
void SetLogName(absl::string_view name) { Name() = std::string(name); }

void SetLogFormat(LogFormat format) { g_format.store(format); }

void Log(LogLevel level, absl::string_view text) {
  if (level < g_level.load(std::memory_order_relaxed)) return;
  if (g_format.load(std::memory_order_relaxed) == LogFormat::kText) return WriteTextLine(level, text);
  JsonWriter json = BeginJsonLine(level);
  WriteLine(json.Key("message").Text(text).End().text());
}

void LogFields(LogLevel level, absl::string_view event, std::initializer_list<LogField> fields) {
  if (level < g_level.load(std::memory_order_relaxed)) return;
  if (g_format.load(std::memory_order_relaxed) == LogFormat::kText) {
    std::string text(event);
    for (const LogField& field : fields) absl::StrAppend(&text, " ", field.name, "=", TextOf(field));
    return WriteTextLine(level, text);
  }
  JsonWriter json = BeginJsonLine(level);
  json.Key("event").Text(event);
  for (const LogField& field : fields) {
    json.Key(field.name);
    if (const auto* text = std::get_if<std::string>(&field.value)) json.Text(*text);
    if (const auto* number = std::get_if<int64_t>(&field.value)) json.Number(*number);
    if (const auto* flag = std::get_if<bool>(&field.value)) json.Bool(*flag);
  }
  WriteLine(json.End().text());
}

}  // namespace conclave
