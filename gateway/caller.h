// Who calls, as the fronts find out and the dispatcher needs to know it: the seam between protocols and tenants.
#ifndef CONCLAVE_GATEWAY_CALLER_H_
#define CONCLAVE_GATEWAY_CALLER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moe/tracing/trace_context.h"

namespace conclave {

// One customer of a cluster, named by an API key. Immutable; a changed key file makes new objects.
struct Tenant {
  std::string name;                 // stands in logs, usage records and metrics
  int requests_per_minute_max = 0;  // 0: no limit, here and below
  int tokens_per_minute_max = 0;    // prompt and answer together
  int requests_running_max = 0;
  int priority = 0;                         // of requests that name none; lower runs first
  std::vector<std::string> allowed_models;  // empty: all
  std::string cache_salt;                   // prompts share cached prefixes only with those of the same salt
};

// What a front knows of the one who sent a request.
struct Caller {
  std::shared_ptr<const Tenant> tenant;  // never null in a call to the dispatcher
  std::string peer;                      // address, for the access log
  TraceContext trace = {};               // the front's span; not valid: none
  int64_t answers_beside = 0;            // that the same call asks for at once, in requests of their own
};

// Thread-safe.
class Authenticator {
 public:
  virtual ~Authenticator() = default;
  // `authorization`: the value of the header or metadata of that name, "Bearer KEY"; empty where there is none.
  // UNAUTHENTICATED: the key is missing or nobody's; in a time that does not depend on how much of it is right.
  virtual absl::StatusOr<std::shared_ptr<const Tenant>> Authenticate(absl::string_view authorization) const = 0;
};

// Where no keys are configured: everyone is one tenant without limits, whatever they show.
std::unique_ptr<Authenticator> NewOpenAuthenticator();

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_CALLER_H_
