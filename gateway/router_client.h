// The gateway's side of conclave.v1.RouterService. No thread waits for a stream.
#ifndef CONCLAVE_GATEWAY_ROUTER_CLIENT_H_
#define CONCLAVE_GATEWAY_ROUTER_CLIENT_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "conclave/v1/control.pb.h"
#include "moe/tracing/trace_context.h"

namespace grpc {
class ChannelCredentials;
}

namespace conclave {

// How long a client pauses at most between two tries to connect.
inline constexpr absl::Duration kReconnectPauseMax = absl::Milliseconds(200);

// Receives one stream. Called by gRPC's threads, one call at a time, in order.
class DecodeListener {
 public:
  virtual ~DecodeListener() = default;
  virtual void OnResponse(const v1::DecodeResponse& response) = 0;
  // The last call. OK where the router ended the stream well; else what it said, or UNAVAILABLE where it does not
  // answer.
  virtual void OnEnd(const absl::Status& status) = 0;
};

// A stream under way. Thread-safe. Must be given up before its client goes.
class DecodeCall {
 public:
  virtual ~DecodeCall() = default;
  // The stream soon ends with CANCELLED; nothing happens where it has ended.
  virtual void Cancel() = 0;
};

// Thread-safe.
class RouterClient {
 public:
  // address: host:port. `credentials`: null for plaintext. Nothing is sent yet.
  static std::unique_ptr<RouterClient> Create(const std::string& address,
                                              std::shared_ptr<grpc::ChannelCredentials> credentials = nullptr);
  // Waits until every stream has ended and every DecodeCall has been given up.
  virtual ~RouterClient() = default;

  // Blocks for at most `timeout`.
  virtual absl::StatusOr<v1::GetStatusResponse> GetStatus(absl::Duration timeout) = 0;
  // `listener` is kept until its OnEnd has returned; it may be called before Decode has returned. `trace`: the span
  // that the call belongs to, which travels with it; not valid: none.
  virtual std::shared_ptr<DecodeCall> Decode(v1::DecodeRequest request, absl::Time deadline, const TraceContext& trace,
                                             std::shared_ptr<DecodeListener> listener) = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_ROUTER_CLIENT_H_
