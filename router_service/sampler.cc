#include "router_service/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "router_service/philox.h"

namespace conclave {
namespace {

// Exponents x <= 0 to tiers: steps of 1/32 down to -8, where nearly all weight is, then steps of 1/4 down to -44. The
// last tier has all the rest. Never falls as x falls, and never puts equal exponents apart.
int TierOf(double x, int tiers) {
  constexpr double kFineEnd = -8, kCoarseEnd = -44;
  constexpr int kFineTiers = 256, kCoarseTiers = 144;
  static_assert(kFineTiers == -kFineEnd * 32 && kCoarseTiers == (kFineEnd - kCoarseEnd) * 4);
  if (x > kFineEnd) return static_cast<int>(x * -32);
  if (x > kCoarseEnd) return std::min(kFineTiers + static_cast<int>((kFineEnd - x) * 4), tiers - 1);
  return tiers - 1;
}

// A key that orders like the float does, for integers are compared faster. Finite floats only.
int32_t OrderKey(float value) {
  const int32_t bits = std::bit_cast<int32_t>(value + 0.0f);  // -0 becomes +0, for they are equal
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

constexpr int32_t kExponentBits = 0x7f800000;  // all set: infinity or not a number

constexpr float kPenaltyMax = 2.0f, kLogitBiasMax = 100.0f;
constexpr size_t kLogitBiasEntriesMax = 4096;

// The most likely id, the lowest among equals. REQUIRES: no NaN
int32_t Best(absl::Span<const float> logits) {
  int32_t largest = std::numeric_limits<int32_t>::min();
  for (float logit : logits) largest = std::max(largest, OrderKey(logit));
  const auto best =
      std::find_if(logits.begin(), logits.end(), [largest](float logit) { return OrderKey(logit) == largest; });
  return static_cast<int32_t>(best - logits.begin());
}

}  // namespace

absl::Status SamplingParams::Validate() const {
  // Written so that NaN fails too.
  if (!(temperature >= 0.0f && std::isfinite(temperature))) {
    return absl::InvalidArgumentError(absl::StrCat("temperature is ", temperature, "; it must be a number >= 0"));
  }
  if (!(top_p > 0.0f && top_p <= 1.0f)) {
    return absl::InvalidArgumentError(absl::StrCat("top_p is ", top_p, "; it must be in (0, 1]"));
  }
  if (top_k < 0) return absl::InvalidArgumentError(absl::StrCat("top_k is ", top_k, "; it must be >= 0 (0: all)"));
  if (!(min_p >= 0.0f && min_p <= 1.0f)) {
    return absl::InvalidArgumentError(absl::StrCat("min_p is ", min_p, "; it must be in [0, 1]"));
  }
  if (!(repetition_penalty > 0.0f && std::isfinite(repetition_penalty))) {
    return absl::InvalidArgumentError(
        absl::StrCat("repetition_penalty is ", repetition_penalty, "; it must be a number above 0"));
  }
  if (!(std::abs(presence_penalty) <= kPenaltyMax)) {
    return absl::InvalidArgumentError(
        absl::StrCat("presence_penalty is ", presence_penalty, "; it must be in [-2, 2]"));
  }
  if (!(std::abs(frequency_penalty) <= kPenaltyMax)) {
    return absl::InvalidArgumentError(
        absl::StrCat("frequency_penalty is ", frequency_penalty, "; it must be in [-2, 2]"));
  }
  if (logit_bias.size() > kLogitBiasEntriesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("logit_bias has ", logit_bias.size(), " entries; at most ", kLogitBiasEntriesMax, " are taken"));
  }
  for (const auto& [id, bias] : logit_bias) {
    if (!(std::abs(bias) <= kLogitBiasMax)) {
      return absl::InvalidArgumentError(absl::StrCat("logit_bias[", id, "] is ", bias, "; it must be in [-100, 100]"));
    }
  }
  if (choice < 0) return absl::InvalidArgumentError(absl::StrCat("choice is ", choice, "; it must be >= 0"));
  return absl::OkStatus();
}

float UniformAt(uint64_t seed, int64_t position, int choice) {
  const auto low = [](uint64_t value) { return static_cast<uint32_t>(value); };
  const auto high = [](uint64_t value) { return static_cast<uint32_t>(value >> 32); };
  const uint64_t place = static_cast<uint64_t>(position);
  const auto words = Philox4x32({low(place), high(place), static_cast<uint32_t>(choice), 0}, {low(seed), high(seed)});
  return static_cast<float>(words[0] >> 8) * 0x1p-24f;
}

TokenHistory::TokenHistory(absl::Span<const int32_t> prompt_ids, absl::Span<const int32_t> generated_ids,
                           absl::Span<const std::pair<int32_t, float>> logit_bias) {
  for (const auto& [id, bias] : logit_bias) Of(id).bias = bias;
  for (int32_t id : prompt_ids) Of(id).generated = 0;
  for (int32_t id : generated_ids) AddGenerated(id);
}

void TokenHistory::AddGenerated(int32_t id) {
  LogitChange& change = Of(id);
  change.generated = std::max(change.generated, 0) + 1;
}

void TokenHistory::Forbid(absl::Span<const int32_t> ids) {
  for (int32_t id : ids) {
    float& bias = Of(id).bias;
    forbidden_.emplace_back(place_.at(id), bias);
    bias = token_draw::kForbidden;
  }
}

void TokenHistory::Allow() {
  for (const auto& [place, bias] : forbidden_) changes_[place].bias = bias;
  forbidden_.clear();
}

LogitChange& TokenHistory::Of(int32_t id) {
  const auto [entry, added] = place_.try_emplace(id, changes_.size());
  if (added) changes_.push_back({.id = id});
  return changes_[entry->second];
}

Sampler::Sampler(int vocab) : vocab_(vocab), tier_(vocab) {
  CONCLAVE_CHECK(vocab >= 1) << vocab;
  adjusted_.reserve(vocab);
  order_.reserve(vocab);
}

absl::StatusOr<int32_t> Sampler::Sample(absl::Span<const float> logits, const SamplingParams& params, int64_t position,
                                        const TokenHistory* history, absl::Span<const int32_t> forbidden,
                                        absl::Span<const uint32_t> allowed) {
  CONCLAVE_CHECK(static_cast<int>(logits.size()) == vocab_) << logits.size() << " logits, vocab " << vocab_;
  int32_t odd = 0;
  for (float logit : logits) odd |= (std::bit_cast<int32_t>(logit) & kExponentBits) == kExponentBits;
  if (odd != 0) {
    const auto bad = std::find_if(logits.begin(), logits.end(), [](float logit) { return !std::isfinite(logit); });
    return absl::InternalError(absl::StrCat("the logit of token ", bad - logits.begin(), " at position ", position,
                                            " is ", *bad, "; the model's weights or a kernel are damaged"));
  }
  if (params.has_penalties() || !params.logit_bias.empty() || !forbidden.empty() || !allowed.empty()) {
    Adjust(logits, params, history, forbidden, allowed);
    logits = adjusted_;
  }
  const int32_t best = Best(logits);
  if (std::isinf(logits[best])) {
    return absl::InvalidArgumentError("stop_token_ids, min_tokens: every token is forbidden before min_tokens");
  }
  if (params.temperature == 0.0f || params.top_k == 1) return best;
  largest_ = logits[best];
  inverse_temperature_ = 1.0 / double{params.temperature};
  return Draw(logits, params, UniformAt(params.seed, position, params.choice));
}

void Sampler::Adjust(absl::Span<const float> logits, const SamplingParams& params, const TokenHistory* history,
                     absl::Span<const int32_t> forbidden, absl::Span<const uint32_t> allowed) {
  adjusted_.assign(logits.begin(), logits.end());
  for (const auto& [id, bias] : params.logit_bias) adjusted_[id] = token_draw::Biased(adjusted_[id], bias);
  if (params.has_penalties()) {
    CONCLAVE_CHECK(history != nullptr) << "penalties without a history";
    for (const LogitChange& change : history->changes()) {
      if (change.generated < 0) continue;
      adjusted_[change.id] = token_draw::Penalised(adjusted_[change.id], change.generated, params.repetition_penalty,
                                                   params.frequency_penalty, params.presence_penalty);
    }
  }
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  for (int32_t id : forbidden) adjusted_[id] = kNever;
  if (allowed.empty()) return;
  for (int32_t id = 0; id < vocab_; ++id) {
    adjusted_[id] = (allowed[id >> 5] >> (id & 31) & 1) != 0 ? adjusted_[id] : kNever;
  }
}

int64_t Sampler::CountAtLeast(absl::Span<const float> logits, uint64_t weight_min) const {
  int64_t count = 0;
  for (float logit : logits) count += Weight(logit) >= weight_min;
  return count;
}

int32_t Sampler::Draw(absl::Span<const float> logits, const SamplingParams& params, float uniform) {
  FillTiers(logits);
  uint64_t total = std::accumulate(tier_weight_.begin(), tier_weight_.end(), uint64_t{0});
  int64_t kept = params.top_k > 0 ? std::min(params.top_k, vocab_) : vocab_;
  if (params.min_p > 0.0f) kept = std::min(kept, CountAtLeast(logits, token_draw::WeightOf(params.min_p)));
  if (kept < vocab_) total = Walk(logits, kept, [](uint64_t) { return false; }).sum;
  // Sums are exact, so that each of the next walks ends within what the one before has kept.
  const auto walk_beyond = [&](uint64_t bound) {
    return Walk(logits, vocab_, [bound](uint64_t sum) { return sum > bound; });
  };
  if (params.top_p < 1.0f) total = walk_beyond(token_draw::BelowTopP(params.top_p, total)).sum;
  return walk_beyond(token_draw::DrawnWeight(uniform, total)).id;
}

void Sampler::FillTiers(absl::Span<const float> logits) {
  tier_count_.fill(0);
  tier_weight_.fill(0);
  tier_sorted_ = -1;
  for (int32_t id = 0; id < vocab_; ++id) {
    const int tier = TierOf((double{logits[id]} - largest_) * inverse_temperature_, kTiers);
    tier_[id] = static_cast<uint16_t>(tier);
    ++tier_count_[tier];
    tier_weight_[tier] += Weight(logits[id]);
  }
  for (int tier = 0; tier < kTiers; ++tier) {
    if (tier_weight_[tier] > 0) tier_last_ = tier;
  }
}

// Goes through the ids, most likely first, to the first one whose cumulative weight is `reached`, or to the
// rank_max-th, or to the last one with any weight.
template <typename Reached>
Sampler::Place Sampler::Walk(absl::Span<const float> logits, int64_t rank_max, Reached reached) {
  Place place;
  for (int tier = 0; tier <= tier_last_; ++tier) {
    if (tier_count_[tier] == 0) continue;
    const bool ends_here =
        tier == tier_last_ || place.rank + tier_count_[tier] >= rank_max || reached(place.sum + tier_weight_[tier]);
    if (!ends_here) {
      place.rank += tier_count_[tier];
      place.sum += tier_weight_[tier];
      continue;
    }
    SortTier(logits, tier);
    for (int32_t id : order_) {
      const uint64_t weight = Weight(logits[id]);
      if (weight == 0) break;
      place = {id, place.rank + 1, place.sum + weight};
      if (place.rank == rank_max || reached(place.sum)) break;
    }
    return place;
  }
  return place;
}

void Sampler::SortTier(absl::Span<const float> logits, int tier) {
  if (tier_sorted_ == tier) return;
  tier_sorted_ = tier;
  order_.clear();
  for (int32_t id = 0; id < vocab_; ++id) {
    if (tier_[id] == tier) order_.push_back(id);
  }
  std::sort(order_.begin(), order_.end(),
            [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
}

}  // namespace conclave
