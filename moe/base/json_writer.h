// Writes JSON text in one pass, for `-o json`, cluster.json and answers over HTTP.
#ifndef CONCLAVE_MOE_BASE_JSON_WRITER_H_
#define CONCLAVE_MOE_BASE_JSON_WRITER_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace conclave {

// JsonWriter json;
// json.BeginObject().Key("ids").Numbers(ids).Key("text").Text(text).End();
// The caller sees to it that keys stand in objects only; commas are put by the writer. Not thread-safe.
class JsonWriter {
 public:
  JsonWriter& BeginObject();
  JsonWriter& BeginArray();
  JsonWriter& End();  // the innermost open object or array
  JsonWriter& Key(absl::string_view name);
  JsonWriter& Text(absl::string_view value);  // UTF-8
  JsonWriter& Number(int64_t value);
  JsonWriter& Real(double value);    // null where not finite
  JsonWriter& Float32(float value);  // the fewest digits that read back as this float; null where not finite
  JsonWriter& Bool(bool value);
  JsonWriter& Null();
  JsonWriter& Numbers(absl::Span<const int32_t> values);
  const std::string& text() const { return text_; }

 private:
  void Separate();
  void Quote(absl::string_view value);

  std::string text_;
  std::string open_;  // one closing bracket for each open object or array
  bool need_comma_ = false;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_BASE_JSON_WRITER_H_
