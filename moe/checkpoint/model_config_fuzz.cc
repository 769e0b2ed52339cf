// Feeds arbitrary text to the config.json parser; up to a zero byte it is config.json, behind it
// generation_config.json. What it accepts must be printable, and read back as the same.
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "moe/base/check.h"
#include "moe/checkpoint/model_config.h"
#include "moe/checkpoint/model_spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t cut = text.find('\0');
  const absl::string_view generation = cut == absl::string_view::npos ? absl::string_view() : text.substr(cut + 1);
  const auto spec = conclave::ParseModelConfig(text.substr(0, cut), generation);
  if (!spec.ok()) return 0;
  const std::string written = conclave::WriteModelConfig(*spec, "bfloat16");
  const auto again = conclave::ParseModelConfig(written, "");
  CONCLAVE_CHECK(again.ok()) << again.status() << "\n" << written;
  CONCLAVE_CHECK(*again == *spec) << written;
  return 0;
}
