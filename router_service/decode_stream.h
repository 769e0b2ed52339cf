// One Decode call: an engine's token events on their way into a gRPC stream. Internal to the service.
#ifndef CONCLAVE_ROUTER_SERVICE_DECODE_STREAM_H_
#define CONCLAVE_ROUTER_SERVICE_DECODE_STREAM_H_

#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "conclave/v1/control.pb.h"
#include "moe/daemon/open_calls.h"
#include "moe/daemon/server_stream.h"
#include "moe/tracing/tracer.h"
#include "router_service/decode_trace.h"
#include "router_service/engine.h"
#include "router_service/router_metrics.h"

namespace conclave {

// Thread-safe: fed by the engine's thread, written and cancelled by gRPC's.
class DecodeStream final : public ServerStream<v1::DecodeResponse> {
 public:
  // `engine` is null while nothing is served yet. All must outlive the stream.
  DecodeStream(Engine* engine, RouterMetrics& metrics, OpenCalls& calls)
      : engine_(engine), metrics_(metrics), calls_(calls) {}

  // To be called before Start where the call is traced: `span` begins with it.
  void Trace(Tracer& tracer, Span span) {
    tracer_ = &tracer;
    span_ = std::move(span);
  }
  absl::Time arrival() const { return arrival_; }
  // Submits the request, or ends the stream with what is wrong with it. `stream` is this.
  void Start(const std::shared_ptr<DecodeStream>& stream, absl::StatusOr<EngineRequest> request);

 private:
  void OnEvent(const TokenEvent& event);
  void CountToken();
  void Close(const absl::Status& status);
  void OnClientGone() override;
  void OnClosed() override;

  Engine* const engine_;
  RouterMetrics& metrics_;
  OpenCalls& calls_;
  bool entered_ = false;  // calls_ counts this one
  const absl::Time arrival_ = absl::Now();
  Tracer* tracer_ = nullptr;  // null: not traced
  Span span_;

  // Used by the engine's thread alone, once submitted.
  DecodeProgress progress_;
  std::optional<absl::Time> last_token_;

  absl::Mutex mutex_;
  std::optional<SequenceId> sequence_ ABSL_GUARDED_BY(mutex_);
  bool gone_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> outcome_ ABSL_GUARDED_BY(mutex_);
  absl::Time end_ ABSL_GUARDED_BY(mutex_);
  DecodeProgress traced_ ABSL_GUARDED_BY(mutex_);  // progress_ as of the last event, where the call is traced
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_DECODE_STREAM_H_
