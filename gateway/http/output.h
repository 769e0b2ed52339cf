// The answer of one exchange on its way from whoever gives it to the connection that sends it.
#ifndef CONCLAVE_GATEWAY_HTTP_OUTPUT_H_
#define CONCLAVE_GATEWAY_HTTP_OUTPUT_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "gateway/http/message.h"

namespace conclave {

// Thread-safe: answered from any thread, emptied by the connection's.
class Output {
 public:
  // `unsent_bytes_max`: of a stream; beyond it the client counts as gone.
  explicit Output(int64_t unsent_bytes_max) : unsent_bytes_max_(unsent_bytes_max) {}

  // The answerer's side. True: the connection should look at Take.
  bool Respond(HttpResponse response);
  void ExpectStream(HttpResponse head, std::string ping);
  enum class Written { kYes, kGone, kTooSlow };
  Written Write(absl::string_view bytes);
  bool EndStream();
  void OnGone(std::function<void()> gone);
  bool gone() const;

  // The connection's side.
  struct Piece {
    std::optional<HttpResponse> whole;        // the answer in one piece
    std::optional<HttpResponse> stream_head;  // the head of a stream, to be sent before `bytes`
    std::string bytes;
    bool last = false;
  };
  // What is to be sent now. `ping_due`: where there is nothing else, the ping of a stream.
  Piece Take(bool ping_due);
  // So many bytes of a stream have left.
  void Sent(int64_t bytes);
  // From now on nothing is taken; returns what OnGone was given, to be run by the caller without locks.
  std::function<void()> Leave();
  bool expects_stream() const;

 private:
  const int64_t unsent_bytes_max_;
  mutable absl::Mutex mutex_;
  std::optional<HttpResponse> whole_ ABSL_GUARDED_BY(mutex_), head_ ABSL_GUARDED_BY(mutex_);
  std::string ping_ ABSL_GUARDED_BY(mutex_), waiting_ ABSL_GUARDED_BY(mutex_);
  int64_t unsent_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stream_expected_ ABSL_GUARDED_BY(mutex_) = false;
  bool head_taken_ ABSL_GUARDED_BY(mutex_) = false;
  bool answered_ ABSL_GUARDED_BY(mutex_) = false;  // Respond or EndStream was called
  bool last_taken_ ABSL_GUARDED_BY(mutex_) = false;
  bool gone_ ABSL_GUARDED_BY(mutex_) = false;
  std::function<void()> on_gone_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_OUTPUT_H_
