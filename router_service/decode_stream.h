// One Decode call: an engine's token events on their way into a gRPC stream. Internal to the service.
#ifndef CONCLAVE_ROUTER_SERVICE_DECODE_STREAM_H_
#define CONCLAVE_ROUTER_SERVICE_DECODE_STREAM_H_

#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "conclave/v1/control.pb.h"
#include "moe/daemon/open_calls.h"
#include "moe/daemon/server_stream.h"
#include "router_service/engine.h"
#include "router_service/router_metrics.h"

namespace conclave {

// Thread-safe: fed by the engine's thread, written and cancelled by gRPC's.
class DecodeStream final : public ServerStream<v1::DecodeResponse> {
 public:
  // `engine` is null while nothing is served yet. All must outlive the stream.
  DecodeStream(Engine* engine, RouterMetrics& metrics, OpenCalls& calls)
      : engine_(engine), metrics_(metrics), calls_(calls) {}

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

  // Used by the engine's thread alone, once submitted.
  double prompt_tokens_ = 0;
  std::optional<absl::Time> last_token_;

  absl::Mutex mutex_;
  std::optional<SequenceId> sequence_ ABSL_GUARDED_BY(mutex_);
  bool gone_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<absl::StatusCode> outcome_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_DECODE_STREAM_H_
