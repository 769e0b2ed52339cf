#include "router_service/live_sequence.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "moe/base/status_macros.h"
#include "router_service/step_routing.h"

namespace conclave {
namespace {

constexpr size_t kStopIdsMax = 1024;
constexpr size_t kCacheSaltBytesMax = 256;
// Log probabilities of a prompt come in one message: so many numbers at most.
constexpr int64_t kPromptLogprobsMax = int64_t{1} << 20;

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::Status ValidateIds(absl::string_view field, absl::Span<const int32_t> ids, int vocab) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab) {
      return Invalid(field, "[", i, "] is ", ids[i], "; ids must be in [0, ", vocab, ")");
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateLengths(const EngineRequest& request, int context_max) {
  const int64_t prompt = static_cast<int64_t>(request.prompt_ids.size());
  const int64_t generated = static_cast<int64_t>(request.generated_ids.size());
  if (prompt == 0) return Invalid("prompt_ids is empty; give at least one token");
  if (prompt >= context_max) {
    return Invalid("prompt_ids has ", prompt, " tokens; the context holds ", context_max,
                   ", at least one of them for the answer");
  }
  if (request.max_tokens < 0) return Invalid("max_tokens is ", request.max_tokens, "; it must be 0 or more");
  if (request.min_tokens < 0 || request.min_tokens > request.max_tokens) {
    return Invalid("min_tokens is ", request.min_tokens, "; it must be in [0, max_tokens], which is ",
                   request.max_tokens);
  }
  if (generated >= std::max(request.max_tokens, 1) || prompt + generated >= context_max) {
    return Invalid("generated_ids has ", generated, " ids, with which the answer is complete: max_tokens is ",
                   request.max_tokens, ", the context holds ", context_max, " tokens and prompt_ids has ", prompt);
  }
  return absl::OkStatus();
}

absl::Status ValidateReports(const EngineRequest& request) {
  if (!request.top_logprobs.has_value()) {
    if (request.prompt_logprobs) return Invalid("prompt_logprobs is set without top_logprobs");
    return absl::OkStatus();
  }
  const int top = *request.top_logprobs;
  if (top < 0 || top > kTopLogprobsMax) {
    return Invalid("top_logprobs is ", top, "; it must be in [0, ", kTopLogprobsMax, "]");
  }
  const int64_t numbers = static_cast<int64_t>(request.prompt_ids.size()) * (1 + top);
  if (request.prompt_logprobs && numbers > kPromptLogprobsMax) {
    return Invalid("prompt_logprobs would be ", numbers,
                   " numbers, (1 + top_logprobs) for each of prompt_ids; at most ", kPromptLogprobsMax, " are given");
  }
  return absl::OkStatus();
}

std::vector<int32_t> EndingIds(const EngineRequest& request, const ModelSpec& spec) {
  std::vector<int32_t> ids = request.stop_ids;
  if (!request.ignore_eos) ids.insert(ids.end(), spec.eos_ids.begin(), spec.eos_ids.end());
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

// An answer must be able to end where its grammar has it end.
absl::Status ValidateBesideGrammar(const EngineRequest& request, const ModelSpec& spec) {
  if (request.ignore_eos) return Invalid("ignore_eos is set beside a grammar, which says where the answer ends");
  if (request.min_tokens > 0) {
    return Invalid("min_tokens is ", request.min_tokens, " beside a grammar, which says where the answer ends");
  }
  if (EndingIds(request, spec).empty()) {
    return Invalid("grammar: this model has no end-of-sequence id; give stop_token_ids with which answers may end");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateRequest(const EngineRequest& request, const ModelSpec& spec, int context_max) {
  RETURN_IF_ERROR(ValidateLengths(request, context_max));
  RETURN_IF_ERROR(ValidateIds("prompt_ids", request.prompt_ids, spec.vocab));
  RETURN_IF_ERROR(ValidateIds("generated_ids", request.generated_ids, spec.vocab));
  RETURN_IF_ERROR(ValidateIds("stop_token_ids", request.stop_ids, spec.vocab));
  if (request.stop_ids.size() > kStopIdsMax) {
    return Invalid("stop_token_ids has ", request.stop_ids.size(), " ids; at most ", kStopIdsMax, " are taken");
  }
  if (request.cache_salt.size() > kCacheSaltBytesMax) {
    return Invalid("cache_salt has ", request.cache_salt.size(), " bytes; at most ", kCacheSaltBytesMax, " are taken");
  }
  RETURN_IF_ERROR(ValidateReports(request));
  for (const auto& [id, bias] : request.sampling.logit_bias) {
    if (id < 0 || id >= spec.vocab) {
      return Invalid("logit_bias has the id ", id, "; ids must be in [0, ", spec.vocab, ")");
    }
  }
  RETURN_IF_ERROR(request.sampling.Validate());
  if (request.grammar.has_value()) RETURN_IF_ERROR(ValidateBesideGrammar(request, spec));
  const std::vector<int32_t> ending = EndingIds(request, spec);
  for (size_t i = static_cast<size_t>(request.min_tokens); i < request.generated_ids.size(); ++i) {
    if (std::binary_search(ending.begin(), ending.end(), request.generated_ids[i])) {
      return Invalid("generated_ids[", i, "] is ", request.generated_ids[i], ", which ended the answer");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<GrammarMatcher>> MatcherOf(const EngineRequest& request, GrammarPool* pool) {
  if (!request.grammar.has_value()) return nullptr;
  if (pool == nullptr) {
    return absl::FailedPreconditionError("grammar: this model's directory has no tokenizer, so that nobody knows what "
                                         "its tokens say");
  }
  const absl::StatusOr<std::shared_ptr<const TokenGrammar>> grammar = pool->Get(*request.grammar);
  if (!grammar.ok()) return Invalid("grammar: ", grammar.status().message());
  auto matcher = std::make_unique<GrammarMatcher>(*grammar);
  for (size_t i = 0; i < request.generated_ids.size(); ++i) {
    const absl::Status taken = matcher->Take(request.generated_ids[i]);
    if (!taken.ok()) return Invalid("generated_ids[", i, "]: ", taken.message());
  }
  return matcher;
}

LiveSequence::LiveSequence(EngineRequest request, const ModelSpec& spec, std::unique_ptr<GrammarMatcher> matcher,
                           absl::Time arrival, TokenCallback on_event)
    : sampling_(std::move(request.sampling)),
      prompt_(static_cast<int32_t>(request.prompt_ids.size())),
      min_tokens_(request.min_tokens),
      vocab_(spec.vocab),
      top_logprobs_(request.top_logprobs),
      wants_prompt_logprobs_(request.prompt_logprobs),
      observer_(request.observer),
      on_event_(std::move(on_event)),
      ending_ids_(EndingIds(request, spec)),
      matcher_(std::move(matcher)) {
  forbids_ending_ = static_cast<int>(request.generated_ids.size()) < min_tokens_ && !ending_ids_.empty();
  if (sampling_.has_penalties()) {
    history_.emplace(request.prompt_ids, request.generated_ids, sampling_.logit_bias);
  } else if (!sampling_.logit_bias.empty() || forbids_ending_) {
    history_.emplace(absl::Span<const int32_t>(), absl::Span<const int32_t>(), sampling_.logit_bias);
  }
  if (forbids_ending_) history_->Forbid(ending_ids_);
  if (request.hash_logits) logits_hash_.emplace();
  if (request.report_expert_use) expert_use_ = ZeroExpertCounts<uint32_t>(spec);
  if (request.report_token_experts) token_experts_.resize(spec.layers);
  if (request.report_expert_use || observer_ != nullptr) booked_until_.assign(spec.layers, 0);
  if (wants_prompt_logprobs_) {
    prompt_logprobs_.reserve(request.prompt_ids.size());
    prompt_logprobs_.push_back({request.prompt_ids[0], 0, {}});
  }
  if (request.observer != nullptr || wants_prompt_logprobs_) {
    scheduled_.logits_from = 0;
  } else if (request.hash_logits && !request.generated_ids.empty()) {
    scheduled_.logits_from = prompt_ - 1;
  }
  scheduled_.prompt_ids = std::move(request.prompt_ids);
  scheduled_.generated_ids = std::move(request.generated_ids);
  scheduled_.max_tokens = request.max_tokens;
  scheduled_.ending_ids = ending_ids_;
  scheduled_.priority = request.priority;
  scheduled_.cache_salt = std::move(request.cache_salt);
  scheduled_.arrival = arrival;
  scheduled_.deadline = request.deadline;
}

absl::Status LiveSequence::TakeKnown(absl::Span<const float> logits, int32_t position, int32_t next) {
  if (position + 1 < prompt_) {
    if (!wants_prompt_logprobs_) return absl::OkStatus();
    prompt_logprobs_.push_back(LogprobsOf(logits, next, *top_logprobs_));
    if (std::isfinite(prompt_logprobs_.back().logprob)) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("a logit at position ", position,
                                            " is not a number; the model's weights or a kernel are damaged"));
  }
  if (logits_hash_.has_value()) logits_hash_->Update(logits);
  return absl::OkStatus();
}

void LiveSequence::TakeKnown(const DrawnLogprobs& logprobs, int32_t position, int32_t next) {
  if (!wants_prompt_logprobs_ || position + 1 >= prompt_) return;
  prompt_logprobs_.push_back(LogprobsOf(logprobs.logits, logprobs.top, next));
}

std::optional<TokenDraw> LiveSequence::Draw(int32_t tokens) {
  if (forbids_ending_ && tokens - prompt_ >= min_tokens_) {
    forbids_ending_ = false;
    history_->Allow();
    if (!sampling_.has_penalties() && sampling_.logit_bias.empty()) history_.reset();
  }
  if (forbids_ending_ && static_cast<int>(ending_ids_.size()) == vocab_) return std::nullopt;
  TokenDraw draw;
  draw.top_logprobs = top_logprobs_.value_or(-1);
  draw.temperature = sampling_.temperature;
  draw.top_p = sampling_.top_p;
  draw.min_p = sampling_.min_p;
  draw.top_k = sampling_.top_k;
  draw.repetition_penalty = sampling_.repetition_penalty;
  draw.presence_penalty = sampling_.presence_penalty;
  draw.frequency_penalty = sampling_.frequency_penalty;
  if (!draw.takes_largest()) draw.uniform = UniformAt(sampling_.seed, tokens, sampling_.choice);
  return draw;
}

void LiveSequence::TakeDrawn(int32_t token, const DrawnLogprobs& logprobs) {
  NoteToken(token);
  if (top_logprobs_.has_value()) logprobs_ = LogprobsOf(logprobs.logits, logprobs.top, token);
}

// A bit for each id; empty: all. Valid until the next token. Errors as GrammarMatcher::Allowed.
absl::StatusOr<absl::Span<const uint32_t>> LiveSequence::AllowedTokens() {
  if (matcher_ == nullptr) return absl::Span<const uint32_t>();
  ASSIGN_OR_RETURN(const TokenMask* const mask, matcher_->Allowed());
  if (!mask->accepts) return absl::Span<const uint32_t>(mask->words);
  allowed_ = mask->words;
  for (const int32_t id : ending_ids_) allowed_[id >> 5] |= uint32_t{1} << (id & 31);
  return absl::Span<const uint32_t>(allowed_);
}

void LiveSequence::NoteToken(int32_t token) {
  if (sampling_.has_penalties()) history_->AddGenerated(token);
}

absl::StatusOr<int32_t> LiveSequence::Sample(Sampler& sampler, absl::Span<const float> logits, int32_t tokens) {
  const bool may_end = tokens - prompt_ >= min_tokens_;
  ASSIGN_OR_RETURN(const absl::Span<const uint32_t> allowed, AllowedTokens());
  ASSIGN_OR_RETURN(const int32_t token,
                   sampler.Sample(logits, sampling_, tokens, history_.has_value() ? &*history_ : nullptr,
                                  may_end ? absl::Span<const int32_t>() : ending_ids_, allowed));
  const bool ends = std::binary_search(ending_ids_.begin(), ending_ids_.end(), token);
  if (matcher_ != nullptr && !ends) RETURN_IF_ERROR(matcher_->Take(token));
  NoteToken(token);
  if (logits_hash_.has_value()) logits_hash_->Update(logits);
  if (top_logprobs_.has_value()) logprobs_ = LogprobsOf(logits, token, *top_logprobs_);
  return token;
}

void LiveSequence::Report(TokenEvent& event) {
  event.admission = admission_;
  event.holds_to_grammar = matcher_ != nullptr;
  if (logits_hash_.has_value()) event.logits_hash = logits_hash_->Digest();
  if (event.token >= 0) {
    has_answered_ = true;
    event.logprobs = std::exchange(logprobs_, std::nullopt);
    event.token_experts = token_experts_;
  }
  if (event.token >= 0 || event.finish != FinishReason::kNone) {
    event.prompt_logprobs = std::exchange(prompt_logprobs_, {});
    event.cached_tokens = std::exchange(cached_tokens_, 0);
  }
  if (event.ended()) event.expert_use = std::move(expert_use_);
}

}  // namespace conclave
