#include "gateway/tenants/key_authenticator.h"

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "gateway/tenants/api_key.h"
#include "gateway/tenants/tenant_file.h"
#include "moe/base/log.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/model_file.h"
#include "moe/daemon/file_watch.h"

namespace conclave {
namespace {

absl::StatusOr<std::shared_ptr<const TenantTable>> ReadTable(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kTenantFileBytesMax));
  ASSIGN_OR_RETURN(TenantTable table, ParseTenantFile(path, text));
  return std::make_shared<const TenantTable>(std::move(table));
}

class FileAuthenticator final : public KeyAuthenticator {
 public:
  explicit FileAuthenticator(const std::string& path) : path_(path), watch_({path}) {}

  absl::Status Start(absl::Duration poll) {
    ASSIGN_OR_RETURN(auto table, ReadTable(path_));
    {
      absl::MutexLock lock(&mutex_);
      table_ = std::move(table);
    }
    watch_.Start(poll, /*settled=*/false, [this] { ReadAgain(); });
    return absl::OkStatus();
  }

  absl::StatusOr<std::shared_ptr<const Tenant>> Authenticate(absl::string_view authorization) const override {
    if (authorization.empty()) {
      return absl::UnauthenticatedError("an API key is needed: send the header \"Authorization: Bearer KEY\"");
    }
    absl::string_view key = authorization;
    const bool bearer = key.size() > 7 && absl::EqualsIgnoreCase(key.substr(0, 7), "Bearer ");
    key.remove_prefix(bearer ? 7 : 0);
    std::shared_ptr<const TenantTable> table;
    {
      absl::MutexLock lock(&mutex_);
      table = table_;
    }
    const absl::string_view id = ApiKeyId(key);
    const auto found = table->keys.find(id);
    // A key that nobody has is hashed all the same: how far it is from one does not show in the time.
    const bool known = found != table->keys.end();
    const bool matches = MatchesApiKey(key, known ? found->second.hash : nobody_);
    if (bearer && known && matches) return found->second.tenant;
    return absl::UnauthenticatedError("this API key is not known here");
  }

 private:
  void ReadAgain() {
    absl::StatusOr<std::shared_ptr<const TenantTable>> table = ReadTable(path_);
    if (!table.ok()) {
      return LogError(
          absl::StrCat("the changed key file is not used, the keys stay as they were: ", table.status().message()));
    }
    LogInfo(absl::StrCat("keys read again from ", path_, ": ", (*table)->tenants, " tenants, ", (*table)->keys.size(),
                         " keys"));
    absl::MutexLock lock(&mutex_);
    table_ = *std::move(table);
  }

  const std::string path_;
  const KeyHash nobody_{"", std::string(16, '\0'), std::string(32, '\0')};
  mutable absl::Mutex mutex_;
  std::shared_ptr<const TenantTable> table_ ABSL_GUARDED_BY(mutex_);
  FileWatch watch_;  // last: its thread uses the others
};

}  // namespace

absl::StatusOr<std::unique_ptr<KeyAuthenticator>> KeyAuthenticator::Create(const std::string& path,
                                                                           absl::Duration poll) {
  auto authenticator = std::make_unique<FileAuthenticator>(path);
  RETURN_IF_ERROR(authenticator->Start(poll));
  return authenticator;
}

}  // namespace conclave
