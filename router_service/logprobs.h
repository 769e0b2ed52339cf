// Log probabilities of tokens: of the softmax over the model's raw logits, before temperature, penalties and cuts.
#ifndef CONCLAVE_ROUTER_SERVICE_LOGPROBS_H_
#define CONCLAVE_ROUTER_SERVICE_LOGPROBS_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "moe/kernels/token_draw.h"

namespace conclave {

// One token, and the most likely ones that might have stood in its place.
struct TokenLogprobs {
  int32_t id = 0;
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top;  // (id, logprob), the likeliest first, the lower id among equals
};

// The natural logarithm of `id`'s probability, and of the `top` most likely ids (all where the vocabulary is smaller).
// Probabilities are added up as the weights of token_draw.h, multiples of 2^-41 of the largest one, so that an answer
// has the same bits where a device added them. Of 129,280 ids that loses less than 6e-8 of the sum, and of a logarithm
// as much.
// logits: [vocab], every value finite. REQUIRES: 0 <= id < vocab, top >= 0
TokenLogprobs LogprobsOf(absl::Span<const float> logits, int32_t id, int top);
// The same of a row that a device drew `id` from (Transformer::drawn_logprobs).
TokenLogprobs LogprobsOf(const DrawnLogits& logits, absl::Span<const LikelyToken> top, int32_t id);

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_LOGPROBS_H_
