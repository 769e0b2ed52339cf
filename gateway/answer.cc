#include "gateway/answer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/log.h"

namespace conclave {
namespace {

std::string Milliseconds(absl::Duration duration) { return absl::StrCat(absl::ToInt64Milliseconds(duration)); }

}  // namespace

Answer::Answer(const ServedModel& model, GatewayMetrics& metrics, OpenCalls& calls, const std::string& request_id,
               std::vector<int32_t> prompt_ids, std::shared_ptr<AnswerSink> sink)
    : metrics_(metrics),
      calls_(calls),
      request_id_(request_id),
      sink_(std::move(sink)),
      prompt_ids_(std::move(prompt_ids)),
      text_(model),
      prompt_tokens_(static_cast<int>(prompt_ids_.size())) {}

void Answer::SetCall(std::shared_ptr<DecodeCall> call) {
  {
    absl::MutexLock lock(&mutex_);
    call_ = call;
    if (!cancelled_) return;
  }
  call->Cancel();
}

void Answer::Cancel() {
  std::shared_ptr<DecodeCall> call;
  {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
    call = call_;
  }
  if (call != nullptr) call->Cancel();
}

void Answer::OnResponse(const v1::DecodeResponse& response) {
  if (!failure_.ok() || !finish_reason_.empty()) return;
  absl::StatusOr<std::string> text = text_.Append(response.ids());
  if (!text.ok()) return Fail(text.status());
  CountTokens(response.ids_size());
  v1::GenerateResponse chunk;
  chunk.set_text(*std::move(text));
  *chunk.mutable_ids() = response.ids();
  if (!prompt_ids_.empty()) AddFirst(chunk);
  if (!response.finish_reason().empty()) AddLast(response, chunk);
  sink_->OnChunk(chunk);
}

void Answer::CountTokens(int tokens) {
  if (tokens == 0) return;
  const absl::Time now = absl::Now();
  if (!first_token_.has_value()) {
    first_token_ = now;
    metrics_.time_to_first_token->Observe(absl::ToDoubleSeconds(now - arrival_));
  } else {
    // Tokens that came in one message share the time since the message before.
    for (int i = 0; i < tokens; ++i) {
      metrics_.inter_token_latency->Observe(absl::ToDoubleSeconds(now - *last_token_) / tokens);
    }
  }
  last_token_ = now;
  completion_tokens_ += tokens;
  metrics_.generated_tokens->Add(tokens);
}

void Answer::AddFirst(v1::GenerateResponse& chunk) {
  chunk.set_request_id(request_id_);
  chunk.mutable_prompt_ids()->Add(prompt_ids_.begin(), prompt_ids_.end());
  prompt_ids_.clear();
}

void Answer::AddLast(const v1::DecodeResponse& response, v1::GenerateResponse& chunk) {
  finish_reason_ = response.finish_reason();
  chunk.mutable_text()->append(text_.Flush());
  chunk.set_request_id(request_id_);
  chunk.set_finish_reason(finish_reason_);
  chunk.set_logits_hash(response.logits_hash());
  chunk.mutable_usage()->set_prompt_tokens(prompt_tokens_);
  chunk.mutable_usage()->set_completion_tokens(completion_tokens_);
  *chunk.mutable_usage()->mutable_expert_use() = response.expert_use();
}

void Answer::Fail(const absl::Status& status) {
  failure_ = status;
  Cancel();
}

void Answer::OnEnd(const absl::Status& status) {
  absl::Status end = status;
  if (!failure_.ok()) {
    end = failure_;
  } else if (!finish_reason_.empty()) {
    // All of the answer is here; what the connection did afterwards does not matter.
    end = absl::OkStatus();
  } else if (status.ok()) {
    end = absl::InternalError("the attention service ended the stream without a finish reason");
  }
  LogEnd(end);
  sink_->OnEnd(end);
  sink_.reset();
  {
    absl::MutexLock lock(&mutex_);
    call_.reset();
  }
  calls_.Leave();
}

void Answer::LogEnd(const absl::Status& status) {
  const absl::Time now = absl::Now();
  metrics_.RequestEnded("Generate", status.code());
  metrics_.request_duration->Observe(absl::ToDoubleSeconds(now - arrival_));
  // Counts and times only: prompts and answers are nobody's business but the client's.
  LogInfo(absl::StrCat("request id=", request_id_, " method=Generate code=", absl::StatusCodeToString(status.code()),
                       " prompt_tokens=", prompt_tokens_, " completion_tokens=", completion_tokens_,
                       " finish=", finish_reason_.empty() ? "none" : finish_reason_,
                       " first_token_ms=", first_token_.has_value() ? Milliseconds(*first_token_ - arrival_) : "none",
                       " total_ms=", Milliseconds(now - arrival_),
                       status.ok() ? "" : absl::StrCat(" error=\"", status.message(), "\"")));
}

}  // namespace conclave
