// The writing side of a gRPC server stream that is fed from other threads: no thread waits for a slow client, and what
// it has not taken yet is merged into one message. For .cc files of services: it brings gRPC's headers.
#ifndef CONCLAVE_MOE_DAEMON_SERVER_STREAM_H_
#define CONCLAVE_MOE_DAEMON_SERVER_STREAM_H_

#include <deque>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/support/server_callback.h"
#include "grpcpp/support/status.h"

namespace conclave {

// A payload of a status: what a client gets as grpc-status-details-bin, a serialized google.rpc.Status.
inline constexpr char kGrpcDetailsPayload[] = "conclave/grpc-details";

// Both kinds of status number their codes alike.
inline grpc::Status ToGrpcStatus(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()),
                      std::string(status.GetPayload(kGrpcDetailsPayload).value_or(absl::Cord())));
}

// One call. Add and End may be called from any thread; what comes after End, or after the client has gone, is dropped.
// Owned by shared pointers: by gRPC from Open until OnClosed has returned, and by whoever feeds it.
template <typename Message>
class ServerStream : public grpc::ServerWriteReactor<Message> {
 public:
  // Gives gRPC its share of `stream`; to be returned from the handler.
  static grpc::ServerWriteReactor<Message>* Open(std::shared_ptr<ServerStream> stream) {
    ServerStream* reactor = stream.get();
    reactor->self_ = std::move(stream);
    return reactor;
  }

  // Lets `merge` add to the message that is written next: an empty one, or one that waits for a slow client.
  // `merge` runs under a lock and must not call back.
  void Add(absl::FunctionRef<void(Message&)> merge) { Add(0, merge); }
  // The same for streams of several kinds of messages: only those of one `kind` are merged, and the rest keep the order
  // in which their kinds came.
  void Add(int kind, absl::FunctionRef<void(Message&)> merge) {
    Step step = Step::kNone;
    {
      absl::MutexLock lock(&mutex_);
      if (ended_ || finished_) return;
      auto place = waiting_.begin();
      while (place != waiting_.end() && place->first != kind) ++place;
      if (place == waiting_.end()) place = waiting_.emplace(waiting_.end(), kind, Message());
      merge(place->second);
      step = Next();
    }
    Do(step);
  }

  // The end of the stream, after everything added before.
  void End(const absl::Status& status) {
    Step step = Step::kNone;
    {
      absl::MutexLock lock(&mutex_);
      if (ended_ || finished_) return;
      ended_ = true;
      end_ = ToGrpcStatus(status);
      step = Next();
    }
    Do(step);
  }

 protected:
  // The client has gone or its deadline has passed: whoever feeds the stream should stop, and call End. Any thread;
  // may come before Open has returned.
  virtual void OnClientGone() = 0;
  // The last call on this object by gRPC.
  virtual void OnClosed() = 0;

 private:
  enum class Step { kNone, kWrite, kWriteAndFinish, kFinish };

  Step Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || finished_) return Step::kNone;
    if (!waiting_.empty()) {
      outgoing_ = std::move(waiting_.front().second);
      waiting_.pop_front();
      writing_ = true;
      finished_ = ended_ && waiting_.empty();
      return finished_ ? Step::kWriteAndFinish : Step::kWrite;
    }
    if (!ended_) return Step::kNone;
    finished_ = true;
    return Step::kFinish;
  }

  // gRPC's calls are made without the lock: Next has made sure that nobody else makes one.
  void Do(Step step) {
    if (step == Step::kWrite) this->StartWrite(&outgoing_);
    if (step == Step::kWriteAndFinish) this->StartWriteAndFinish(&outgoing_, grpc::WriteOptions(), end_);
    if (step == Step::kFinish) this->Finish(end_);
  }

  void OnWriteDone(bool ok) final {
    Step step = Step::kNone;
    {
      absl::MutexLock lock(&mutex_);
      writing_ = false;
      if (!ok && !finished_) {
        finished_ = true;
        end_ = grpc::Status(grpc::StatusCode::CANCELLED, "the client has gone");
        step = Step::kFinish;
      } else {
        step = Next();
      }
    }
    if (!ok) OnClientGone();
    Do(step);
  }
  void OnCancel() final { OnClientGone(); }
  void OnDone() final {
    OnClosed();
    self_.reset();
  }

  std::shared_ptr<ServerStream> self_;
  absl::Mutex mutex_;
  std::deque<std::pair<int, Message>> waiting_ ABSL_GUARDED_BY(mutex_);  // by kind, one of each
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;     // End was called
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;  // gRPC was told so
  Message outgoing_;                               // belongs to the one write in flight
  grpc::Status end_;                               // does not change once finished_ is set
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_SERVER_STREAM_H_
