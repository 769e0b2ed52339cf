// Chooses the next token. Random numbers are a pure function of (seed, position, choice), so that batch mates,
// restarts and resumed streams cannot matter.
#ifndef CONCLAVE_ROUTER_SERVICE_SAMPLER_H_
#define CONCLAVE_ROUTER_SERVICE_SAMPLER_H_

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
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
  int choice = 0;                                     // index among the n answers to one request
  float min_p = 0.0f;                                 // [0, 1]
  float repetition_penalty = 1.0f;                    // above 0
  float presence_penalty = 0.0f;                      // [-2, 2]
  float frequency_penalty = 0.0f;                     // [-2, 2]
  std::vector<std::pair<int32_t, float>> logit_bias;  // (id, [-100, 100]), ascending ids, none twice

  bool has_penalties() const {
    return repetition_penalty != 1.0f || presence_penalty != 0.0f || frequency_penalty != 0.0f;
  }
  absl::Status Validate() const;  // INVALID_ARGUMENT names the field
};

// The tokens of one sequence, as penalties see them. Used by one thread.
class TokenHistory {
 public:
  // What an id has been so far.
  struct Seen {
    bool in_prompt = false;
    int32_t generated = 0;  // times
  };

  TokenHistory(absl::Span<const int32_t> prompt_ids, absl::Span<const int32_t> generated_ids);
  void AddGenerated(int32_t id) { ++seen_[id].generated; }
  const absl::flat_hash_map<int32_t, Seen>& seen() const { return seen_; }

 private:
  absl::flat_hash_map<int32_t, Seen> seen_;
};

// Uniform in [0, 1), 24 bits, from Philox4x32-10 (Salmon et al. 2011) with key = seed, counter = (position, choice).
float UniformAt(uint64_t seed, int64_t position, int choice);

// exp(x) for x <= 0, within 4e-16 of it relatively; 0 below -700. Only additions and multiplications of doubles in one
// order, because a C library may answer differently on another CPU and the sampled id must not.
double ExpOfNonPositive(double x);

// The logits are adjusted: bias first, then the repetition penalty (Keskar et al. 2019, section 4.1), then frequency
// and presence; forbidden ids fall out. Of softmax(adjusted / temperature) stay the top_k most likely that have at
// least min_p of the most likely one's probability (Nguyen et al. 2024), then the smallest set of the most likely that
// reaches top_p of what is left (Holtzman et al. 2020). Drawn from in order of (logit descending, id ascending).
// Owns scratch for one engine; used by one thread.
class Sampler {
 public:
  explicit Sampler(int vocab);
  // The token that follows `position` tokens. logits: [vocab], every value finite, else INTERNAL. `history` may be null
  // where there are no penalties. INVALID_ARGUMENT: `forbidden` holds every id.
  // REQUIRES: params.Validate().ok(); all ids in [0, vocab)
  absl::StatusOr<int32_t> Sample(absl::Span<const float> logits, const SamplingParams& params, int64_t position,
                                 const TokenHistory* history = nullptr, absl::Span<const int32_t> forbidden = {});

 private:
  static constexpr int kTiers = 400;
  // Where a walk through the ids, most likely first, came to an end.
  struct Place {
    int32_t id = 0;
    int64_t rank = 0;  // ids up to and with this one
    double sum = 0;    // their weights
  };

  void Adjust(absl::Span<const float> logits, const SamplingParams& params, const TokenHistory* history,
              absl::Span<const int32_t> forbidden);
  int64_t CountAtLeast(absl::Span<const float> logits, double weight_min) const;
  int32_t Draw(absl::Span<const float> logits, const SamplingParams& params, double uniform);
  void FillTiers(absl::Span<const float> logits);
  void SortTier(absl::Span<const float> logits, int tier);
  template <typename Reached>
  Place Walk(absl::Span<const float> logits, int64_t rank_max, Reached reached);

  const int vocab_;
  std::vector<float> adjusted_;  // [vocab]
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
