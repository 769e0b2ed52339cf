#include "gateway/tenants/key_authenticator.h"

#include <sys/stat.h>

#include <thread>
#include <tuple>
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

namespace conclave {
namespace {

// What changes where a file does. Links are followed, as a mounted Kubernetes secret is one that moves.
using Stamp = std::tuple<dev_t, ino_t, off_t, time_t, long>;

Stamp StampOf(const std::string& path) {
  struct stat file {};
  if (::stat(path.c_str(), &file) != 0) return {};
  return {file.st_dev, file.st_ino, file.st_size, file.st_mtim.tv_sec, file.st_mtim.tv_nsec};
}

absl::StatusOr<std::shared_ptr<const TenantTable>> ReadTable(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kTenantFileBytesMax));
  ASSIGN_OR_RETURN(TenantTable table, ParseTenantFile(path, text));
  return std::make_shared<const TenantTable>(std::move(table));
}

class FileAuthenticator final : public KeyAuthenticator {
 public:
  FileAuthenticator(const std::string& path, absl::Duration poll, Stamp stamp, std::shared_ptr<const TenantTable> table)
      : path_(path), poll_(poll), stamp_(stamp), table_(std::move(table)), watcher_([this] { Watch(); }) {}

  ~FileAuthenticator() override {
    {
      absl::MutexLock lock(&mutex_);
      ending_ = true;
    }
    watcher_.join();
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
  void Watch() {
    for (;;) {
      {
        absl::MutexLock lock(&mutex_);
        if (mutex_.AwaitWithTimeout(absl::Condition(&ending_), poll_)) return;
      }
      const Stamp now = StampOf(path_);
      if (now == stamp_) continue;
      stamp_ = now;
      absl::StatusOr<std::shared_ptr<const TenantTable>> table = ReadTable(path_);
      if (!table.ok()) {
        LogError(
            absl::StrCat("the changed key file is not used, the keys stay as they were: ", table.status().message()));
        continue;
      }
      LogInfo(absl::StrCat("keys read again from ", path_, ": ", (*table)->tenants, " tenants, ", (*table)->keys.size(),
                           " keys"));
      absl::MutexLock lock(&mutex_);
      table_ = *std::move(table);
    }
  }

  const std::string path_;
  const absl::Duration poll_;
  const KeyHash nobody_{"", std::string(16, '\0'), std::string(32, '\0')};
  Stamp stamp_;  // the watcher's
  mutable absl::Mutex mutex_;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<const TenantTable> table_ ABSL_GUARDED_BY(mutex_);
  std::thread watcher_;  // last: it uses the others
};

}  // namespace

absl::StatusOr<std::unique_ptr<KeyAuthenticator>> KeyAuthenticator::Create(const std::string& path,
                                                                           absl::Duration poll) {
  // Before the text is read: what changes meanwhile is then read once more, and not overlooked.
  const Stamp stamp = StampOf(path);
  ASSIGN_OR_RETURN(std::shared_ptr<const TenantTable> table, ReadTable(path));
  return std::make_unique<FileAuthenticator>(path, poll, stamp, std::move(table));
}

}  // namespace conclave
