#include "gateway/routers/pooled_stream.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gateway/refusal.h"
#include "gateway/routers/balance.h"
#include "moe/base/log.h"

namespace conclave {
namespace {

// A sequence that takes its service down with it must not take them all.
constexpr int kLossesMax = 3;
constexpr double kTokenTimesMax = 100;
// A service may have come back a moment ago: connecting to it anew may take a pause between two tries
// (kReconnectPauseMax), the next question, and its answer.
const absl::Duration kReturnWait = kReconnectPauseMax + absl::Milliseconds(100);

// A service that works, but lacks a shard. By its contract it names the expert; whatever else is unavailable is the
// service itself, which loads, stops or has gone.
bool MissesExpert(const absl::Status& status) {
  return absl::IsUnavailable(status) && absl::StrContains(status.message(), "expert ");
}

absl::Span<const int32_t> PromptOf(const v1::DecodeRequest& request) { return request.prompt_ids(); }

}  // namespace

class PooledStream::Attempt final : public DecodeListener {
 public:
  Attempt(std::shared_ptr<PooledStream> stream, int number) : stream_(std::move(stream)), number_(number) {}
  void OnResponse(const v1::DecodeResponse& response) override { stream_->OnResponse(number_, response); }
  void OnEnd(const absl::Status& status) override { std::exchange(stream_, nullptr)->OnEnd(number_, status); }

