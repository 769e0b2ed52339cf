// The file that names tenants, their keys and their limits: YAML, or JSON, which is a part of YAML.
#ifndef CONCLAVE_GATEWAY_TENANTS_TENANT_FILE_H_
#define CONCLAVE_GATEWAY_TENANTS_TENANT_FILE_H_

#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "gateway/caller.h"
#include "gateway/tenants/api_key.h"

namespace conclave {

// A key and whose it is.
struct TenantKey {
  KeyHash hash;
  std::shared_ptr<const Tenant> tenant;
};

// All keys by their ids. Immutable once read.
struct TenantTable {
  std::map<std::string, TenantKey, std::less<>> keys;
  size_t tenants = 0;
};

// tenants:
//   - name: research
//     keys: ["sha256:…"]
//     requests-per-minute: 600     # 0 or left out: no limit, here and below
//     tokens-per-minute: 100000    # prompts and answers together
//     requests-running: 8          # answers at once
//     priority: 0                  # lower runs first
//     models: [demo]               # left out: all
//     cache-salt: research         # left out: the name where there are two tenants or more
// INVALID_ARGUMENT: "path:line: …" says what is wrong: unknown or repeated names, a key that two tenants have, a value
// out of range. `path` stands in messages only.
absl::StatusOr<TenantTable> ParseTenantFile(const std::string& path, const std::string& text);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_TENANTS_TENANT_FILE_H_
