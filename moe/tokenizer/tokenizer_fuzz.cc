// libFuzzer target: the bytes of a tokenizer.json, and where they load, a text to encode and decode.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "moe/base/check.h"
#include "moe/tokenizer/chat_template.h"
#include "moe/tokenizer/detokenizer.h"
#include "moe/tokenizer/tokenizer.h"

// The input is three parts, separated by zero bytes: tokenizer.json, tokenizer_config.json, a text.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t first = std::min(input.find('\0'), size);
  const size_t second = std::min(input.find('\0', std::min(first + 1, size)), size);
  const absl::string_view config = input.substr(std::min(first + 1, second), second - std::min(first + 1, second));
  const absl::string_view text = input.substr(std::min(second + 1, size));
  const auto tokenizer = conclave::Tokenizer::LoadFromJson(input.substr(0, first), config);
  if (tokenizer.ok()) {
    const std::vector<int32_t> ids = (*tokenizer)->Encode(text, conclave::SpecialText::kAsTokens);
    conclave::Detokenizer detokenizer(tokenizer->get());
    std::string streamed;
    for (int32_t id : ids) streamed += detokenizer.Append(id);
    streamed += detokenizer.Flush();
    CONCLAVE_CHECK(streamed == (*tokenizer)->Decode(ids, /*skip_special=*/true).value());
  }
  const auto chat = conclave::ChatTemplate::LoadFromJson(config);
  if (chat.ok()) {
    const std::vector<conclave::ChatTurn> turns = {{"system", "a"}, {"user", "b\"\n"}, {"assistant", "</think>c"}};
    const auto pieces = (*chat)->Render(turns, /*add_generation_prompt=*/true);
    if (pieces.ok() && tokenizer.ok()) conclave::EncodePieces(**tokenizer, *pieces);
  }
  return 0;
}
