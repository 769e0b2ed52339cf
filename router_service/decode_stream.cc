#include "router_service/decode_stream.h"

#include <utility>

#include "absl/time/clock.h"
#include "router_service/decode_messages.h"

namespace conclave {
void DecodeStream::Start(const std::shared_ptr<DecodeStream>& stream, absl::StatusOr<EngineRequest> request) {
  entered_ = calls_.Enter();
  if (!entered_) return Close(absl::UnavailableError("this attention service is stopping; try another one"));
  if (engine_ == nullptr) return Close(absl::UnavailableError("this attention service is loading; try again"));
  if (!request.ok()) return Close(request.status());
  progress_.prompt_tokens = static_cast<int64_t>(request->prompt_ids.size());
  progress_.resumed_tokens = static_cast<int64_t>(request->generated_ids.size());
  // The engine's share of the stream keeps it alive until the last event.
  absl::StatusOr<SequenceId> sequence =
      engine_->Submit(*std::move(request), [stream](const TokenEvent& event) { stream->OnEvent(event); });
  if (!sequence.ok()) return Close(sequence.status());
  {
    absl::MutexLock lock(&mutex_);
    sequence_ = *sequence;
    if (!gone_) return;
  }
  engine_->Cancel(*sequence);
}

void DecodeStream::OnEvent(const TokenEvent& event) {
  progress_.admission = event.admission;
  progress_.cached_tokens += event.cached_tokens;
  if (event.token >= 0) CountToken();
  if (event.token < 0 && event.finish != FinishReason::kNone) {
    metrics_.prefill_tokens->Add(static_cast<double>(progress_.prompt_tokens));
  }
  if (tracer_ != nullptr) {
    absl::MutexLock lock(&mutex_);
    traced_ = progress_;
  }
  if (event.token >= 0 || event.finish != FinishReason::kNone) {
    Add([&event](v1::DecodeResponse& message) { AddEvent(event, message); });
  }
  if (event.ended() && last_token_.has_value()) {
    metrics_.decode_seconds->Observe(absl::ToDoubleSeconds(*last_token_ - progress_.first_token));
  }
  if (event.ended()) Close(event.status);
}

void DecodeStream::CountToken() {
  const absl::Time now = absl::Now();
  if (!last_token_.has_value()) {
    metrics_.time_to_first_token->Observe(absl::ToDoubleSeconds(now - arrival_));
    metrics_.prefill_tokens->Add(static_cast<double>(progress_.prompt_tokens));
    progress_.first_token = now;
  } else {
    metrics_.inter_token_latency->Observe(absl::ToDoubleSeconds(now - *last_token_));
  }
  metrics_.decode_tokens->Add(1);
  ++progress_.generated_tokens;
  last_token_ = now;
}

void DecodeStream::Close(const absl::Status& status) {
  {
    absl::MutexLock lock(&mutex_);
    outcome_ = status;
    end_ = absl::Now();
  }
  End(status);
}

void DecodeStream::OnClientGone() {
  std::optional<SequenceId> sequence;
  {
    absl::MutexLock lock(&mutex_);
    gone_ = true;
    sequence = sequence_;
  }
  // Its last event, CANCELLED, ends the stream.
  if (sequence.has_value()) engine_->Cancel(*sequence);
}

void DecodeStream::OnClosed() {
  absl::Status outcome;
  absl::Time end;
  DecodeProgress progress;
  {
    absl::MutexLock lock(&mutex_);
    progress = traced_;
    outcome = outcome_.value_or(absl::CancelledError("the client has gone"));
    end = outcome_.has_value() ? end_ : absl::Now();
  }
  metrics_.RequestEnded(outcome.code());
  if (tracer_ != nullptr) EndDecodeTrace(*tracer_, std::move(span_), progress, outcome, end);
  if (entered_) calls_.Leave();
}

}  // namespace conclave
