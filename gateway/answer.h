// One answer on its way: from the router's ids to what a front streams to its client. Internal to the dispatcher.
#ifndef CONCLAVE_GATEWAY_ANSWER_H_
#define CONCLAVE_GATEWAY_ANSWER_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "conclave/v1/control.pb.h"
#include "gateway/answer_text.h"
#include "gateway/dispatcher.h"
#include "gateway/gateway_metrics.h"
#include "gateway/router_client.h"
#include "gateway/served_model.h"
#include "moe/daemon/open_calls.h"

namespace conclave {

// Fed by one router stream; Cancel may come from any thread. Counts as an open call from construction to OnEnd.
class Answer final : public DecodeListener, public AnswerHandle {
 public:
  // The references must outlive it. REQUIRES: calls.Enter() returned true for this answer.
  Answer(const ServedModel& model, GatewayMetrics& metrics, OpenCalls& calls, const std::string& request_id,
         std::vector<int32_t> prompt_ids, std::shared_ptr<AnswerSink> sink);

  // To be called once, with the stream that feeds this answer.
  void SetCall(std::shared_ptr<DecodeCall> call);
  void Cancel() override;

  void OnResponse(const v1::DecodeResponse& response) override;
  void OnEnd(const absl::Status& status) override;

 private:
  void CountTokens(int tokens);
  void AddFirst(v1::GenerateResponse& chunk);
  void AddLast(const v1::DecodeResponse& response, v1::GenerateResponse& chunk);
  void Fail(const absl::Status& status);
  void LogEnd(const absl::Status& status);

  GatewayMetrics& metrics_;
  OpenCalls& calls_;
  const std::string request_id_;
  const absl::Time arrival_ = absl::Now();

  // Used by the stream's calls alone, which never overlap.
  std::shared_ptr<AnswerSink> sink_;
  std::vector<int32_t> prompt_ids_;
  AnswerText text_;
  int prompt_tokens_ = 0;
  int completion_tokens_ = 0;
  std::optional<absl::Time> first_token_, last_token_;
  std::string finish_reason_;
  absl::Status failure_;  // what went wrong here, after which the stream is cancelled

  absl::Mutex mutex_;
  std::shared_ptr<DecodeCall> call_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_ANSWER_H_
