#include "gateway/http/api_call.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gateway/http/error_body.h"
#include "moe/tokenizer/utf8.h"

namespace conclave {
namespace {

HttpResponse StreamHead() {
  HttpResponse head;
  head.content_type = "text/event-stream; charset=utf-8";
  // Proxies must pass events on as they come.
  head.With("Cache-Control", "no-cache").With("X-Accel-Buffering", "no");
  return head;
}

// "prompt: …" of one among several prompts becomes "prompt[3]: …".
absl::Status OfPrompt(const absl::Status& status, size_t prompt, size_t prompts) {
  if (prompts == 1) return status;
  for (const absl::string_view field : {"text: ", "tokens.ids: "}) {
    if (!absl::StartsWith(status.message(), field)) continue;
    absl::Status named(status.code(), absl::StrCat("prompt[", prompt, "]: ", status.message().substr(field.size())));
    status.ForEachPayload(
        [&named](absl::string_view url, const absl::Cord& payload) { named.SetPayload(url, payload); });
    return named;
  }
  return status;
}

// Puts the parts of calls together.
void AddToolCalls(const AnswerPiece& piece, AnswerPiece& whole) {
  for (const v1::ToolCallDelta& part : piece.tool_calls) {
    const size_t index = static_cast<size_t>(part.index());
    if (whole.tool_calls.size() <= index) whole.tool_calls.resize(index + 1);
    v1::ToolCallDelta& call = whole.tool_calls[index];
    call.mutable_id()->append(part.id());
    call.mutable_name()->append(part.name());
    call.mutable_arguments()->append(part.arguments());
  }
}

// An answer that holds to a grammar does so from its first byte on: there are no thoughts before it. One whose call is
// forced begins behind the thoughts that its prompt ended with.
ReasoningMode ModeOf(const ApiRequest& request, ReasoningMode mode) {
  if (!request.chat || request.prompts.front().has_grammar()) return ReasoningMode::kOff;
  const v1::ToolChoice::Mode choice = request.prompts.front().chat().tool_choice().mode();
  const bool forced = choice == v1::ToolChoice::MODE_REQUIRED || choice == v1::ToolChoice::MODE_FUNCTION;
  return forced && mode == ReasoningMode::kBeginsInside ? ReasoningMode::kByTag : mode;
}

}  // namespace

// The dispatcher's share of the call, one a prompt.
class ApiCall::Sink final : public AnswerSink {
 public:
  Sink(std::shared_ptr<ApiCall> call, int prompt) : call_(std::move(call)), prompt_(prompt) {}
  void OnChunk(const v1::GenerateResponse& chunk) override { call_->OnChunk(prompt_, chunk); }
  void OnEnd(const absl::Status& status) override { call_->OnEnd(status); }

