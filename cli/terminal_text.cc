#include "cli/terminal_text.h"

namespace conclave {
namespace {

constexpr absl::string_view kReplacement = "\xef\xbf\xbd";

}  // namespace

std::string WithoutControls(absl::string_view text) {
  std::string shown;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    // U+0080 to U+009F, controls too, are the bytes C2 80 to C2 9F.
    const bool second = byte == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0;
    if (second) ++i;
    if (second || (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7f) {
      shown.append(kReplacement.data(), kReplacement.size());
    } else {
      shown += text[i];
    }
  }
  return shown;
}

}  // namespace conclave
