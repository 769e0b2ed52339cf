#include "gateway/decode_request.h"

#include <algorithm>
#include <random>

#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

// The defaults of inference.proto, for what neither the request nor the model's authors say.
void FillSampling(const v1::SamplingOptions& defaults, v1::SamplingOptions& sampling) {
  ApplyDefaults(defaults, sampling);
  if (!sampling.has_temperature()) sampling.set_temperature(0);
  if (!sampling.has_top_p()) sampling.set_top_p(1);
  if (!sampling.has_top_k()) sampling.set_top_k(0);
  if (!sampling.has_min_p()) sampling.set_min_p(0);
  if (!sampling.has_repetition_penalty()) sampling.set_repetition_penalty(1);
  if (!sampling.has_presence_penalty()) sampling.set_presence_penalty(0);
  if (!sampling.has_frequency_penalty()) sampling.set_frequency_penalty(0);
  if (!sampling.has_seed()) sampling.set_seed(Random64());
}

}  // namespace

uint64_t Random64() {
  thread_local std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

absl::StatusOr<v1::DecodeRequest> ToDecodeRequest(const ServedModel& model, const Tenant& tenant,
                                                  const v1::GenerateRequest& request, const std::string& request_id,
                                                  const std::vector<int32_t>& prompt_ids) {
  if (request.has_priority() && request.priority() < tenant.priority) {
    return absl::InvalidArgumentError(absl::StrCat("priority: is ", request.priority(), "; tenant ", tenant.name,
                                                   " may ask for ", tenant.priority, " or later"));
  }
  v1::DecodeRequest decode;
  decode.set_request_id(request_id);
  decode.mutable_prompt_ids()->Add(prompt_ids.begin(), prompt_ids.end());
  *decode.mutable_sampling() = request.sampling();
  FillSampling(model.defaults.sampling, *decode.mutable_sampling());
  const int room = model.context_max - static_cast<int>(prompt_ids.size());
  const int wanted = request.has_max_tokens() ? request.max_tokens() : model.defaults.max_tokens.value_or(room);
  decode.set_max_tokens(request.has_max_tokens() ? wanted : std::min(wanted, room));
  decode.set_min_tokens(request.min_tokens());
  decode.set_ignore_eos(request.ignore_eos());
  decode.set_hash_logits(request.hash_logits());
  decode.set_report_expert_use(true);
  decode.set_report_token_experts(request.report_token_experts());
  *decode.mutable_stop_token_ids() = request.stop_token_ids();
  if (request.has_logprobs()) decode.set_top_logprobs(request.logprobs());
  decode.set_prompt_logprobs(request.echo() && request.has_logprobs());
  if (request.has_grammar()) *decode.mutable_grammar() = request.grammar();
  decode.set_priority(request.has_priority() ? request.priority() : tenant.priority);
  decode.set_cache_salt(tenant.cache_salt);
  return decode;
}

}  // namespace conclave
