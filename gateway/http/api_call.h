// One chat or completions request over HTTP while it is answered: its prompts at the dispatcher, their pieces put
// together to one body or one stream of events.
#ifndef CONCLAVE_GATEWAY_HTTP_API_CALL_H_
#define CONCLAVE_GATEWAY_HTTP_API_CALL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gateway/dispatcher.h"
#include "gateway/http/answer_json.h"
#include "gateway/http/api_request.h"
#include "gateway/http/exchange.h"
#include "gateway/http/reasoning.h"

namespace conclave {

// Where the text of a choice is split into thoughts and answer.
enum class ReasoningMode { kOff, kByTag, kBeginsInside };

// Thread-safe. Lives until its last prompt has ended.
class ApiCall final : public std::enable_shared_from_this<ApiCall> {
 public:
  ApiCall(std::shared_ptr<Exchange> exchange, ApiRequest request, AnswerHead head, ReasoningMode reasoning);

  // Hands every prompt to the dispatcher. What goes wrong is the answer.
  void Start(Dispatcher& dispatcher, absl::Time deadline);

 private:
  class Sink;
  struct Choice {
    AnswerPiece whole;  // of an answer in one piece
    ReasoningSplitter reasoning;
    bool role_sent = false;
    int64_t characters = 0;
  };

  void OnChunk(int prompt, const v1::GenerateResponse& chunk);
  void OnEnd(const absl::Status& status);
  void Fail(const absl::Status& status);
  void Cancel();
  AnswerPiece PieceOf(Choice& choice, const v1::GenerateResponse& chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CountUsage(int prompt, const v1::GenerateResponse& chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  AnswerUsage Usage() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string EventsOf(Choice& choice, AnswerPiece piece) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Finish() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::shared_ptr<Exchange> exchange_;
  const ApiRequest request_;
  const ReasoningMode reasoning_;

  mutable absl::Mutex mutex_;
  AnswerHead head_ ABSL_GUARDED_BY(mutex_);
  std::vector<Choice> choices_ ABSL_GUARDED_BY(mutex_);      // prompt by prompt
  std::vector<AnswerUsage> usages_ ABSL_GUARDED_BY(mutex_);  // one a prompt
  std::vector<std::shared_ptr<AnswerHandle>> answers_ ABSL_GUARDED_BY(mutex_);
  size_t prompts_open_ ABSL_GUARDED_BY(mutex_);
  bool over_ ABSL_GUARDED_BY(mutex_) = false;  // failed, or nobody reads it
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_API_CALL_H_
