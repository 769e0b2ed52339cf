// Feeds arbitrary bytes to the header parser. Input that begins with '{' is a header alone, for as much data as its
// last offset says; anything else is a whole file.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "moe/checkpoint/safetensors.h"

namespace {

int64_t LastOffset(absl::string_view json) {
  const size_t end = std::min(json.rfind(']'), json.size());
  size_t begin = end;
  while (begin > 0 && json[begin - 1] >= '0' && json[begin - 1] <= '9') --begin;
  int64_t offset = 0;
  return absl::SimpleAtoi(json.substr(begin, end - begin), &offset) ? offset : 0;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  absl::string_view json(reinterpret_cast<const char*>(data), size);
  int64_t data_bytes = 0;
  if (size > 0 && data[0] == '{') {
    data_bytes = LastOffset(json);
  } else {
    uint64_t header_bytes = 0;
    if (size < sizeof(header_bytes)) return 0;
    std::memcpy(&header_bytes, data, sizeof(header_bytes));
    json.remove_prefix(sizeof(header_bytes));
    if (header_bytes > json.size()) return 0;
    data_bytes = static_cast<int64_t>(json.size() - header_bytes);
    json = json.substr(0, header_bytes);
  }
  const auto entries = conclave::ParseSafetensorsHeader(json, data_bytes);
  if (!entries.ok()) return 0;
  int64_t at = 0;
  for (const conclave::SafetensorsEntry& entry : *entries) {
    if (entry.begin != at || entry.end < entry.begin) __builtin_trap();
    at = entry.end;
  }
  if (at != data_bytes) __builtin_trap();
  return 0;
}
