// One shard's stream as a state machine over a completion queue; internal to the gRPC transport.
#ifndef CONCLAVE_MOE_TRANSPORT_GRPC_SHARD_STREAM_H_
#define CONCLAVE_MOE_TRANSPORT_GRPC_SHARD_STREAM_H_

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "moe/base/ids.h"
#include "moe/transport/grpc/grpc_transport.h"

namespace conclave {

// Used by the transport's thread alone. Life: down → starting → open → closing (operations end) → down, after a pause.
class ShardStream {
 public:
  // Told from within Operation::Proceed.
  class Listener {
   public:
    virtual ~Listener() = default;
    // A whole message. False: it made no sense, and the stream is to be closed.
    virtual bool OnMessage(ShardId shard, grpc::ByteBuffer& message) = 0;
    // The stream broke; whatever was in flight on it is lost.
    virtual void OnDown(ShardId shard, const absl::Status& why) = 0;
  };

  // The tag of an operation on the completion queue.
  struct Operation {
    ShardStream* stream;
    void (ShardStream::*proceed)(bool ok);
    void Proceed(bool ok) { (stream->*proceed)(ok); }
  };

  // All must outlive the stream.
  ShardStream(ShardId shard, const std::string& address, const GrpcTransportOptions& options,
              grpc::CompletionQueue& queue, Listener& listener);

  // Opens the stream where it is down and its pause is over.
  void OpenIfDue(absl::Time now);
  // When OpenIfDue has something to do; InfiniteFuture where the stream is up.
  absl::Time due() const { return state_ == State::kDown ? retry_at_ : absl::InfiniteFuture(); }
  // Sends, or keeps for later. False: the stream is down; `why` says what happened.
  bool Send(uint64_t call_id, grpc::ByteBuffer message, absl::Time now);
  const absl::Status& why() const { return why_; }
  // Nobody waits for the call any more: it need not be sent where it has not been yet.
  void Forget(uint64_t call_id);
  // The call's deadline has come. A stream on which that happens again and again while nothing comes back is opened
  // anew: one damaged length is enough for a peer to swallow megabytes of further messages.
  void OnExpired(uint64_t call_id);
  // Ends the stream for good. It is gone when the queue has delivered its last operation, and idle() is true.
  void Shutdown();
  bool idle() const { return state_ == State::kDown; }

 private:
  static constexpr int kSilentExpiriesMax = 2;
  enum class State { kDown, kStarting, kOpen, kClosing };
  struct Wire {
    grpc::ClientContext context;
    std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream;
    grpc::ByteBuffer incoming;
    grpc::Status status;
  };
  struct Outgoing {
    uint64_t call_id;
    grpc::ByteBuffer message;
  };

  absl::Status Unavailable(absl::string_view reason) const;
  void Open();
  void Close();
  void WriteNext();
  void OnStarted(bool ok);
  void OnRead(bool ok);
  void OnWritten(bool ok);
  void OnFinished(bool ok);

  const ShardId shard_;
  const std::string address_;
  const GrpcTransportOptions& options_;
  grpc::CompletionQueue& queue_;
  Listener& listener_;
  grpc::GenericStub stub_;
  Operation started_, read_, written_, finished_;

  State state_ = State::kDown;
  bool shut_down_ = false;
  bool reading_ = false, writing_ = false;
  int silent_expiries_ = 0;  // since the last message came
  std::unique_ptr<Wire> wire_;
  std::deque<Outgoing> outgoing_;  // the first is being written where writing_
  absl::Duration backoff_;
  absl::Time retry_at_ = absl::InfinitePast();
  absl::Status why_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_GRPC_SHARD_STREAM_H_