 private:
  const std::shared_ptr<ApiCall> call_;
  const int prompt_;
};

ApiCall::ApiCall(std::shared_ptr<Exchange> exchange, ApiRequest request, AnswerHead head, ReasoningMode reasoning)
    : exchange_(std::move(exchange)),
      request_(std::move(request)),
      reasoning_(ModeOf(request_, reasoning)),
      head_(std::move(head)),
      prompts_open_(request_.prompts.size()) {
  usages_.resize(request_.prompts.size());
  const ReasoningSplitter splitter(reasoning_ == ReasoningMode::kBeginsInside);
  for (size_t i = 0; i < request_.prompts.size() * static_cast<size_t>(request_.choices); ++i) {
    Choice& choice = choices_.emplace_back(Choice{{}, splitter});
    choice.whole.index = static_cast<int>(i);
    choice.whole.has_reasoning = reasoning_ != ReasoningMode::kOff;
    choice.whole.has_logprobs = request_.logprobs;
  }
}

void ApiCall::Start(Dispatcher& dispatcher, absl::Time deadline) {
  if (request_.stream) exchange_->ExpectStream(StreamHead(), kSsePing);
  exchange_->OnClientGone([call = weak_from_this()] {
    if (const auto self = call.lock()) self->Cancel();
  });
  const size_t prompts = request_.prompts.size();
  const std::shared_ptr<const Span>& span = exchange_->context().span;
  const Caller caller{exchange_->context().tenant, exchange_->context().peer,
                      span == nullptr ? TraceContext() : span->context,
                      static_cast<int64_t>(prompts - 1) * request_.choices};
  for (size_t i = 0; i < prompts; ++i) {
    v1::GenerateRequest request = request_.prompts[i];
    request.set_request_id(prompts == 1 ? exchange_->context().request_id
                                        : absl::StrCat(exchange_->context().request_id, "-", i));
    auto answer =
        dispatcher.Generate(caller, request, deadline, std::make_shared<Sink>(shared_from_this(), static_cast<int>(i)));
    if (!answer.ok()) return Fail(OfPrompt(answer.status(), i, prompts));
    bool over = false;
    {
      absl::MutexLock lock(&mutex_);
      answers_.push_back(*answer);
      over = over_;
    }
    if (over) return (*answer)->Cancel();
  }
}

void ApiCall::Cancel() {
  std::vector<std::shared_ptr<AnswerHandle>> answers;
  {
    absl::MutexLock lock(&mutex_);
    over_ = true;
    answers.swap(answers_);
  }
  for (const auto& answer : answers) answer->Cancel();
}

void ApiCall::Fail(const absl::Status& status) {
  {
    absl::MutexLock lock(&mutex_);
    if (over_) return;
    over_ = true;
    if (!exchange_->Respond(ErrorResponse(status)) && exchange_->Write(SseEvent(ErrorBody(ToApiError(status))))) {
      // Without [DONE], which would say that the answer is complete.
      exchange_->EndStream();
    }
  }
  Cancel();
}

void ApiCall::OnEnd(const absl::Status& status) {
  if (!status.ok()) return Fail(status);
  absl::MutexLock lock(&mutex_);
  if (--prompts_open_ == 0 && !over_) Finish();
}

// The last chunk of a prompt says what all its choices took together; until then tokens are counted as they come.
void ApiCall::CountUsage(int prompt, const v1::GenerateResponse& chunk) {
  AnswerUsage& usage = usages_[static_cast<size_t>(prompt)];
  usage.prompt_tokens += chunk.prompt_ids_size();
  usage.completion_tokens += chunk.ids_size();
  if (chunk.has_usage()) {
    usage = {chunk.usage().prompt_tokens(), chunk.usage().completion_tokens(), chunk.usage().cached_tokens()};
  }
  if (!chunk.system_fingerprint().empty()) head_.system_fingerprint = chunk.system_fingerprint();
}

AnswerUsage ApiCall::Usage() const {
  AnswerUsage sum;
  for (const AnswerUsage& usage : usages_) {
    sum.prompt_tokens += usage.prompt_tokens;
    sum.completion_tokens += usage.completion_tokens;
    sum.cached_tokens += usage.cached_tokens;
  }
  return sum;
}

AnswerPiece ApiCall::PieceOf(Choice& choice, const v1::GenerateResponse& chunk) {
  AnswerPiece piece;
  piece.index = choice.whole.index;
  piece.text = chunk.text();
  piece.tool_calls.assign(chunk.tool_calls().begin(), chunk.tool_calls().end());
  piece.finish_reason = chunk.finish_reason();
  piece.logits_hash = chunk.logits_hash();
  for (int i = 0; i < std::min(chunk.token_experts_size(), chunk.ids_size()); ++i) {
    piece.token_experts.push_back({chunk.ids(i), chunk.token_experts(i)});
  }
  piece.logprobs.assign(chunk.prompt_logprobs().begin(), chunk.prompt_logprobs().end());
  piece.first_without = chunk.prompt_logprobs_size() > 0 ? 1 : 0;
  piece.logprobs.insert(piece.logprobs.end(), chunk.logprobs().begin(), chunk.logprobs().end());
  piece.has_logprobs = request_.logprobs && !piece.logprobs.empty();
  piece.text_offset = choice.characters;
  if (request_.logprobs) choice.characters += Utf8Length(piece.text);
  if (reasoning_ == ReasoningMode::kOff) return piece;
  ReasoningPiece split = choice.reasoning.Add(piece.text);
  if (!piece.finish_reason.empty()) {
    ReasoningPiece rest = choice.reasoning.Flush();
    split.reasoning += rest.reasoning;
    split.content += rest.content;
  }
  piece.text = std::move(split.content);
  piece.reasoning = std::move(split.reasoning);
  return piece;
}

std::string ApiCall::EventsOf(Choice& choice, AnswerPiece piece) {
  const ChunkUsage usage = request_.continuous_usage ? ChunkUsage::kGiven
                           : request_.include_usage  ? ChunkUsage::kNull
                                                     : ChunkUsage::kAbsent;
  const AnswerUsage usage_now = usage == ChunkUsage::kGiven ? Usage() : AnswerUsage();
  std::string events;
  if (request_.chat && !std::exchange(choice.role_sent, true)) {
    AnswerPiece first;
    first.index = piece.index;
    first.has_role = true;
    events += SseEvent(ChunkOfAnswer(head_, first, usage, usage_now));
  }
  // The end comes in a chunk of its own, as clients of OpenAI know it.
  const std::string finish_reason = std::exchange(piece.finish_reason, "");
  const std::string logits_hash = std::exchange(piece.logits_hash, "");
  if (!piece.text.empty() || !piece.reasoning.empty() || !piece.tool_calls.empty() || piece.has_logprobs ||
      !piece.token_experts.empty()) {
    absl::StrAppend(&events, SseEvent(ChunkOfAnswer(head_, piece, usage, usage_now)));
  }
  if (!finish_reason.empty()) {
    AnswerPiece last;
    last.index = piece.index;
    last.finish_reason = finish_reason;
    last.logits_hash = logits_hash;
    absl::StrAppend(&events, SseEvent(ChunkOfAnswer(head_, last, usage, usage_now)));
  }
  return events;
}

void ApiCall::OnChunk(int prompt, const v1::GenerateResponse& chunk) {
  bool gone = false;
  {
    absl::MutexLock lock(&mutex_);
    const size_t index = static_cast<size_t>(prompt * request_.choices + chunk.index());
    if (over_ || chunk.index() < 0 || chunk.index() >= request_.choices) return;
    CountUsage(prompt, chunk);
    Choice& choice = choices_[index];
    AnswerPiece piece = PieceOf(choice, chunk);
    if (request_.stream) {
      const std::string events = EventsOf(choice, std::move(piece));
      gone = !events.empty() && !exchange_->Write(events);
    } else {
      AnswerPiece& whole = choice.whole;
      whole.text += piece.text;
      whole.reasoning += piece.reasoning;
      AddToolCalls(piece, whole);
      if (whole.logprobs.empty()) whole.first_without = piece.first_without;
      std::move(piece.logprobs.begin(), piece.logprobs.end(), std::back_inserter(whole.logprobs));
      std::move(piece.token_experts.begin(), piece.token_experts.end(), std::back_inserter(whole.token_experts));
      if (!piece.finish_reason.empty()) whole.finish_reason = piece.finish_reason;
      if (!piece.logits_hash.empty()) whole.logits_hash = piece.logits_hash;
    }
  }
  if (gone) Cancel();
}

void ApiCall::Finish() {
  over_ = true;
  if (!request_.stream) {
    std::vector<AnswerPiece> choices;
    choices.reserve(choices_.size());
    for (Choice& choice : choices_) choices.push_back(std::move(choice.whole));
    HttpResponse response;
    response.body = WholeAnswer(head_, choices, Usage());
    exchange_->Respond(std::move(response));
    return;
  }
  std::string end;
  if (request_.include_usage) end = SseEvent(UsageChunk(head_, Usage()));
  absl::StrAppend(&end, kSseDone);
  if (exchange_->Write(end)) exchange_->EndStream();
}

}  // namespace conclave
