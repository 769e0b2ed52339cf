// What every front of the gateway calls: checks a request, turns its prompt into ids, has them decoded by an attention
// service, and hands back text. Fronts speak protocols and know nothing of tokens; the dispatcher knows no protocol.
#ifndef CONCLAVE_GATEWAY_DISPATCHER_H_
#define CONCLAVE_GATEWAY_DISPATCHER_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "conclave/v1/inference.pb.h"
#include "gateway/caller.h"
#include "gateway/gateway_metrics.h"
#include "gateway/routers/decode_backend.h"
#include "gateway/served_model.h"
#include "gateway/tenants/tenant_limits.h"
#include "gateway/tenants/tenant_metrics.h"
#include "gateway/tenants/usage_log.h"
#include "moe/base/clock.h"
#include "moe/daemon/open_calls.h"
#include "moe/metrics/metrics.h"
#include "moe/tracing/tracer.h"

namespace conclave {

class RequestTrace;

// Receives the answers to one request. Called by threads of the dispatcher's, one call at a time; must not block.
class AnswerSink {
 public:
  virtual ~AnswerSink() = default;
  // Chunks of one answer, by their index, come in order; those of several interleave. The first chunk of all carries
  // prompt_ids, request_id and system_fingerprint; the last of each answer its finish_reason, and the last of all,
  // before a good end, the usage of all.
  virtual void OnChunk(const v1::GenerateResponse& chunk) = 0;
  // The last call. OK only after a chunk with a finish_reason.
  virtual void OnEnd(const absl::Status& status) = 0;
};

// The answers to a request under way. Thread-safe.
class AnswerHandle {
 public:
  virtual ~AnswerHandle() = default;
  // Nobody wants the answers any more, all n of them: the router is told, and the sink soon gets CANCELLED. Harmless
  // after the end.
  virtual void Cancel() = 0;
};

// Thread-safe.
class Dispatcher {
 public:
  // All must outlive it. usage_log: gets a record of every request; null: none. tracer: null: no traces. gateways: as
  // TenantLimits takes it.
  Dispatcher(const ServedModel& model, DecodeBackend& backend, Metrics& metrics, UsageLog* usage_log = nullptr,
             Tracer* tracer = nullptr, int gateways = 1);
  // Waits for the last answer: whoever still has one must have cancelled it.
  ~Dispatcher() { calls_.Drain(absl::InfiniteFuture()); }

  // Starts an answer. `sink` is kept until its OnEnd has returned; it may be called before Generate has returned.
  // INVALID_ARGUMENT names the field; NOT_FOUND: another model; PERMISSION_DENIED: not this tenant's;
  // RESOURCE_EXHAUSTED with the limit that was met (gateway/refusal.h), the tenant's or everyone's; UNAVAILABLE:
  // draining. After an error the sink is never called. Errors of the router come through the sink.
  absl::StatusOr<std::shared_ptr<AnswerHandle>> Generate(const Caller& caller, const v1::GenerateRequest& request,
                                                         absl::Time deadline, std::shared_ptr<AnswerSink> sink);
  // What Generate would say of a request at first sight: RESOURCE_EXHAUSTED where the attention services are full. Does
  // not block; a front that asks before reading a request spares itself that work. A refusal is recorded as Generate's.
  absl::Status CheckRoom(const Tenant& tenant, const std::string& request_id);
  // INVALID_ARGUMENT, NOT_FOUND and PERMISSION_DENIED as in Generate.
  absl::StatusOr<v1::TokenizeResponse> Tokenize(const Tenant& tenant, const v1::TokenizeRequest& request);
  // As the ids of an answer become text.
  absl::StatusOr<v1::DetokenizeResponse> Detokenize(const Tenant& tenant, const v1::DetokenizeRequest& request);
  // Those that the tenant may use.
  v1::ListModelsResponse ListModels(const Tenant& tenant);
  // For the fronts' own spans; null: no traces.
  Tracer* tracer() const { return tracer_; }

  // Refuses new answers and waits until the last has ended. False: the deadline came first.
  bool Drain(absl::Time deadline) { return calls_.Drain(deadline); }

 private:
  absl::StatusOr<std::shared_ptr<AnswerHandle>> Start(const Caller& caller, const v1::GenerateRequest& request,
                                                      const std::string& request_id, absl::Time deadline,
                                                      const UsageRecord& usage,
                                                      const std::shared_ptr<RequestTrace>& trace,
                                                      std::shared_ptr<AnswerSink> sink);
  UsageRecord BeginUsage(const Tenant& tenant, const std::string& request_id) const;
  void RecordRefusal(UsageRecord usage, const absl::Status& status);

  const ServedModel& model_;
  DecodeBackend& backend_;
  UsageLog* const usage_log_;
  Tracer* const tracer_;
  TenantLimits limits_;
  OpenCalls calls_;
  GatewayMetrics metrics_;
  TenantMetrics tenant_metrics_;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_DISPATCHER_H_
