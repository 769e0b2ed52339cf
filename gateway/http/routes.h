// The paths that the HTTP port knows.
#ifndef CONCLAVE_GATEWAY_HTTP_ROUTES_H_
#define CONCLAVE_GATEWAY_HTTP_ROUTES_H_

#include <string>

#include "absl/strings/string_view.h"

namespace conclave {

enum class Endpoint {
  kChatCompletions,
  kCompletions,
  kInvocations,
  kTokenize,
  kDetokenize,
  kTokenizerInfo,
  kModels,
  kModel,
  kHealth,
  kReady,
  kPing,
  kVersion,
  kExperts,
  kConsole,
};

// One path and what it takes.
struct Route {
  Endpoint endpoint;
  absl::string_view path;  // "/v1/models/{id}"
  bool post = false;       // takes POST alone, else GET and HEAD
  bool needs_key = true;
};

// Null: no such path. `id` gets what stands in the path's place for it, decoded.
const Route* FindRoute(absl::string_view path, std::string* id);
// What Allow says: "POST, OPTIONS" or "GET, HEAD, OPTIONS".
absl::string_view AllowedMethods(const Route& route);
bool Allows(const Route& route, absl::string_view method);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_ROUTES_H_
