#include "moe/base/json_writer.h"

#include <charconv>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "moe/base/check.h"

namespace conclave {

void JsonWriter::Separate() {
  if (need_comma_) text_ += ", ";
  need_comma_ = true;
}

JsonWriter& JsonWriter::BeginObject() {
  Separate();
  text_ += '{';
  open_ += '}';
  need_comma_ = false;
  return *this;
}

JsonWriter& JsonWriter::BeginArray() {
  Separate();
  text_ += '[';
  open_ += ']';
  need_comma_ = false;
  return *this;
}

JsonWriter& JsonWriter::End() {
  CONCLAVE_CHECK(!open_.empty());
  text_ += open_.back();
  open_.pop_back();
  need_comma_ = true;
  return *this;
}

JsonWriter& JsonWriter::Key(absl::string_view name) {
  Separate();
  Quote(name);
  text_ += ": ";
  need_comma_ = false;
  return *this;
}

JsonWriter& JsonWriter::Text(absl::string_view value) {
  Separate();
  Quote(value);
  return *this;
}

JsonWriter& JsonWriter::Number(int64_t value) {
  Separate();
  absl::StrAppend(&text_, value);
  return *this;
}

JsonWriter& JsonWriter::Real(double value) {
  if (!std::isfinite(value)) return Null();
  Separate();
  absl::StrAppendFormat(&text_, "%.17g", value);
  return *this;
}

JsonWriter& JsonWriter::Float32(float value) {
  if (!std::isfinite(value)) return Null();
  Separate();
  char digits[32];
  const std::to_chars_result end = std::to_chars(digits, digits + sizeof(digits), value);
  text_.append(digits, end.ptr);
  return *this;
}

JsonWriter& JsonWriter::Bool(bool value) {
  Separate();
  text_ += value ? "true" : "false";
  return *this;
}

JsonWriter& JsonWriter::Null() {
  Separate();
  text_ += "null";
  return *this;
}

JsonWriter& JsonWriter::Numbers(absl::Span<const int32_t> values) {
  BeginArray();
  for (int32_t value : values) Number(value);
  return End();
}

void JsonWriter::Quote(absl::string_view value) {
  text_ += '"';
  for (const char c : value) {
    switch (c) {
      case '"':
        text_ += "\\\"";
        break;
      case '\\':
        text_ += "\\\\";
        break;
      case '\n':
        text_ += "\\n";
        break;
      case '\r':
        text_ += "\\r";
        break;
      case '\t':
        text_ += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          absl::StrAppendFormat(&text_, "\\u%04x", static_cast<int>(c));
        } else {
          text_ += c;
        }
    }
  }
  text_ += '"';
}

}  // namespace conclave
