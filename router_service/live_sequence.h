// What the engine knows of a sequence beside what the scheduler knows: how its tokens are chosen, and what is reported.
#ifndef CONCLAVE_ROUTER_SERVICE_LIVE_SEQUENCE_H_
#define CONCLAVE_ROUTER_SERVICE_LIVE_SEQUENCE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moe/kernels/token_draw.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/grammar/token_grammar.h"
#include "moe/model/transformer.h"
#include "router_service/engine.h"
#include "router_service/logits_hash.h"
#include "router_service/logprobs.h"
#include "router_service/sampler.h"
#include "router_service/scheduler.h"

namespace conclave {

// INVALID_ARGUMENT names the field of `request` that is out of range.
absl::Status ValidateRequest(const EngineRequest& request, const ModelSpec& spec, int context_max);
// Where a valid request stands in its grammar: behind generated_ids. Null: it has none. FAILED_PRECONDITION: it has
// one, and there is no pool. INVALID_ARGUMENT: it cannot be compiled, or does not allow one of generated_ids.
absl::StatusOr<std::unique_ptr<GrammarMatcher>> MatcherOf(const EngineRequest& request, GrammarPool* pool);

// One request under way. Made by the caller's thread, used by the engine's.
class LiveSequence {
 public:
  // matcher: as MatcherOf. REQUIRES: a valid request
  LiveSequence(EngineRequest request, const ModelSpec& spec, std::unique_ptr<GrammarMatcher> matcher,
               absl::Time arrival, TokenCallback on_event);

  // What the scheduler takes; once.
  ScheduledRequest TakeScheduled() { return std::move(scheduled_); }
  void set_id(SequenceId id) { scheduled_.sequence = id; }
  absl::Time arrival() const { return scheduled_.arrival; }
  absl::Time deadline() const { return scheduled_.deadline; }
  // It has left the queue, for the first time.
  void Admitted(absl::Time when, int32_t cached_tokens) {
    admission_ = when;
    cached_tokens_ = cached_tokens;
  }
  absl::Time admission() const { return admission_; }
  // Whether a token has been reported.
  bool has_answered() const { return has_answered_; }

  // The logits of the row at `position`, [vocab], whose next token is known already: `next`, of the prompt or of what
  // is replayed. INTERNAL: a logit that is not a number.
  absl::Status TakeKnown(absl::Span<const float> logits, int32_t position, int32_t next);
  // The same of a row that a device told of, which known_top_logprobs asked for.
  void TakeKnown(const DrawnLogprobs& logprobs, int32_t position, int32_t next);
  int known_top_logprobs() const { return wants_prompt_logprobs_ ? *top_logprobs_ : -1; }
  // Whether somebody looks at every logit, so that what a device tells of them is not enough; grammars are known on the
  // host alone.
  bool needs_logits() const { return logits_hash_.has_value() || observer_ != nullptr || matcher_ != nullptr; }
  // What Sample does with the logits behind `tokens` tokens; nothing where it would fail. REQUIRES: !needs_logits()
  std::optional<TokenDraw> Draw(int32_t tokens);
  // What goes with it; until the next token.
  absl::Span<const LogitChange> changes() const {
    return history_.has_value() ? history_->changes() : absl::Span<const LogitChange>();
  }
  // Instead of Sample: the token was drawn elsewhere, with what Draw asked for.
  void TakeDrawn(int32_t token, const DrawnLogprobs& logprobs);
  // Chooses the token behind `tokens` tokens. Errors as Sampler::Sample.
  absl::StatusOr<int32_t> Sample(Sampler& sampler, absl::Span<const float> logits, int32_t tokens);
  // Fills what the event reports, once it has token, finish and status.
  void Report(TokenEvent& event);

  SequenceObserver* observer() const { return observer_; }
  // [layers][experts]; null: not asked for
  std::vector<std::vector<uint32_t>>* expert_use() { return expert_use_.empty() ? nullptr : &expert_use_; }
  // [layers][top_k] of the token that is sampled next; null: not asked for
  std::vector<std::vector<int32_t>>* token_experts() { return token_experts_.empty() ? nullptr : &token_experts_; }
  // [layers], as in RoutedRows; null: nobody asks for the routing
  std::vector<int32_t>* booked_until() { return booked_until_.empty() ? nullptr : &booked_until_; }
  const TokenCallback& on_event() const { return on_event_; }

 private:
  void NoteToken(int32_t token);
  absl::StatusOr<absl::Span<const uint32_t>> AllowedTokens();

  ScheduledRequest scheduled_;
  absl::Time admission_ = absl::InfinitePast();
  bool has_answered_ = false;
  const SamplingParams sampling_;
  const int32_t prompt_;  // tokens
  const int min_tokens_;
  const int vocab_;
  const std::optional<int> top_logprobs_;
  const bool wants_prompt_logprobs_;
  SequenceObserver* const observer_;
  const TokenCallback on_event_;
  std::vector<int32_t> ending_ids_;
  std::optional<TokenHistory> history_;            // nothing: no logit is changed
  bool forbids_ending_ = false;                    // history_ does, until there are min_tokens_
  const std::unique_ptr<GrammarMatcher> matcher_;  // null: any text
  std::vector<uint32_t> allowed_;                  // of matcher_, with the ids that end the answer where they may come
  std::optional<LogitsHash> logits_hash_;          // nothing: not asked for
  std::vector<std::vector<uint32_t>> expert_use_;  // empty: not asked for
  std::vector<std::vector<int32_t>> token_experts_;  // of the token sampled last; empty: not asked for
  std::vector<int32_t> booked_until_;              // empty: nobody asks
  std::optional<TokenLogprobs> logprobs_;          // of the token sampled last
  int32_t cached_tokens_ = 0;                      // until the first token has come
  std::vector<TokenLogprobs> prompt_logprobs_;     // until the first token has come
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_LIVE_SEQUENCE_H_
