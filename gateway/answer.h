// The answers to one request on their way: from the router's ids to what a front streams to its client. Internal to
// the dispatcher.
#ifndef CONCLAVE_GATEWAY_ANSWER_H_
#define CONCLAVE_GATEWAY_ANSWER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "conclave/v1/control.pb.h"
#include "gateway/answer_text.h"
#include "gateway/dispatcher.h"
#include "gateway/gateway_metrics.h"
#include "gateway/request_trace.h"
#include "gateway/router_client.h"
#include "gateway/routers/decode_backend.h"
#include "gateway/served_model.h"
#include "gateway/tools/tool_call_parser.h"
#include "moe/daemon/open_calls.h"

namespace conclave {

// What the dispatcher has worked out about a request.
struct AnswerPlan {
  v1::DecodeRequest decode;  // of the first answer
  int answers = 1;
  std::string echo;  // stands before every answer's text
  AnswerStops stops;
  ToolCallReading calls;       // its format is null: answers are text only
  std::string call_beginning;  // what stands in the prompt of every answer's first call
  absl::Time deadline = absl::InfiniteFuture();
  UsageRecord usage;              // begun
  UsageLog* usage_log = nullptr;  // null: none
  std::shared_ptr<RequestTrace> trace;  // null: none
  TenantSeries* tenant = nullptr;       // never null; it has entered
};

// n streams of ids become one stream of messages. Cancel may come from any thread. Counts as one open call from
// construction until its last stream has ended.
class Answer final : public AnswerHandle, public std::enable_shared_from_this<Answer> {
 public:
  // The references must outlive it. `lease` ends with the last answer. REQUIRES: calls.Enter() returned true for it
  Answer(const ServedModel& model, GatewayMetrics& metrics, OpenCalls& calls, DecodeBackend& backend, AnswerPlan plan,
         std::unique_ptr<TenantLimits::Lease> lease, std::shared_ptr<AnswerSink> sink);

  // To be called once. Where the answers have a prompt worth sharing, the first begins alone, and the others when it
  // has read the prompt, so that they find it in the prefix cache.
  void Start();
  void Cancel() override;

 private:
  class Stream;
  // One of the n answers.
  struct Choice {
    Choice(const ServedModel& model, const AnswerPlan& plan);
    AnswerText text;
    std::unique_ptr<ToolCallParser> calls;  // null: the answer is text only
    bool begun = false;  // a message of it has been sent
    std::optional<absl::Time> last_token;
    std::string finish_reason;
  };

  void StartChoices(int begin, int end);
  // Called by the streams, which do not wait for each other.
  void OnResponse(int index, const v1::DecodeResponse& response);
  void OnEnd(int index, const absl::Status& status);

  void Take(Choice& choice, int index, const v1::DecodeResponse& response) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes calls out of the chunk's text, `echo` bytes at its beginning excepted. True: no more is wanted.
  bool TakeCalls(Choice& choice, size_t echo, bool first, bool last, v1::GenerateResponse& chunk)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddFirst(const v1::DecodeResponse& response, v1::GenerateResponse& chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddFinish(Choice& choice, const v1::DecodeResponse& response, const std::string& reason,
                 v1::GenerateResponse& chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CountTokens(Choice& choice, int tokens) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Fail(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LogUsage(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LogEnd(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndTrace(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CancelStreams(int begin, int end);

  struct Slot {
    std::shared_ptr<DecodeCall> call;  // null until the call is made, and after the end
    bool cancelled = false;            // maybe before there was a call
  };

  const ServedModel& model_;
  GatewayMetrics& metrics_;
  OpenCalls& calls_;
  DecodeBackend& backend_;
  const AnswerPlan plan_;
  const int place_;

  // Held while the sink is called: its calls never overlap.
  absl::Mutex mutex_;
  std::shared_ptr<AnswerSink> sink_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<TenantLimits::Lease> lease_ ABSL_GUARDED_BY(mutex_);
  std::vector<Choice> choices_ ABSL_GUARDED_BY(mutex_);
  int started_ ABSL_GUARDED_BY(mutex_) = 0, finished_ ABSL_GUARDED_BY(mutex_) = 0, ended_ ABSL_GUARDED_BY(mutex_) = 0;
  bool begun_ ABSL_GUARDED_BY(mutex_) = false;    // any message has been sent
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);  // the first thing that went wrong, after which all is cancelled
  std::optional<absl::Time> first_token_ ABSL_GUARDED_BY(mutex_);
  int completion_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  v1::Usage usage_ ABSL_GUARDED_BY(mutex_);
  google::protobuf::RepeatedPtrField<v1::TokenLogprob> prompt_logprobs_ ABSL_GUARDED_BY(mutex_);

  // Apart, because a sink may cancel from within a call.
  absl::Mutex streams_mutex_;
  std::vector<Slot> streams_ ABSL_GUARDED_BY(streams_mutex_);  // [answers]
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_ANSWER_H_