 private:
  std::shared_ptr<PooledStream> stream_;
  const int number_;
};

PooledStream::PooledStream(const PoolParts& parts, int place, v1::DecodeRequest request, absl::Time deadline,
                           const TraceContext& trace, std::shared_ptr<DecodeListener> listener)
    : parts_(parts),
      place_(place),
      key_(AffinityKey(PromptOf(request), request.cache_salt())),
      deadline_(deadline),
      trace_(trace),
      listener_(std::move(listener)),
      request_(std::move(request)) {
  parts_.streams.Enter();
}

void PooledStream::Begin() {
  absl::MutexLock lock(&mutex_);
  if (TryNext()) return;
  // It may have come back since it was last asked; Tick has it asked.
  Wait(absl::UnavailableError(parts_.set.Complaint()));
}

bool PooledStream::cancelled() const {
  absl::MutexLock lock(&call_mutex_);
  return cancelled_;
}

bool PooledStream::done() const {
  absl::MutexLock lock(&mutex_);
  return listener_ == nullptr;
}

void PooledStream::Cancel() {
  std::shared_ptr<DecodeCall> call;
  {
    absl::MutexLock lock(&call_mutex_);
    cancelled_ = true;
    call = call_;
  }
  if (call != nullptr) call->Cancel();  // where there is none, Tick sees it
}

bool PooledStream::TryNext() {
  const auto identity = parts_.set.identity();
  // Other numbers would not go on with the same ids.
  if (heard_ && identity.has_value() && identity->numeric_profile() != profile_) return false;
  if (!heard_ && identity.has_value()) profile_ = identity->numeric_profile();
  for (const int router : parts_.set.Order(key_, heard_ ? -1 : place_, refused_by_)) {
    if (!parts_.set.Enter(router)) continue;
    Send(router);
    return true;
  }
  return false;
}

void PooledStream::Send(int router) {
  router_ = router;
  waiting_for_ = absl::OkStatus();
  last_news_ = absl::Now();
  const int number = ++attempt_;
  auto call = parts_.clients[static_cast<size_t>(router)]->Decode(
      request_, deadline_, BeginSpan(router), std::make_shared<Attempt>(shared_from_this(), number));
  bool cancelled = false;
  {
    absl::MutexLock lock(&call_mutex_);
    call_ = call;
    cancelled = cancelled_;
  }
  if (cancelled) call->Cancel();
}

TraceContext PooledStream::BeginSpan(int router) {
  if (parts_.options.tracer == nullptr || !trace_.valid()) return {};
  span_ = parts_.options.tracer->Start("dispatch", SpanKind::kClient, trace_, absl::Now());
  span_->Set("server.address", parts_.set.address(router));
  span_->Set("rpc.system", "grpc");
  span_->Set("rpc.service", "conclave.v1.RouterService");
  span_->Set("rpc.method", "Decode");
  span_->Set("conclave.choice", request_.choice());
  span_->Set("conclave.attempt", attempt_);
  span_->Set("conclave.resumed_tokens", request_.generated_ids_size());
  return span_->context;
}

void PooledStream::EndSpan(const absl::Status& status) {
  if (!span_.has_value()) return;
  span_->Set("rpc.grpc.status_code", static_cast<int>(status.code()));
  // An answer that a stop text ended is cancelled by us, as is one whose client has gone.
  if (!cancelled()) span_->SetStatus(status);
  parts_.options.tracer->End(*std::exchange(span_, std::nullopt), absl::Now());
}

void PooledStream::OnResponse(int attempt, const v1::DecodeResponse& response) {
  absl::MutexLock lock(&mutex_);
  if (attempt != attempt_ || router_ < 0 || listener_ == nullptr || finished_) return;
  const absl::Time now = absl::Now();
  if (heard_)
    token_time_ = token_time_ == absl::ZeroDuration() ? now - last_news_ : 0.9 * token_time_ + 0.1 * (now - last_news_);
  last_news_ = now;
  heard_ = true;
  losses_ = 0;
  refused_by_.clear();
  request_.mutable_generated_ids()->MergeFrom(response.ids());
  request_.set_prompt_logprobs(false);  // they have come
  finished_ = !response.finish_reason().empty();
  listener_->OnResponse(response);
}

void PooledStream::OnEnd(int attempt, const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  if (attempt != attempt_ || router_ < 0 || listener_ == nullptr) return;
  EndSpan(finished_ ? absl::OkStatus() : status);
  const int router = std::exchange(router_, -1);
  parts_.set.Leave(router);
  {
    absl::MutexLock call_lock(&call_mutex_);
    call_.reset();
  }
  if (finished_ || status.ok()) return End(finished_ ? absl::OkStatus() : status);
  if (cancelled() || absl::IsDeadlineExceeded(status)) return End(status);
  if (absl::IsResourceExhausted(status) || MissesExpert(status)) {
    refused_by_.insert(router);
  } else if (absl::IsUnavailable(status) || absl::IsCancelled(status)) {  // not by us: it stopped at once
    // Until it answers again, others need not find out for themselves.
    parts_.set.SetDown(router, status);
    if (++losses_ > kLossesMax) return End(status);
  } else {
    return End(status);
  }
  Continue(status);
}

void PooledStream::Continue(const absl::Status& status) {
  if (TryNext()) {
    (heard_ ? parts_.resumed : parts_.retried)->Add(1);
    LogInfo(absl::StrCat("request id=", request_.request_id(), " choice=", request_.choice(),
                         heard_ ? " goes on at " : " is tried at ", parts_.set.address(router_), " after ",
                         request_.generated_ids_size(), " tokens: ", status.message()));
    return;
  }
  // Who has got a part of an answer gets the rest of it, if only some service has room before long.
  const bool full = absl::IsResourceExhausted(status);
  if (begun() && (full || refused_by_.empty())) return Wait(status);
  if (full) return End(LimitReached(kLimitQueue, status.message(), QueueRetryAfter()));
  End(absl::IsUnavailable(status) ? WithRetryAfter(status, QueueRetryAfter()) : status);
}

void PooledStream::Wait(const absl::Status& why) {
  if (waiting_for_.ok()) wait_until_ = absl::Now() + parts_.options.resume_wait;
  waiting_for_ = why;
  refused_by_.clear();
}

bool PooledStream::Waited(absl::Time now) const {
  if (parts_.stopping.load() || now >= wait_until_) return true;
  // Who has not begun waits for no more than one answer of each service.
  return !begun() && now >= came_ + kReturnWait && parts_.set.AskedSince(came_);
}

void PooledStream::Tick(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  if (listener_ == nullptr) return;
  if (router_ < 0) {
    if (waiting_for_.ok()) return;
    if (cancelled()) return End(absl::CancelledError("the client has gone"));
    if (now >= deadline_) {
      return End(absl::DeadlineExceededError(absl::StrCat("the deadline came while the answer waited ",
                                                          begun() ? "to go on" : "to begin", ": ",
                                                          waiting_for_.message())));
    }
    const bool tried = attempt_ > 0;
    const bool waited = Waited(now);  // looked at first: a service may answer meanwhile
    if (TryNext()) {
      if (tried) (heard_ ? parts_.resumed : parts_.retried)->Add(1);
    } else if (waited) {
      End(absl::IsUnavailable(waiting_for_) ? WithRetryAfter(waiting_for_, QueueRetryAfter()) : waiting_for_);
    } else if (!begun()) {
      parts_.ask_now();  // a connection that was refused is not tried at once
    }
    return;
  }
  const absl::Duration patience = std::max(parts_.options.stall_timeout, kTokenTimesMax * token_time_);
  if (!heard_ || finished_ || now - last_news_ < patience) return;
  const int router = router_;
  refused_by_ = {router};
  if (parts_.set.Order(key_, -1, refused_by_).empty()) return refused_by_.clear();
  GiveUpAttempt(absl::UnavailableError(absl::StrCat("the attention service at ", parts_.set.address(router),
                                                    " has sent nothing for ", absl::FormatDuration(now - last_news_))));
}

void PooledStream::Leave(int router) {
  absl::MutexLock lock(&mutex_);
  if (listener_ == nullptr || router_ != router || finished_ || !parts_.set.any_usable()) return;
  GiveUpAttempt(
      absl::UnavailableError(absl::StrCat("the attention service at ", parts_.set.address(router), " hangs")));
}

void PooledStream::GiveUpAttempt(const absl::Status& why) {
  EndSpan(why);
  parts_.set.Leave(std::exchange(router_, -1));
  ++attempt_;
  std::shared_ptr<DecodeCall> call;
  {
    absl::MutexLock lock(&call_mutex_);
    call = std::exchange(call_, nullptr);
  }
  if (call != nullptr) call->Cancel();
  Continue(why);
}

void PooledStream::End(const absl::Status& status) {
  const std::shared_ptr<DecodeListener> listener = std::exchange(listener_, nullptr);
  listener->OnEnd(status);
}

}  // namespace conclave
