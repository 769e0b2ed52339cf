#include "router_service/decode_stream.h"

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

namespace conclave {
namespace {

constexpr size_t kRequestIdBytesMax = 128;

}  // namespace

absl::StatusOr<EngineRequest> ToEngineRequest(const v1::DecodeRequest& request, absl::Time deadline) {
  if (request.request_id().size() > kRequestIdBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("request_id is longer than ", kRequestIdBytesMax, " bytes"));
  }
  if (!request.sampling().has_seed()) {
    return absl::InvalidArgumentError(
        "sampling.seed is missing; the gateway draws it, so that a stream can be resumed");
  }
  EngineRequest result;
  result.prompt_ids.assign(request.prompt_ids().begin(), request.prompt_ids().end());
  if (request.sampling().has_temperature()) result.sampling.temperature = request.sampling().temperature();
  if (request.sampling().has_top_p()) result.sampling.top_p = request.sampling().top_p();
  if (request.sampling().has_top_k()) result.sampling.top_k = request.sampling().top_k();
  result.sampling.seed = request.sampling().seed();
  result.max_tokens = request.max_tokens();
  result.ignore_eos = request.ignore_eos();
  result.hash_logits = request.hash_logits();
  result.report_expert_use = request.report_expert_use();
  result.deadline = deadline;
  return result;
}

void AddExpertUse(const std::vector<std::vector<uint32_t>>& use,
                  google::protobuf::RepeatedPtrField<v1::LayerExpertUse>* out) {
  for (size_t layer = 0; layer < use.size(); ++layer) {
    if (use[layer].empty()) continue;
    v1::LayerExpertUse* entry = out->Add();
    entry->set_layer(static_cast<int32_t>(layer));
    entry->mutable_tokens()->Add(use[layer].begin(), use[layer].end());
  }
}

void DecodeStream::Start(const std::shared_ptr<DecodeStream>& stream, absl::StatusOr<EngineRequest> request) {
  entered_ = calls_.Enter();
  if (!entered_) return Close(absl::UnavailableError("this attention service is stopping; try another one"));
  if (engine_ == nullptr) return Close(absl::UnavailableError("this attention service is loading; try again"));
  if (!request.ok()) return Close(request.status());
  prompt_tokens_ = static_cast<double>(request->prompt_ids.size());
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
  if (event.token >= 0) CountToken();
  if (event.token >= 0 || event.finish != FinishReason::kNone) {
    Add([&event](v1::DecodeResponse& message) {
      if (event.token >= 0) message.add_ids(event.token);
      if (!event.ended()) return;
      if (event.finish == FinishReason::kStop) message.set_finish_reason("stop");
      if (event.finish == FinishReason::kLength) message.set_finish_reason("length");
      if (event.logits_hash != 0) message.set_logits_hash(absl::StrFormat("%016x", event.logits_hash));
      AddExpertUse(event.expert_use, message.mutable_expert_use());
    });
  }
  if (event.ended()) Close(event.status);
}

void DecodeStream::CountToken() {
  const absl::Time now = absl::Now();
  if (!last_token_.has_value()) {
    metrics_.time_to_first_token->Observe(absl::ToDoubleSeconds(now - arrival_));
    metrics_.prefill_tokens->Add(prompt_tokens_);
  } else {
    metrics_.inter_token_latency->Observe(absl::ToDoubleSeconds(now - *last_token_));
  }
  metrics_.decode_tokens->Add(1);
  last_token_ = now;
}

void DecodeStream::Close(const absl::Status& status) {
  {
    absl::MutexLock lock(&mutex_);
    outcome_ = status.code();
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
  absl::StatusCode outcome = absl::StatusCode::kCancelled;
  {
    absl::MutexLock lock(&mutex_);
    outcome = outcome_.value_or(outcome);
  }
  metrics_.RequestEnded(outcome);
  if (entered_) calls_.Leave();
}

}  // namespace conclave
