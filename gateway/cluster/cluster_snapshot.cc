#include "gateway/cluster/cluster_snapshot.h"

#include <grpcpp/grpcpp.h>

#include <utility>

#include "absl/time/clock.h"
#include "conclave/v1/control.grpc.pb.h"

namespace conclave {
namespace {

class Probe final : public ClusterProbe {
 public:
  Probe(const std::vector<std::string>& addresses, std::shared_ptr<grpc::ChannelCredentials> credentials) {
    if (credentials == nullptr) credentials = grpc::InsecureChannelCredentials();
    for (const std::string& address : addresses) {
      grpc::ChannelArguments arguments;
      arguments.SetMaxReceiveMessageSize(64 << 20);
      arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);  // a service that returns is seen soon
      auto channel = grpc::CreateCustomChannel(address, credentials, arguments);
      routers_.push_back({address, v1::RouterService::NewStub(channel)});
    }
  }

  ClusterSnapshot Take(absl::Duration timeout) override {
    ClusterSnapshot snapshot;
    for (const Router& router : routers_) snapshot.routers.push_back(Ask(router, absl::Now() + timeout));
    snapshot.time = absl::Now();
    return snapshot;
  }

 private:
  struct Router {
    std::string address;
    std::unique_ptr<v1::RouterService::Stub> stub;
  };

  static RouterSnapshot Ask(const Router& router, absl::Time deadline) {
    RouterSnapshot snapshot;
    snapshot.address = router.address;
    grpc::ClientContext status_context, experts_context;
    status_context.set_deadline(absl::ToChronoTime(deadline));
    experts_context.set_deadline(absl::ToChronoTime(deadline));
    grpc::Status status = router.stub->GetStatus(&status_context, {}, &snapshot.status);
    if (status.ok()) status = router.stub->GetExpertMap(&experts_context, {}, &snapshot.experts);
    snapshot.error = absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
    return snapshot;
  }

  std::vector<Router> routers_;
};

}  // namespace

std::unique_ptr<ClusterProbe> ClusterProbe::Create(const std::vector<std::string>& addresses,
                                                   std::shared_ptr<grpc::ChannelCredentials> credentials) {
  return std::make_unique<Probe>(addresses, std::move(credentials));
}

}  // namespace conclave
