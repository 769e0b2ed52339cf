#include "gateway/http/routes.h"

#include <cstddef>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"

namespace conclave {
namespace {

constexpr Route kRoutes[] = {
    {Endpoint::kChatCompletions, "/v1/chat/completions", true, true},
    {Endpoint::kCompletions, "/v1/completions", true, true},
    {Endpoint::kInvocations, "/invocations", true, true},
    {Endpoint::kTokenize, "/tokenize", true, true},
    {Endpoint::kDetokenize, "/detokenize", true, true},
    {Endpoint::kTokenizerInfo, "/tokenizer_info", false, true},
    {Endpoint::kModels, "/v1/models", false, true},
    {Endpoint::kHealth, "/health", false, false},
    {Endpoint::kReady, "/ready", false, false},
    {Endpoint::kPing, "/ping", false, false},
    {Endpoint::kVersion, "/version", false, false},
    {Endpoint::kExperts, "/experts", false, true},
    {Endpoint::kConsole, "/", false, false},
    {Endpoint::kConsole, "/console.css", false, false},
    {Endpoint::kConsole, "/console.js", false, false},
    {Endpoint::kConsole, "/tokens.js", false, false},
};
constexpr Route kModelRoute = {Endpoint::kModel, "/v1/models/{id}", false, true};
constexpr absl::string_view kModelPrefix = "/v1/models/";

// "%2F" is "/"; what is no such sequence stays.
std::string PercentDecode(absl::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && absl::ascii_isxdigit(static_cast<unsigned char>(text[i + 1])) &&
        absl::ascii_isxdigit(static_cast<unsigned char>(text[i + 2]))) {
      decoded += absl::HexStringToBytes(text.substr(i + 1, 2));
      i += 2;
    } else {
      decoded += text[i];
    }
  }
  return decoded;
}

}  // namespace

const Route* FindRoute(absl::string_view path, std::string* id) {
  for (const Route& route : kRoutes) {
    if (path == route.path) return &route;
  }
  if (!absl::StartsWith(path, kModelPrefix) || path.size() == kModelPrefix.size()) return nullptr;
  *id = PercentDecode(path.substr(kModelPrefix.size()));
  return &kModelRoute;
}

absl::string_view AllowedMethods(const Route& route) { return route.post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS"; }

bool Allows(const Route& route, absl::string_view method) {
  return route.post ? method == "POST" : method == "GET" || method == "HEAD";
}

}  // namespace conclave
