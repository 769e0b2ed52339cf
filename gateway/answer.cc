#include "gateway/answer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/types/span.h"
#include "gateway/refusal.h"
#include "moe/base/log.h"

namespace conclave {
namespace {

// A shorter prompt is read n times at once sooner than it is read once and then found.
constexpr int kSharedPromptTokensMin = 64;

std::string Milliseconds(absl::Duration duration) { return absl::StrCat(absl::ToInt64Milliseconds(duration)); }

void AddExpertUse(const google::protobuf::RepeatedPtrField<v1::LayerExpertUse>& use, v1::Usage& sum) {
  for (const v1::LayerExpertUse& layer : use) {
    v1::LayerExpertUse* into = nullptr;
    for (v1::LayerExpertUse& known : *sum.mutable_expert_use()) {
      if (known.layer() == layer.layer()) into = &known;
    }
    if (into == nullptr) {
      *sum.add_expert_use() = layer;
      continue;
    }
    for (int i = 0; i < std::min(into->tokens_size(), layer.tokens_size()); ++i) {
      into->set_tokens(i, into->tokens(i) + layer.tokens(i));
    }
  }
}

}  // namespace

// One router stream, on behalf of one choice.
class Answer::Stream final : public DecodeListener {
 public:
  Stream(std::shared_ptr<Answer> answer, int index) : answer_(std::move(answer)), index_(index) {}
  void OnResponse(const v1::DecodeResponse& response) override { answer_->OnResponse(index_, response); }
  void OnEnd(const absl::Status& status) override { std::exchange(answer_, nullptr)->OnEnd(index_, status); }

