// Chooses the next token. Random numbers are a pure function of (seed, position, choice), so that batch mates,
// restarts and resumed streams cannot matter.
#ifndef CONCLAVE_ROUTER_SERVICE_SAMPLER_H_
#define CONCLAVE_ROUTER_SERVICE_SAMPLER_H_

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace conclave {

// How the next token is chosen.
struct SamplingParams {
  float temperature = 0.0f;  // 0: the most likely token (the lowest id among equals)
  float top_p = 1.0f;        // (0, 1]
  int top_k = 0;             // 0: all
  uint64_t seed = 0;
  int choice = 0;                 // index among the n answers to one request
  absl::Status Validate() const;  // INVALID_ARGUMENT names the field
};

// Uniform in [0, 1), 24 bits, from Philox4x32-10 (Salmon et al. 2011) with key = seed, counter = (position, choice).
float UniformAt(uint64_t seed, int64_t position, int choice);

// exp(x) for x <= 0, within 4e-16 of it relatively; 0 below -700. Only additions and multiplications of doubles in one
// order, because a C library may answer differently on another CPU and the sampled id must not.
double ExpOfNonPositive(double x);

// softmax(logits / temperature), cut to the top_k most likely, then to the smallest set of the most likely that reaches
// top_p of what is left (Holtzman et al. 2020), then drawn from in order of (logit descending, id ascending).
// Owns scratch for one engine; used by one thread.
class Sampler {
 public:
  explicit Sampler(int vocab);
  // The token that follows `position` tokens. logits: [vocab], every value finite, else INTERNAL.
  // REQUIRES: params.Validate().ok()
  absl::StatusOr<int32_t> Sample(absl::Span<const float> logits, const SamplingParams& params, int64_t position);

 private:
  static constexpr int kTiers = 400;
  // Where a walk through the ids, most likely first, came to an end.
  struct Place {
    int32_t id = 0;
    int64_t rank = 0;  // ids up to and with this one
    double sum = 0;    // their weights
  };

  int32_t Draw(absl::Span<const float> logits, const SamplingParams& params, double uniform);
  void FillTiers(absl::Span<const float> logits);
  void SortTier(absl::Span<const float> logits, int tier);
  template <typename Reached>
  Place Walk(absl::Span<const float> logits, int64_t rank_max, Reached reached);

  const int vocab_;
  // Of the row at hand. Weights are exp((logit - largest) / temperature). Ids are put into tiers by their weight, so
  // that a walk adds up whole tiers and only the one in which it ends is sorted.
  double largest_ = 0, temperature_ = 1;
  std::vector<uint16_t> tier_;  // [vocab]
  std::array<int32_t, kTiers> tier_count_;
  std::array<double, kTiers> tier_weight_;  // sums in ascending order of ids
  int tier_last_ = 0;                       // the last one with any weight
  int tier_sorted_ = -1;                    // which tier stands in order_
  std::vector<int32_t> order_;              // up to [vocab]
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_SAMPLER_H_
