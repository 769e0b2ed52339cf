#include "router_service/decode_messages.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "moe/base/status_macros.h"
#include "moe/grammar/grammar.h"
#include "moe/grammar/grammar_message.h"

namespace conclave {
namespace {

constexpr size_t kRequestIdBytesMax = 128;

SamplingParams ToSamplingParams(const v1::DecodeRequest& request) {
  const v1::SamplingOptions& options = request.sampling();
  SamplingParams params;
  if (options.has_temperature()) params.temperature = options.temperature();
  if (options.has_top_p()) params.top_p = options.top_p();
  if (options.has_top_k()) params.top_k = options.top_k();
  if (options.has_min_p()) params.min_p = options.min_p();
  if (options.has_repetition_penalty()) params.repetition_penalty = options.repetition_penalty();
  params.presence_penalty = options.presence_penalty();
  params.frequency_penalty = options.frequency_penalty();
  params.logit_bias.assign(options.logit_bias().begin(), options.logit_bias().end());
  std::sort(params.logit_bias.begin(), params.logit_bias.end());
  params.seed = options.seed();
  params.choice = request.choice();
  return params;
}

void FillLogprob(const TokenLogprobs& from, v1::TokenLogprob* to) {
  to->set_id(from.id);
  to->set_logprob(from.logprob);
  for (const auto& [id, logprob] : from.top) {
    v1::TokenLogprob* other = to->add_top();
    other->set_id(id);
    other->set_logprob(logprob);
  }
}

// The expert use of layers that have experts.
void AddExpertUse(const std::vector<std::vector<uint32_t>>& use, v1::DecodeResponse& message) {
  for (size_t layer = 0; layer < use.size(); ++layer) {
    if (use[layer].empty()) continue;
    v1::LayerExpertUse* entry = message.add_expert_use();
    entry->set_layer(static_cast<int32_t>(layer));
    entry->mutable_tokens()->Add(use[layer].begin(), use[layer].end());
  }
}

// The experts of a token, of layers that have any.
void AddTokenExperts(const std::vector<std::vector<int32_t>>& experts, v1::DecodeResponse& message) {
  v1::TokenExperts* token = message.add_token_experts();
  for (size_t layer = 0; layer < experts.size(); ++layer) {
    if (experts[layer].empty()) continue;
    v1::LayerExperts* entry = token->add_layers();
    entry->set_layer(static_cast<int32_t>(layer));
    entry->mutable_experts()->Add(experts[layer].begin(), experts[layer].end());
  }
}

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
  result.generated_ids.assign(request.generated_ids().begin(), request.generated_ids().end());
  result.sampling = ToSamplingParams(request);
  result.max_tokens = request.max_tokens();
  result.min_tokens = request.min_tokens();
  result.ignore_eos = request.ignore_eos();
  result.stop_ids.assign(request.stop_token_ids().begin(), request.stop_token_ids().end());
  if (request.has_top_logprobs()) result.top_logprobs = request.top_logprobs();
  result.prompt_logprobs = request.prompt_logprobs();
  result.hash_logits = request.hash_logits();
  result.report_expert_use = request.report_expert_use();
  result.report_token_experts = request.report_token_experts();
  if (request.has_grammar()) {
    ASSIGN_OR_RETURN(result.grammar, ToGrammarSpec(request.grammar()));
  }
  result.priority = request.priority();
  result.cache_salt = request.cache_salt();
  result.deadline = deadline;
  return result;
}

void AddEvent(const TokenEvent& event, v1::DecodeResponse& message) {
  for (const TokenLogprobs& logprobs : event.prompt_logprobs) FillLogprob(logprobs, message.add_prompt_logprobs());
  message.set_holds_to_grammar(event.holds_to_grammar);
  if (event.cached_tokens > 0) message.set_cached_tokens(event.cached_tokens);
  if (event.token >= 0) message.add_ids(event.token);
  if (event.token >= 0 && !event.token_experts.empty()) AddTokenExperts(event.token_experts, message);
  if (event.logprobs.has_value()) FillLogprob(*event.logprobs, message.add_logprobs());
  if (!event.ended()) return;
  if (event.finish == FinishReason::kStop) message.set_finish_reason("stop");
  if (event.finish == FinishReason::kLength) message.set_finish_reason("length");
  if (event.logits_hash != 0) message.set_logits_hash(absl::StrFormat("%016x", event.logits_hash));
  AddExpertUse(event.expert_use, message);
}

}  // namespace conclave
