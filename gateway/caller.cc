#include "gateway/caller.h"

namespace conclave {
namespace {

class OpenAuthenticator final : public Authenticator {
 public:
  absl::StatusOr<std::shared_ptr<const Tenant>> Authenticate(absl::string_view) const override { return tenant_; }

 private:
  const std::shared_ptr<const Tenant> tenant_ = std::make_shared<const Tenant>(Tenant{"default"});
};

}  // namespace

std::unique_ptr<Authenticator> NewOpenAuthenticator() { return std::make_unique<OpenAuthenticator>(); }

}  // namespace conclave
