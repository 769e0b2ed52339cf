#include "gateway/tools/json_call_parser.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

bool IsSpace(char byte) { return absl::ascii_isspace(static_cast<unsigned char>(byte)); }

// What a JSON string says; `text` itself where it is none.
std::string TextOfJsonString(std::string text) {
  const nlohmann::json value = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  return value.is_string() ? value.get<std::string>() : text;
}

}  // namespace

JsonCallParser::JsonCallParser(const ToolCallReading& reading)
    : ToolCallParser(reading), matcher_({std::string(format_.call_begin)}) {}

void JsonCallParser::Enter(Next next) {
  next_ = next;
  if (next == Next::kText) matcher_ = StopMatcher({std::string(format_.call_begin)});
  // Models forget to end a call before the next one.
  if (next == Next::kCallEnd) matcher_ = StopMatcher({std::string(format_.call_begin), std::string(format_.call_end)});
  if (next == Next::kObject) {
    raw_.clear();
    arguments_.clear();
    begun_ = taken_ = false;
  }
}

void JsonCallParser::Step(char byte, v1::GenerateResponse& chunk) {
  if (next_ != Next::kText && next_ != Next::kCallEnd) {
    if (!begun_) raw_.push_back(byte);
    return next_ == Next::kInValue ? StepValue(byte, chunk) : StepObject(byte, chunk);
  }
  std::string certain;
  const bool found = matcher_.Append(absl::string_view(&byte, 1), &certain);
  Content(certain, chunk);
  if (found) Enter(matcher_.found() == 0 ? Next::kObject : Next::kText);
}

void JsonCallParser::StepObject(char byte, v1::GenerateResponse& chunk) {
  if (next_ == Next::kKeyString) {
    if (byte == '"' && !escaped_) return Enter(Next::kColon);
    escaped_ = byte == '\\' && !escaped_;
    return key_.push_back(byte);
  }
  if (IsSpace(byte)) return;
  if (next_ == Next::kObject && byte == '{') return Enter(Next::kKey);
  if (next_ == Next::kKey && byte == '"') {
    key_.clear();
    escaped_ = false;
    return Enter(Next::kKeyString);
  }
  if (next_ == Next::kColon && byte == ':') return Enter(Next::kValue);
  if (next_ == Next::kValue) {
    value_.clear();
    in_string_ = escaped_ = false;
    depth_ = 0;
    streams_ = begun_ && IsArguments() && byte != '"';
    Enter(Next::kInValue);
    return StepValue(byte, chunk);
  }
  if (next_ == Next::kCommaOrEnd && byte == ',') return Enter(Next::kKey);
  if (next_ == Next::kCommaOrEnd && byte == '}' && begun_) {
    EndCall(chunk);
    return Enter(Next::kCallEnd);
  }
  NotACall(byte, chunk);
}

void JsonCallParser::StepValue(char byte, v1::GenerateResponse& chunk) {
  const bool closes = byte == '}' || byte == ']';
  if (!in_string_ && depth_ == 0 && (closes || byte == ',' || IsSpace(byte))) {
    // The end of a number or a word, which belongs to the object.
    EndValue(byte, chunk);
    if (next_ == Next::kCommaOrEnd) StepObject(byte, chunk);
    return;
  }
  if (streams_) {
    Arguments(absl::string_view(&byte, 1), chunk);
  } else {
    value_.push_back(byte);
  }
  if (in_string_) {
    in_string_ = byte != '"' || escaped_;
    escaped_ = byte == '\\' && !escaped_;
    if (!in_string_ && depth_ == 0) EndValue(byte, chunk);
    return;
  }
  in_string_ = byte == '"';
  escaped_ = false;
  if (byte == '{' || byte == '[') ++depth_;
  if (closes && --depth_ == 0) EndValue(byte, chunk);
}

void JsonCallParser::EndValue(char byte, v1::GenerateResponse& chunk) {
  Enter(Next::kCommaOrEnd);
  if (key_ == "name" && !begun_) return TakeName(byte, chunk);
  if (!IsArguments()) return;
  taken_ = true;
  if (streams_) return;
  if (absl::StartsWith(value_, "\"")) value_ = TextOfJsonString(std::move(value_));
  if (begun_) return Arguments(value_, chunk);
  arguments_ = std::exchange(value_, {});
}

void JsonCallParser::TakeName(char byte, v1::GenerateResponse& chunk) {
  const std::string name = absl::StartsWith(value_, "\"") ? TextOfJsonString(value_) : "";
  if (!IsFunctionName(name)) return NotACall(byte, chunk);
  BeginCall("", name, chunk);
  begun_ = true;
  raw_.clear();
  Arguments(std::exchange(arguments_, {}), chunk);
}

void JsonCallParser::NotACall(char byte, v1::GenerateResponse& chunk) {
  if (begun_) {
    EndCall(chunk);
    Enter(Next::kCallEnd);
  } else {
    raw_.pop_back();
    Content(absl::StrCat(format_.call_begin, raw_), chunk);
    Enter(Next::kText);
  }
  // A tag may begin with it.
  if (!done()) Step(byte, chunk);
}

void JsonCallParser::End(v1::GenerateResponse& chunk) {
  if (next_ == Next::kText || next_ == Next::kCallEnd) return Content(matcher_.Flush(), chunk);
  if (!begun_) Content(absl::StrCat(format_.call_begin, raw_), chunk);
}

}  // namespace conclave
