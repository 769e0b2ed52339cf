// The half of generation.h that talks to services.
#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/cluster_access.h"
#include "cli/generation.h"
#include "conclave/v1/control.grpc.pb.h"
#include "conclave/v1/inference.grpc.pb.h"
#include "moe/base/ids.h"
#include "moe/base/status_macros.h"
#include "moe/placement/placement.h"

namespace conclave {
namespace {

v1::GenerateRequest ToProto(const GenerationRequest& request) {
  v1::GenerateRequest message;
  if (request.chat) {
    v1::ChatMessage* turn = message.mutable_chat()->add_messages();
    turn->set_role("user");
    turn->set_content(request.prompt);
  } else {
    message.set_text(request.prompt);
  }
  v1::SamplingOptions* sampling = message.mutable_sampling();
  sampling->set_temperature(static_cast<float>(request.temperature));
  sampling->set_top_p(static_cast<float>(request.top_p));
  sampling->set_top_k(request.top_k);
  if (request.seed.has_value()) sampling->set_seed(*request.seed);
  message.set_max_tokens(request.max_tokens);
  message.set_ignore_eos(request.ignore_eos);
  message.set_hash_logits(request.hash_logits);
  if (!request.json_schema.empty()) message.mutable_grammar()->set_json_schema(request.json_schema);
  return message;
}

void Merge(const v1::GenerateResponse& message, GenerationResult& result) {
  result.prompt_ids.insert(result.prompt_ids.end(), message.prompt_ids().begin(), message.prompt_ids().end());
  result.ids.insert(result.ids.end(), message.ids().begin(), message.ids().end());
  result.text += message.text();
  if (!message.finish_reason().empty()) result.finish_reason = message.finish_reason();
  if (!message.logits_hash().empty()) result.logits_hash = message.logits_hash();
  for (const v1::LayerExpertUse& use : message.usage().expert_use()) {
    if (use.layer() < 0 || use.layer() > (1 << 16)) continue;
    const size_t layer = static_cast<size_t>(use.layer());
    if (result.expert_use.size() <= layer) result.expert_use.resize(layer + 1);
    result.expert_use[layer].assign(use.tokens().begin(), use.tokens().end());
  }
}

}  // namespace

absl::StatusOr<GenerationResult> GenerateAtGateway(const std::string& address, const ClusterAccess& access,
                                                   const GenerationRequest& request, const TextSink& sink) {
  ASSIGN_OR_RETURN(const auto channel, access.Open(address));
  const auto stub = v1::InferenceService::NewStub(channel);
  grpc::ClientContext context;
  access.Authorize(context);
  const auto stream = stub->Generate(&context, ToProto(request));
  GenerationResult result;
  v1::GenerateResponse message;
  while (stream->Read(&message)) {
    Merge(message, result);
    if (!message.text().empty()) sink(message.text());
  }
  RETURN_IF_ERROR(StatusOfCall(stream->Finish(), "gateway", address));
  if (result.finish_reason.empty()) {
    return absl::DataLossError(absl::StrCat("the gateway at ", address, " ended the stream without a finish reason"));
  }
  return result;
}

absl::StatusOr<std::vector<ShardHoldings>> HoldingsFromRouter(const std::string& address, const ClusterAccess& access) {
  ASSIGN_OR_RETURN(const auto channel, access.Open(address));
  const auto stub = v1::RouterService::NewStub(channel);
  grpc::ClientContext context;
  v1::GetExpertMapResponse map;
  RETURN_IF_ERROR(
      StatusOfCall(stub->GetExpertMap(&context, v1::GetExpertMapRequest(), &map), "attention service", address));
  std::vector<ShardHoldings> shards;
  for (const v1::ShardState& state : map.shards()) {
    ShardHoldings shard{state.name(), {}};
    for (const v1::ShardLayer& layer : state.layers()) {
      LayerHolding& holding = shard.holdings.emplace_back();
      holding.layer = LayerId{layer.layer()};
      for (const int32_t expert : layer.experts()) holding.experts.push_back(ExpertId{expert});
    }
    shards.push_back(std::move(shard));
  }
  return shards;
}

}  // namespace conclave
