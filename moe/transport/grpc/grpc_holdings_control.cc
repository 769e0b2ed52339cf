#include "moe/transport/grpc/grpc_holdings_control.h"

#include <grpcpp/grpcpp.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "conclave/v1/expert.grpc.pb.h"
#include "moe/base/status_macros.h"
#include "moe/transport/grpc/expert_channel.h"
#include "moe/transport/grpc/expert_codec.h"

namespace conclave {
namespace {

class GrpcHoldingsControl final : public HoldingsControl {
 public:
  GrpcHoldingsControl(const std::string& address, std::shared_ptr<grpc::ChannelCredentials> credentials)
      : address_(address),
        stub_(v1::ExpertService::NewStub(NewExpertChannel(address, kExpertMessageBytesMax, std::move(credentials)))) {}

  absl::StatusOr<ShardState> Describe(absl::Duration timeout) override {
    v1::DescribeRequest request;
    request.set_with_tokens(true);
    ASSIGN_OR_RETURN(const v1::DescribeResponse response, Ask(&Stub::Describe, request, timeout));
    ShardState state;
    ASSIGN_OR_RETURN(state.description, DecodeDescription(response));
    ASSIGN_OR_RETURN(state.tokens, DecodeTokens(response));
    return state;
  }

  absl::StatusOr<ShardDescription> LoadExperts(absl::Span<const LayerHolding> experts,
                                               absl::Duration timeout) override {
    v1::LoadExpertsRequest request;
    request.set_weights_first(true);
    EncodeHoldings(experts, request.mutable_experts());
    ASSIGN_OR_RETURN(const v1::DescribeResponse response, Ask(&Stub::LoadExperts, request, timeout));
    return DecodeDescription(response);
  }

  absl::StatusOr<ShardDescription> KeepExperts(absl::Span<const LayerHolding> experts, uint64_t revision,
                                               absl::Duration timeout) override {
    return Change(&Stub::KeepExperts, experts, revision, timeout);
  }

  absl::StatusOr<ShardDescription> UnloadExperts(absl::Span<const LayerHolding> experts, uint64_t revision,
                                                 absl::Duration timeout) override {
    return Change(&Stub::UnloadExperts, experts, revision, timeout);
  }

 private:
  using Stub = v1::ExpertService::Stub;
  template <typename Request>
  using Method = grpc::Status (Stub::*)(grpc::ClientContext*, const Request&, v1::DescribeResponse*);

  template <typename Request>
  absl::StatusOr<v1::DescribeResponse> Ask(Method<Request> method, const Request& request, absl::Duration timeout) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    v1::DescribeResponse response;
    const grpc::Status status = (stub_.get()->*method)(&context, request, &response);
    if (status.ok()) return response;
    return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                        absl::StrCat("expert shard at ", address_, ": ", status.error_message()));
  }

  absl::StatusOr<ShardDescription> Change(Method<v1::ChangeExpertsRequest> method,
                                          absl::Span<const LayerHolding> experts, uint64_t revision,
                                          absl::Duration timeout) {
    v1::ChangeExpertsRequest request;
    request.set_revision(revision);
    EncodeHoldings(experts, request.mutable_experts());
    ASSIGN_OR_RETURN(const v1::DescribeResponse response, Ask(method, request, timeout));
    return DecodeDescription(response);
  }

  const std::string address_;
  const std::unique_ptr<Stub> stub_;
};

}  // namespace

std::unique_ptr<HoldingsControl> NewGrpcHoldingsControl(const std::string& address,
                                                        std::shared_ptr<grpc::ChannelCredentials> credentials) {
  return std::make_unique<GrpcHoldingsControl>(address, std::move(credentials));
}

}  // namespace conclave
