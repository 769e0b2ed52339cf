#include "router_service/service.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <utility>

#include "absl/time/clock.h"
#include "conclave/v1/control.grpc.pb.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "moe/base/ids.h"
#include "moe/base/protocol_version.h"
#include "moe/daemon/grpc_trace.h"
#include "moe/daemon/open_calls.h"
#include "moe/daemon/server_stream.h"
#include "router_service/decode_messages.h"
#include "router_service/decode_stream.h"
#include "router_service/router_metrics.h"

namespace conclave {
namespace {

// What is there once the engine is.
struct Serving {
  Engine* engine;
  RouterIdentity identity;
  std::function<ExpertMapView()> expert_map;
};

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  return deadline == std::chrono::system_clock::time_point::max() ? absl::InfiniteFuture() : absl::FromChrono(deadline);
}

void FillExpertMap(const ExpertMapView& map, const Engine& engine, v1::GetExpertMapResponse* response) {
  response->set_placement_epoch(map.placement_epoch);
  for (const ShardView& shard : map.shards) {
    v1::ShardState* state = response->add_shards();
    state->set_name(shard.holdings.name);
    state->set_address(shard.address);
    state->set_healthy(shard.healthy);
    state->set_avoided(shard.avoided);
    state->set_rows_total(shard.rows_total);
    for (const LayerHolding& holding : shard.holdings.holdings) {
      v1::ShardLayer* layer = state->add_layers();
      layer->set_layer(Value(holding.layer));
      for (const ExpertId expert : holding.experts) layer->add_experts(Value(expert));
    }
  }
  const std::vector<std::vector<uint64_t>> tokens = engine.ExpertTokens();
  for (size_t layer = 0; layer < tokens.size(); ++layer) {
    if (tokens[layer].empty()) continue;
    v1::LayerExpertUse* use = response->add_use();
    use->set_layer(static_cast<int32_t>(layer));
    // The field is 32 bits wide: it stays at its end rather than begin anew.
    for (const uint64_t count : tokens[layer]) {
      use->add_tokens(static_cast<uint32_t>(std::min<uint64_t>(count, std::numeric_limits<uint32_t>::max())));
    }
  }
}

class Service final : public RouterGrpcService, public v1::RouterService::CallbackService {
 public:
  Service(Metrics& metrics, bool per_expert_metrics) : metrics_(metrics, per_expert_metrics) {}
  ~Service() override { delete serving_.load(); }

  grpc::Service* service() override { return this; }

  void SetTracer(Tracer* tracer) override { tracer_.store(tracer->enabled() ? tracer : nullptr); }
  void SetEngine(Engine* engine, const RouterIdentity& identity, std::function<ExpertMapView()> expert_map) override {
    const ExpertMapView map = expert_map();
    metrics_.Watch(*engine, map.shards.size() == 1 && map.shards[0].address.empty());
    serving_.store(new Serving{engine, identity, std::move(expert_map)});
  }

  void Drain(absl::Time deadline) override {
    draining_.store(true);
    calls_.Close();
    const Serving* serving = serving_.load();
    if (serving != nullptr) (void)serving->engine->Drain(deadline);  // calls_ knows better whether all have ended
    calls_.Drain(deadline);
  }

  grpc::ServerWriteReactor<v1::DecodeResponse>* Decode(grpc::CallbackServerContext* context,
                                                       const v1::DecodeRequest* request) override {
    const Serving* serving = serving_.load();
    auto stream = std::make_shared<DecodeStream>(serving == nullptr ? nullptr : serving->engine, metrics_, calls_);
    auto* reactor = DecodeStream::Open(stream);
    if (Tracer* tracer = tracer_.load(); tracer != nullptr) {
      stream->Trace(*tracer, StartCallSpan(*tracer, *context, v1::RouterService::service_full_name(), "Decode",
                                           stream->arrival()));
    }
    stream->Start(stream, ToEngineRequest(*request, DeadlineOf(*context)));
    return reactor;
  }

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context, const v1::GetStatusRequest*,
                                      v1::GetStatusResponse* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    const Serving* serving = serving_.load();
    if (serving == nullptr) return Loading(reactor);
    const RouterIdentity& identity = serving->identity;
    response->set_protocol_version(static_cast<uint32_t>(AnnouncedProtocolVersion()));
    response->set_model_id(identity.model_id);
    response->set_model_fingerprint(identity.model_fingerprint);
    response->set_numeric_profile(identity.numeric_profile);
    const EngineStats stats = serving->engine->stats();
    response->set_requests_queued(static_cast<uint32_t>(stats.queued));
    response->set_requests_running(static_cast<uint32_t>(stats.running));
    response->set_kv_blocks_used(static_cast<uint64_t>(stats.kv_blocks_used));
    response->set_kv_blocks_total(static_cast<uint64_t>(stats.kv_blocks_total));
    response->set_kv_blocks_cached(static_cast<uint64_t>(stats.kv_blocks_cached));
    response->set_requests_queued_max(static_cast<uint32_t>(stats.queued_max));
    response->set_requests_running_max(static_cast<uint32_t>(stats.running_max));
    response->set_draining(draining_.load());
    v1::ModelInfo* model = response->mutable_model();
    model->set_id(identity.model_id);
    model->set_family(identity.family);
    model->set_context_tokens_max(identity.context_max);
    model->set_vocab_size(identity.vocab);
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  grpc::ServerUnaryReactor* GetExpertMap(grpc::CallbackServerContext* context, const v1::GetExpertMapRequest*,
                                         v1::GetExpertMapResponse* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    const Serving* serving = serving_.load();
    if (serving == nullptr) return Loading(reactor);
    FillExpertMap(serving->expert_map(), *serving->engine, response);
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

 private:
  static grpc::ServerUnaryReactor* Loading(grpc::ServerUnaryReactor* reactor) {
    reactor->Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "this attention service is loading; try again"));
    return reactor;
  }

  RouterMetrics metrics_;
  std::atomic<Tracer*> tracer_{nullptr};  // null: nothing is traced
  OpenCalls calls_;
  std::atomic<const Serving*> serving_{nullptr};
  std::atomic<bool> draining_{false};
};

}  // namespace

std::unique_ptr<RouterGrpcService> RouterGrpcService::Create(Metrics& metrics, bool per_expert_metrics) {
  return std::make_unique<Service>(metrics, per_expert_metrics);
}

}  // namespace conclave
