#include "gateway/tenants/api_key.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include <cstdint>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "moe/base/check.h"

namespace conclave {
namespace {

constexpr absl::string_view kPrefix = "ck-";
constexpr size_t kIdDigits = 8, kSaltBytes = 16, kHashBytes = 32, kSecretBytes = 32;
constexpr size_t kSecretDigits = 43;  // 32 bytes in base64url without padding

std::string RandomBytes(size_t count) {
  std::string bytes(count, '\0');
  CONCLAVE_CHECK(RAND_bytes(reinterpret_cast<uint8_t*>(bytes.data()), static_cast<int>(count)) == 1)
      << "the machine gives no random numbers";
  return bytes;
}

std::string Sha256(absl::string_view salt, absl::string_view key) {
  const std::string text = absl::StrCat(salt, key);
  std::string hash(kHashBytes, '\0');
  CONCLAVE_CHECK(EVP_Digest(text.data(), text.size(), reinterpret_cast<uint8_t*>(hash.data()), nullptr, EVP_sha256(),
                            nullptr) == 1)
      << "SHA-256 failed";
  return hash;
}

bool IsHex(absl::string_view text, size_t digits) {
  if (text.size() != digits) return false;
  for (const char c : text) {
    if (!absl::ascii_isxdigit(static_cast<unsigned char>(c)) || absl::ascii_isupper(static_cast<unsigned char>(c))) {
      return false;
    }
  }
  return true;
}

}  // namespace

std::string NewApiKey() {
  std::string secret = absl::WebSafeBase64Escape(RandomBytes(kSecretBytes));
  secret.resize(kSecretDigits);
  return absl::StrCat(kPrefix, absl::BytesToHexString(RandomBytes(kIdDigits / 2)), "-", secret);
}

absl::string_view ApiKeyId(absl::string_view key) {
  if (key.size() != kPrefix.size() + kIdDigits + 1 + kSecretDigits || !absl::StartsWith(key, kPrefix)) return "";
  const absl::string_view id = key.substr(kPrefix.size(), kIdDigits);
  return IsHex(id, kIdDigits) && key[kPrefix.size() + kIdDigits] == '-' ? id : "";
}

KeyHash HashApiKey(absl::string_view key) {
  const absl::string_view id = ApiKeyId(key);
  CONCLAVE_CHECK(!id.empty()) << "not a key";
  const std::string salt = RandomBytes(kSaltBytes);
  return {std::string(id), salt, Sha256(salt, key)};
}

bool MatchesApiKey(absl::string_view key, const KeyHash& hash) {
  const std::string own = Sha256(hash.salt, key);
  return hash.hash.size() == own.size() && CRYPTO_memcmp(own.data(), hash.hash.data(), own.size()) == 0;
}

std::string ShowKeyHash(const KeyHash& hash) {
  return absl::StrCat("sha256:", hash.id, ":", absl::BytesToHexString(hash.salt), ":",
                      absl::BytesToHexString(hash.hash));
}

absl::StatusOr<KeyHash> ParseKeyHash(absl::string_view text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ':');
  if (parts.size() != 4 || parts[0] != "sha256" || !IsHex(parts[1], kIdDigits) || !IsHex(parts[2], 2 * kSaltBytes) ||
      !IsHex(parts[3], 2 * kHashBytes)) {
    return absl::InvalidArgumentError("expected sha256:ID:SALT:HASH, as `conclave key` prints it");
  }
  return KeyHash{std::string(parts[1]), absl::HexStringToBytes(parts[2]), absl::HexStringToBytes(parts[3])};
}

}  // namespace conclave
