#include "gateway/cluster/cluster_snapshot.h"

#include <grpcpp/grpcpp.h>

#include <map>
#include <utility>

#include "absl/time/clock.h"
#include "conclave/v1/control.grpc.pb.h"

namespace conclave {
namespace {

class Probe final : public ClusterProbe {
 public:
  Probe(std::function<std::vector<std::string>()> addresses, std::shared_ptr<grpc::ChannelCredentials> credentials)
      : addresses_(std::move(addresses)),
        credentials_(credentials != nullptr ? std::move(credentials) : grpc::InsecureChannelCredentials()) {}

  ClusterSnapshot Take(absl::Duration timeout) override {
    ClusterSnapshot snapshot;
    std::map<std::string, std::unique_ptr<v1::RouterService::Stub>> kept;
    for (const std::string& address : addresses_()) {
      std::unique_ptr<v1::RouterService::Stub>& stub = kept[address];
      stub = std::move(stubs_[address]);
      if (stub == nullptr) stub = Connect(address);
      snapshot.routers.push_back(Ask(address, *stub, absl::Now() + timeout));
    }
    stubs_ = std::move(kept);
    snapshot.time = absl::Now();
    return snapshot;
  }

 private:
  std::unique_ptr<v1::RouterService::Stub> Connect(const std::string& address) const {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(64 << 20);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);  // a service that returns is seen soon
    return v1::RouterService::NewStub(grpc::CreateCustomChannel(address, credentials_, arguments));
  }

  static RouterSnapshot Ask(const std::string& address, v1::RouterService::Stub& stub, absl::Time deadline) {
    RouterSnapshot snapshot;
    snapshot.address = address;
    grpc::ClientContext status_context, experts_context;
    status_context.set_deadline(absl::ToChronoTime(deadline));
    experts_context.set_deadline(absl::ToChronoTime(deadline));
    grpc::Status status = stub.GetStatus(&status_context, {}, &snapshot.status);
    if (status.ok()) status = stub.GetExpertMap(&experts_context, {}, &snapshot.experts);
    snapshot.error = absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
    return snapshot;
  }

  const std::function<std::vector<std::string>()> addresses_;
  const std::shared_ptr<grpc::ChannelCredentials> credentials_;
  std::map<std::string, std::unique_ptr<v1::RouterService::Stub>> stubs_;  // by address, of those asked last
};

}  // namespace

std::unique_ptr<ClusterProbe> ClusterProbe::Create(std::function<std::vector<std::string>()> addresses,
                                                   std::shared_ptr<grpc::ChannelCredentials> credentials) {
  return std::make_unique<Probe>(std::move(addresses), std::move(credentials));
}

}  // namespace conclave
