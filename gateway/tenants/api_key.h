// API keys and what is kept of them: "ck-1f2e3d4c-SECRET", of which a file holds the public first part, a salt and a
// hash. The secret has 256 random bits, so that one salted SHA-256 is as good as a slow hash would be.
#ifndef CONCLAVE_GATEWAY_TENANTS_API_KEY_H_
#define CONCLAVE_GATEWAY_TENANTS_API_KEY_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave {

// What a key file says of one key.
struct KeyHash {
  std::string id;    // 8 hexadecimal digits, the key's public part
  std::string salt;  // 16 bytes
  std::string hash;  // 32 bytes: SHA-256 of the salt and then the whole key
};

// A new key of the machine's own randomness; nobody else ever sees it.
std::string NewApiKey();
// The id of a text that has a key's form; empty for any other text.
absl::string_view ApiKeyId(absl::string_view key);

// The hash to keep, with a new salt. REQUIRES: ApiKeyId(key) is not empty
KeyHash HashApiKey(absl::string_view key);
// Whether `key` has this hash; in a time that depends on the key's length alone.
bool MatchesApiKey(absl::string_view key, const KeyHash& hash);

// "sha256:ID:SALT:HASH" in hexadecimal digits, as it stands in a key file.
std::string ShowKeyHash(const KeyHash& hash);
// The reverse. INVALID_ARGUMENT: not of this form.
absl::StatusOr<KeyHash> ParseKeyHash(absl::string_view text);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_TENANTS_API_KEY_H_
