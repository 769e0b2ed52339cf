// Feeds arbitrary bytes to the way from an HTTP body to requests: nothing may crash, whatever is refused has a message,
// and whatever is accepted holds to the limits.
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "gateway/http/api_request.h"
#include "gateway/http/error_body.h"
#include "gateway/http/json_body.h"
#include "gateway/validation.h"
#include "moe/base/check.h"
#include "moe/tokenizer/utf8.h"

namespace {

template <typename Result>
bool Accepted(const Result& result) {
  if (result.ok()) return true;
  const conclave::ApiError error = conclave::ToApiError(result.status());
  CONCLAVE_CHECK(error.status == 400) << result.status();
  CONCLAVE_CHECK(!error.message.empty());
  CONCLAVE_CHECK(nlohmann::json::accept(conclave::ErrorBody(error))) << conclave::ErrorBody(error);
  return false;
}

void CheckRequest(const conclave::ApiRequest& request, const conclave::TranslationOptions& options) {
  CONCLAVE_CHECK(!request.prompts.empty() && request.prompts.size() <= static_cast<size_t>(options.prompts_max));
  CONCLAVE_CHECK(request.choices >= 1 && request.choices <= conclave::kAnswersMax);
  for (const auto& prompt : request.prompts) {
    // As protobuf will have it: strings are UTF-8.
    CONCLAVE_CHECK(conclave::IsUtf8(prompt.text()));
    for (const auto& message : prompt.chat().messages()) {
      CONCLAVE_CHECK(conclave::IsUtf8(message.content()) && conclave::IsUtf8(message.name()));
    }
    // Each definition is cut out of the body as a value of its own.
    for (const std::string& tool : prompt.chat().tools()) CONCLAVE_CHECK(nlohmann::json::accept(tool)) << tool;
    CONCLAVE_CHECK(prompt.SerializeAsString().size() > 0);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const auto body = conclave::ParseJsonBody(text);
  if (!Accepted(body)) return 0;
  conclave::TranslationOptions options;
  options.prompts_max = 8;
  const auto request = conclave::TranslateInvocation(*body, text, options);
  if (Accepted(request)) CheckRequest(*request, options);
  Accepted(conclave::TranslateTokenize(*body, text));
  Accepted(conclave::TranslateDetokenize(*body));
  return 0;
}
