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
#include "moe/kernels/token_draw.h"

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

// What bias and the tokens of one sequence do to logits. Used by one thread.
class TokenHistory {
 public:
  TokenHistory(absl::Span<const int32_t> prompt_ids, absl::Span<const int32_t> generated_ids,
               absl::Span<const std::pair<int32_t, float>> logit_bias = {});
  void AddGenerated(int32_t id);
  // Until Allow these may not be drawn, whatever else is known of them. ids: none twice. Once.
  void Forbid(absl::Span<const int32_t> ids);
  void Allow();
  // Every id that has a bias, was seen or was forbidden, none twice.
  absl::Span<const LogitChange> changes() const { return changes_; }

 private:
  LogitChange& Of(int32_t id);
  std::vector<LogitChange> changes_;
  std::vector<std::pair<size_t, float>> forbidden_;  // their places in changes_, and the bias that each had
  absl::flat_hash_map<int32_t, size_t> place_;  // in changes_
};

// Uniform in [0, 1), 24 bits, from Philox4x32-10 (Salmon et al. 2011) with key = seed, counter = (position, choice).
float UniformAt(uint64_t seed, int64_t position, int choice);

// The logits are adjusted: bias first, then the repetition penalty (Keskar et al. 2019, section 4.1), then frequency
// and presence; forbidden ids fall out. Of softmax(adjusted / temperature) stay the top_k most likely that have at
// least min_p of the most likely one's probability (Nguyen et al. 2024), then the smallest set of the most likely that
// reaches top_p of what is left (Holtzman et al. 2020). Drawn from in order of (logit descending, id ascending), with
// weights of token_draw.h: a device that draws (Transformer::drawn_ids) takes the same id.
// Owns scratch for one engine; used by one thread.
class Sampler {
 public:
  explicit Sampler(int vocab);
  // The token that follows `position` tokens. logits: [vocab], every value finite, else INTERNAL. `history` may be null
  // where there are no penalties; the bias is that of params. `allowed`: bit id % 32 of word id / 32 is set where an id
  // may be drawn; empty: all may. INVALID_ARGUMENT: every id is forbidden.
  // REQUIRES: params.Validate().ok(); all ids in [0, vocab); allowed has a bit for every id, or is empty
  absl::StatusOr<int32_t> Sample(absl::Span<const float> logits, const SamplingParams& params, int64_t position,
                                 const TokenHistory* history = nullptr, absl::Span<const int32_t> forbidden = {},
                                 absl::Span<const uint32_t> allowed = {});

 private:
  static constexpr int kTiers = 400;
  // Where a walk through the ids, most likely first, came to an end.
  struct Place {
    int32_t id = 0;
    int64_t rank = 0;  // ids up to and with this one
    uint64_t sum = 0;  // their weights
  };

  void Adjust(absl::Span<const float> logits, const SamplingParams& params, const TokenHistory* history,
              absl::Span<const int32_t> forbidden, absl::Span<const uint32_t> allowed);
  uint64_t Weight(float logit) const { return token_draw::LogitWeight(logit, largest_, inverse_temperature_); }
  int64_t CountAtLeast(absl::Span<const float> logits, uint64_t weight_min) const;
  int32_t Draw(absl::Span<const float> logits, const SamplingParams& params, float uniform);
  void FillTiers(absl::Span<const float> logits);
  void SortTier(absl::Span<const float> logits, int tier);
  template <typename Reached>
  Place Walk(absl::Span<const float> logits, int64_t rank_max, Reached reached);

  const int vocab_;
  std::vector<float> adjusted_;  // [vocab]
  // Of the row at hand. Ids are put into tiers by their weight, so that a walk adds up whole tiers and only the one in
  // which it ends is sorted.
  float largest_ = 0;
  double inverse_temperature_ = 1;
  std::vector<uint16_t> tier_;  // [vocab]
  std::array<int32_t, kTiers> tier_count_;
  std::array<uint64_t, kTiers> tier_weight_;
  int tier_last_ = 0;           // the last one with any weight
  int tier_sorted_ = -1;        // which tier stands in order_
  std::vector<int32_t> order_;  // up to [vocab]
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_SAMPLER_H_
