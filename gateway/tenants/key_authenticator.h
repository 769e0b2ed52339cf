// Knows callers by the keys of a tenant file, and follows the file as it changes.
#ifndef CONCLAVE_GATEWAY_TENANTS_KEY_AUTHENTICATOR_H_
#define CONCLAVE_GATEWAY_TENANTS_KEY_AUTHENTICATOR_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gateway/caller.h"

namespace conclave {

inline constexpr int64_t kTenantFileBytesMax = 16 << 20;

// Thread-safe. Requests that were let in go on under the tenant that let them in.
class KeyAuthenticator : public Authenticator {
 public:
  // Reads the file, then looks for changes every `poll`. A changed file that cannot be read or is wrong leaves the
  // keys as they were, and is logged. INVALID_ARGUMENT, NOT_FOUND: what is wrong with the file now.
  static absl::StatusOr<std::unique_ptr<KeyAuthenticator>> Create(const std::string& path, absl::Duration poll);
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_TENANTS_KEY_AUTHENTICATOR_H_