 private:
  std::shared_ptr<Answer> answer_;
  const int index_;
};

Answer::Choice::Choice(const ServedModel& model, const AnswerPlan& plan)
    : text(model, plan.stops,
           plan.calls.format == nullptr ? absl::Span<const int32_t>() : absl::MakeConstSpan(model.tools.marker_ids)),
      calls(plan.calls.format == nullptr ? nullptr : ToolCallParser::Create(plan.calls)) {}

Answer::Answer(const ServedModel& model, GatewayMetrics& metrics, OpenCalls& calls, DecodeBackend& backend,
               AnswerPlan plan, std::unique_ptr<TenantLimits::Lease> lease, std::shared_ptr<AnswerSink> sink)
    : model_(model),
      metrics_(metrics),
      calls_(calls),
      backend_(backend),
      plan_(std::move(plan)),
      place_(backend.Place(plan_.decode)),
      sink_(std::move(sink)),
      lease_(std::move(lease)),
      streams_(static_cast<size_t>(plan_.answers)) {
  choices_.reserve(streams_.size());
  for (int i = 0; i < plan_.answers; ++i) choices_.emplace_back(model_, plan_);
  usage_.set_prompt_tokens(plan_.decode.prompt_ids_size());
}

void Answer::Start() {
  // The prompt's log probabilities are asked for once; the others take them from the first.
  const bool first_alone = plan_.decode.prompt_logprobs() || plan_.decode.prompt_ids_size() >= kSharedPromptTokensMin;
  StartChoices(0, first_alone ? 1 : plan_.answers);
}

void Answer::StartChoices(int begin, int end) {
  if (begin >= end) return;
  {
    absl::MutexLock lock(&mutex_);
    absl::MutexLock streams_lock(&streams_mutex_);
    if (started_ >= end || (begin > 0 && streams_[static_cast<size_t>(begin)].cancelled)) return;
    // Before the first of them begins: it may end at once, and must not be taken for the last.
    started_ = end;
  }
  for (int index = begin; index < end; ++index) {
    v1::DecodeRequest request = plan_.decode;
    request.set_choice(index);
    if (index > 0) request.set_prompt_logprobs(false);
    auto call = backend_.Decode(place_, std::move(request), plan_.deadline,
                                plan_.trace == nullptr ? TraceContext() : plan_.trace->context(),
                                std::make_shared<Stream>(shared_from_this(), index));
    bool cancelled = false;
    {
      absl::MutexLock lock(&streams_mutex_);
      Slot& slot = streams_[static_cast<size_t>(index)];
      slot.call = call;
      cancelled = slot.cancelled;
    }
    if (cancelled) call->Cancel();
  }
}

void Answer::CancelStreams(int begin, int end) {
  std::vector<std::shared_ptr<DecodeCall>> calls;
  {
    absl::MutexLock lock(&streams_mutex_);
    for (int i = begin; i < end; ++i) {
      Slot& slot = streams_[static_cast<size_t>(i)];
      slot.cancelled = true;
      if (slot.call != nullptr) calls.push_back(slot.call);
    }
  }
  for (const auto& call : calls) call->Cancel();
}

void Answer::Cancel() { CancelStreams(0, plan_.answers); }

void Answer::OnResponse(int index, const v1::DecodeResponse& response) {
  bool cancel_one = false, cancel_all = false;
  {
    absl::MutexLock lock(&mutex_);
    Choice& choice = choices_[static_cast<size_t>(index)];
    if (!failure_.ok() || !choice.finish_reason.empty()) return;
    Take(choice, index, response);
    cancel_all = !failure_.ok();
    // A stop text is complete: what the router would go on to decode is nobody's.
    cancel_one = !choice.finish_reason.empty() && response.finish_reason().empty();
  }
  if (cancel_all) return Cancel();
  if (cancel_one) CancelStreams(index, index + 1);
  StartChoices(1, plan_.answers);
}

void Answer::Take(Choice& choice, int index, const v1::DecodeResponse& response) {
  v1::GenerateResponse chunk;
  chunk.set_index(index);
  const bool first = !std::exchange(choice.begun, true);
  if (first) AddFirst(response, chunk);
  // Messages drop fields that their reader does not know, and an answer without its grammar is no answer.
  if (plan_.decode.has_grammar() && response.ids_size() > 0 && !response.holds_to_grammar()) {
    return Fail(absl::UnimplementedError("grammar: an attention service is older than this gateway and knows of none; "
                                         "update it"));
  }
  const int tokens_before = choice.text.tokens();
  const size_t echo = chunk.text().size();
  const absl::StatusOr<bool> stopped = choice.text.Append(response, chunk);
  if (!stopped.ok()) return Fail(stopped.status());
  CountTokens(choice, choice.text.tokens() - tokens_before);
  std::string reason = response.finish_reason();
  if (*stopped || (!reason.empty() && choice.text.Flush(chunk))) reason = "stop";
  const bool enough = TakeCalls(choice, echo, first, !reason.empty(), chunk);
  if (enough || (reason == "stop" && choice.calls != nullptr && choice.calls->calls() > 0)) reason = "tool_calls";
  // What the service says of the whole answer is not true of a part of it.
  const bool cut = *stopped || response.finish_reason().empty();
  if (!reason.empty()) AddFinish(choice, cut ? v1::DecodeResponse() : response, reason, chunk);
  // What a stop text may still swallow is no news.
  const bool news = first || !chunk.text().empty() || chunk.ids_size() > 0 || chunk.tool_calls_size() > 0 ||
                    !chunk.finish_reason().empty();
  if (news) sink_->OnChunk(chunk);
}

bool Answer::TakeCalls(Choice& choice, size_t echo, bool first, bool last, v1::GenerateResponse& chunk) {
  if (choice.calls == nullptr) return false;
  const std::string text = chunk.text().substr(echo);
  chunk.mutable_text()->resize(echo);
  if (first) choice.calls->Append(plan_.call_beginning, chunk);
  choice.calls->Append(text, chunk);
  if (last) choice.calls->Flush(chunk);
  return choice.calls->done();
}

void Answer::AddFirst(const v1::DecodeResponse& response, v1::GenerateResponse& chunk) {
  chunk.set_request_id(plan_.decode.request_id());
  if (!std::exchange(begun_, true)) {
    *chunk.mutable_prompt_ids() = plan_.decode.prompt_ids();
    chunk.set_system_fingerprint(backend_.fingerprint());
    usage_.set_cached_tokens(response.cached_tokens());
    prompt_logprobs_ = response.prompt_logprobs();
    for (v1::TokenLogprob& logprob : prompt_logprobs_) SetTokenBytes(model_, logprob);
  }
  *chunk.mutable_prompt_logprobs() = prompt_logprobs_;
  chunk.set_text(plan_.echo);
}

void Answer::AddFinish(Choice& choice, const v1::DecodeResponse& response, const std::string& reason,
                       v1::GenerateResponse& chunk) {
  choice.finish_reason = reason;
  chunk.set_request_id(plan_.decode.request_id());
  chunk.set_finish_reason(reason);
  chunk.set_logits_hash(response.logits_hash());
  AddExpertUse(response.expert_use(), usage_);
  if (++finished_ < plan_.answers) return;
  usage_.set_completion_tokens(completion_tokens_);
  *chunk.mutable_usage() = usage_;
}

void Answer::CountTokens(Choice& choice, int tokens) {
  if (tokens == 0) return;
  const absl::Time now = absl::Now();
  if (!first_token_.has_value()) {
    first_token_ = now;
    metrics_.time_to_first_token->Observe(absl::ToDoubleSeconds(now - plan_.usage.arrival));
    if (plan_.trace != nullptr) plan_.trace->FirstToken(now);
  }
  if (choice.last_token.has_value()) {
    // Tokens that came in one message share the time since the message before.
    for (int i = 0; i < tokens; ++i) {
      metrics_.inter_token_latency->Observe(absl::ToDoubleSeconds(now - *choice.last_token) / tokens);
    }
  }
  choice.last_token = now;
  completion_tokens_ += tokens;
  metrics_.generated_tokens->Add(tokens);
  plan_.tenant->Generated(tokens);
  lease_->AddTokens(tokens);
}

void Answer::Fail(const absl::Status& status) {
  if (failure_.ok()) failure_ = status;
}

void Answer::OnEnd(int index, const absl::Status& status) {
  bool failed = false, last = false;
  {
    absl::MutexLock lock(&mutex_);
    // Once all of an answer is here, what the connection did afterwards does not matter.
    if (choices_[static_cast<size_t>(index)].finish_reason.empty()) {
      Fail(status.ok() ? absl::InternalError("the attention service ended the stream without a finish reason")
                       : status);
      failed = true;
    }
    last = ++ended_ == started_;
    if (last) {
      LogEnd(failure_);
      LogUsage(failure_);
      EndTrace(failure_);
      // Before the client knows, so that its next request finds the room that this one had.
      lease_.reset();
      sink_->OnEnd(failure_);
      sink_.reset();
    }
  }
  if (failed && !last) Cancel();
  if (!last) return;
  {
    absl::MutexLock lock(&streams_mutex_);
    for (Slot& slot : streams_) slot.call.reset();
  }
  calls_.Leave();
}

void Answer::LogUsage(const absl::Status& status) {
  if (plan_.usage_log == nullptr) return;
  UsageRecord usage = plan_.usage;
  usage.end = absl::Now();
  usage.answers = plan_.answers;
  usage.prompt_tokens = usage_.prompt_tokens();
  usage.cached_tokens = usage_.cached_tokens();
  usage.completion_tokens = completion_tokens_;
  usage.code = status.code();
  usage.limit = LimitOf(status).value_or("");
  for (const Choice& choice : choices_) usage.finish_reasons.push_back(choice.finish_reason);
  plan_.usage_log->Write(usage);
}

void Answer::EndTrace(const absl::Status& status) {
  if (plan_.trace == nullptr) return;
  usage_.set_completion_tokens(completion_tokens_);
  std::vector<std::string> reasons;
  for (const Choice& choice : choices_) reasons.push_back(choice.finish_reason);
  plan_.trace->End(status, usage_, std::move(reasons));
}

void Answer::LogEnd(const absl::Status& status) {
  const absl::Time now = absl::Now();
  metrics_.RequestEnded("Generate", status.code());
  plan_.tenant->Ended(status);
  plan_.tenant->Left(plan_.answers);
  metrics_.request_duration->Observe(absl::ToDoubleSeconds(now - plan_.usage.arrival));
  const std::string& reason = choices_.front().finish_reason;
  // Counts and times only: prompts and answers are nobody's business but the client's.
  LogInfo(absl::StrCat("request id=", plan_.decode.request_id(), " tenant=", plan_.usage.tenant,
                       " method=Generate code=", absl::StatusCodeToString(status.code()), " n=", plan_.answers,
                       " prompt_tokens=", usage_.prompt_tokens(), " completion_tokens=", completion_tokens_,
                       " finish=", reason.empty() ? "none" : reason, " first_token_ms=",
                       first_token_.has_value() ? Milliseconds(*first_token_ - plan_.usage.arrival) : "none",
                       " total_ms=", Milliseconds(now - plan_.usage.arrival),
                       plan_.trace == nullptr ? "" : absl::StrCat(" trace_id=", plan_.trace->id()),
                       status.ok() ? "" : absl::StrCat(" error=\"", status.message(), "\"")));
}

}  // namespace conclave
