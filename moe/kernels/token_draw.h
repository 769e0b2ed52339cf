// How a token is drawn from logits: what a host and a device must compute alike to the last bit. Sampler
// (router_service/sampler.h) says what the parameters mean.
//
// Weights are integers, multiples of 2^-41 of the largest one, so that sums of them are exact and their order does not
// matter. A logit's weight is exp((logit - largest) / temperature), from additions and multiplications of doubles
// alone, each rounded: a C library, or a device's, may answer differently elsewhere, and the drawn id must not.
#ifndef CONCLAVE_MOE_KERNELS_TOKEN_DRAW_H_
#define CONCLAVE_MOE_KERNELS_TOKEN_DRAW_H_

#include <cstdint>
#include <limits>

#include "moe/kernels/rounded_math.h"

namespace conclave {

// One row's parameters, as a device reads them. Where they say temperature 0 or top_k 1, the draw is the largest logit.
struct TokenDraw {
  float temperature = 0.0f;
  float top_p = 1.0f;
  float min_p = 0.0f;
  float uniform = 0.0f;  // the random number, in [0, 1)
  int32_t top_k = 0;     // 0: all
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  int32_t first_change = 0;  // of the row's LogitChange, counted in int32 from where the step's tables begin
  int32_t changes = 0;
  int32_t top_logprobs = -1;   // of how many of the most likely ids DrawnLogits are wanted; -1: they are not
  int32_t first_word = 0;      // of the row's DrawnLogits, counted in words from where the step's begin
  int32_t given = -1;          // the id is this one, known already, and nothing is drawn; -1: it is not
  constexpr bool takes_largest() const { return temperature == 0.0f || top_k == 1; }
};

// What happens to one id's logit before the draw.
struct LogitChange {
  int32_t id = 0;
  float bias = 0.0f;       // kForbidden: it may not be drawn
  int32_t generated = -1;  // times in the answer so far; -1: neither there nor in the prompt, so no penalty
};

// Everything that is read as integers of a step's tables.
static_assert(sizeof(TokenDraw) == 13 * sizeof(int32_t) && sizeof(LogitChange) == 3 * sizeof(int32_t));

// What log probabilities of a row take, of its logits before any change: so many words of eight bytes, and one for each
// of the most likely ids, the likeliest first, the lower id among equals.
struct DrawnLogits {
  uint64_t total = 0;   // of LogitWeight(logit, largest, 1) over the row
  float largest = 0.0f;
  float drawn = 0.0f;   // of the id that was drawn, or given
};
struct LikelyToken {
  int32_t id = -1;
  float logit = 0.0f;
};
inline constexpr int32_t kDrawnLogitsWords = 2;
static_assert(sizeof(DrawnLogits) == kDrawnLogitsWords * sizeof(uint64_t) && sizeof(LikelyToken) == sizeof(uint64_t));
// Of TokenDraw::top_logprobs.
inline constexpr int32_t kTopLogprobsMax = 64;

namespace token_draw {

using rounded::ExpOfNonPositive;
using rounded::Plus;
using rounded::Times;

inline constexpr float kForbidden = -std::numeric_limits<float>::infinity();

inline constexpr double kWeightOne = 0x1p41;  // of the largest logit; kVocabMax of it are below 2^64

// A share of the largest weight, in [0, 1], as a weight.
CONCLAVE_ON_BOTH uint64_t WeightOf(double share) {
  return static_cast<uint64_t>(static_cast<int64_t>(Times(share, kWeightOne)));
}

// inverse_temperature: 1 / double{temperature}.
CONCLAVE_ON_BOTH double Exponent(float logit, float largest, double inverse_temperature) {
  return Times(Plus(static_cast<double>(logit), -static_cast<double>(largest)), inverse_temperature);
}
CONCLAVE_ON_BOTH uint64_t LogitWeight(float logit, float largest, double inverse_temperature) {
  return WeightOf(ExpOfNonPositive(Exponent(logit, largest, inverse_temperature)));
}

// The largest weight sum that is not yet top_p of `total`; top_p < 1.
CONCLAVE_ON_BOTH uint64_t BelowTopP(float top_p, uint64_t total) {
  const double wanted = Times(static_cast<double>(top_p), static_cast<double>(total));
  const uint64_t whole = static_cast<uint64_t>(wanted);
  return static_cast<double>(whole) == wanted && whole > 0 ? whole - 1 : whole;
}

// The drawn id is the first one whose cumulative weight is above this.
CONCLAVE_ON_BOTH uint64_t DrawnWeight(float uniform, uint64_t total) {
  return static_cast<uint64_t>(Times(static_cast<double>(uniform), static_cast<double>(total)));
}

// A penalty near zero may carry a logit beyond the finite numbers.
CONCLAVE_ON_BOTH float Finite(float value) {
  constexpr float kMost = 3.402823466e38f;
  static_assert(kMost == std::numeric_limits<float>::max());
  return value > kMost ? kMost : value < -kMost ? -kMost : value;
}

// The bias first, then the penalties of an id that was seen: repetition, frequency, presence.
CONCLAVE_ON_BOTH float Biased(float logit, float bias) { return Finite(Plus(logit, bias)); }
CONCLAVE_ON_BOTH float Penalised(float logit, int32_t generated, float repetition, float frequency, float presence) {
#ifdef __CUDA_ARCH__
  const float divided = __fdiv_rn(logit, repetition);
#else
  const float divided = logit / repetition;
#endif
  logit = Finite(logit > 0 ? divided : Times(logit, repetition));
  if (generated > 0) {
    logit = Plus(logit, -Times(frequency, static_cast<float>(generated)));
    logit = Plus(logit, -presence);
  }
  return Finite(logit);
}

// What `change` makes of a logit of the row: minus infinity of one that is forbidden. One that is not finite stays so.
CONCLAVE_ON_BOTH float Changed(float logit, const LogitChange& change, const TokenDraw& draw) {
  if (!(logit - logit == 0)) return logit;
  if (change.bias == kForbidden) return kForbidden;
  logit = Biased(logit, change.bias);
  if (change.generated < 0) return logit;
  return Penalised(logit, change.generated, draw.repetition_penalty, draw.frequency_penalty, draw.presence_penalty);
}

}  // namespace token_draw
}  // namespace conclave

#endif  // CONCLAVE_MOE_KERNELS_TOKEN_DRAW_H_
