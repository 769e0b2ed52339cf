#include "router_service/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

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

// A penalty near zero may carry a logit beyond the finite numbers.
float Finite(float value) {
  return std::clamp(value, std::numeric_limits<float>::lowest(), std::numeric_limits<float>::max());
}

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

double ExpOfNonPositive(double x) {
  if (!(x > -700.0)) return 0.0;
  // x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts, so that n ln 2 loses nothing.
  constexpr double kLog2E = 1.4426950408889634, kLn2High = 0x1.62e42fefap-1, kLn2Low = 0x1.cf79abc9e3b39p-40;
  // Adding 1.5 * 2^52 rounds to the nearest integer, which then stands in the low bits.
  constexpr double kRound = 0x1.8p52;
  const double shifted = x * kLog2E + kRound;
  const double n = shifted - kRound;
  const double r = (x - n * kLn2High) - n * kLn2Low;
  // Taylor's series to r^13 / 13!: the next term is below 1e-17.
  double series = 1.0 / 6227020800.0;
  series = series * r + 1.0 / 479001600.0;
  series = series * r + 1.0 / 39916800.0;
  series = series * r + 1.0 / 3628800.0;
  series = series * r + 1.0 / 362880.0;
  series = series * r + 1.0 / 40320.0;
  series = series * r + 1.0 / 5040.0;
  series = series * r + 1.0 / 720.0;
  series = series * r + 1.0 / 120.0;
  series = series * r + 1.0 / 24.0;
  series = series * r + 1.0 / 6.0;
  series = series * r + 0.5;
  series = series * r + 1.0;
  series = series * r + 1.0;
  // 2^n by its exponent bits: n is in [-1010, 0] here, so the result is a normal number.
  const uint64_t exponent = (std::bit_cast<uint64_t>(shifted) + 1023) << 52;
  return series * std::bit_cast<double>(exponent);
}

TokenHistory::TokenHistory(absl::Span<const int32_t> prompt_ids, absl::Span<const int32_t> generated_ids) {
  for (int32_t id : prompt_ids) seen_[id].in_prompt = true;
  for (int32_t id : generated_ids) AddGenerated(id);
}

Sampler::Sampler(int vocab) : vocab_(vocab), tier_(vocab) {
  CONCLAVE_CHECK(vocab >= 1) << vocab;
  adjusted_.reserve(vocab);
  order_.reserve(vocab);
}

absl::StatusOr<int32_t> Sampler::Sample(absl::Span<const float> logits, const SamplingParams& params, int64_t position,
                                        const TokenHistory* history, absl::Span<const int32_t> forbidden) {
  CONCLAVE_CHECK(static_cast<int>(logits.size()) == vocab_) << logits.size() << " logits, vocab " << vocab_;
  int32_t odd = 0;
  for (float logit : logits) odd |= (std::bit_cast<int32_t>(logit) & kExponentBits) == kExponentBits;
  if (odd != 0) {
    const auto bad = std::find_if(logits.begin(), logits.end(), [](float logit) { return !std::isfinite(logit); });
    return absl::InternalError(absl::StrCat("the logit of token ", bad - logits.begin(), " at position ", position,
                                            " is ", *bad, "; the model's weights or a kernel are damaged"));
  }
  if (params.has_penalties() || !params.logit_bias.empty() || !forbidden.empty()) {
    Adjust(logits, params, history, forbidden);
    logits = adjusted_;
  }
  const int32_t best = Best(logits);
  if (std::isinf(logits[best])) {
    return absl::InvalidArgumentError("stop_token_ids, min_tokens: every token is forbidden before min_tokens");
  }
  if (params.temperature == 0.0f || params.top_k == 1) return best;
  largest_ = logits[best];
  temperature_ = params.temperature;
  return Draw(logits, params, UniformAt(params.seed, position, params.choice));
}

void Sampler::Adjust(absl::Span<const float> logits, const SamplingParams& params, const TokenHistory* history,
                     absl::Span<const int32_t> forbidden) {
  adjusted_.assign(logits.begin(), logits.end());
  for (const auto& [id, bias] : params.logit_bias) adjusted_[id] = Finite(adjusted_[id] + bias);
  if (params.has_penalties()) {
    CONCLAVE_CHECK(history != nullptr) << "penalties without a history";
    const float repetition = params.repetition_penalty;
    for (const auto& [id, seen] : history->seen()) {
      float logit = adjusted_[id];
      logit = Finite(logit > 0 ? logit / repetition : logit * repetition);
      if (seen.generated > 0) {
        logit -= params.frequency_penalty * static_cast<float>(seen.generated);
        logit -= params.presence_penalty;
      }
      adjusted_[id] = Finite(logit);
    }
  }
  for (int32_t id : forbidden) adjusted_[id] = -std::numeric_limits<float>::infinity();
}

int64_t Sampler::CountAtLeast(absl::Span<const float> logits, double weight_min) const {
  int64_t count = 0;
  for (float logit : logits) count += ExpOfNonPositive((double{logit} - largest_) / temperature_) >= weight_min;
  return count;
}

int32_t Sampler::Draw(absl::Span<const float> logits, const SamplingParams& params, double uniform) {
  FillTiers(logits);
  int64_t kept = params.top_k > 0 ? std::min(params.top_k, vocab_) : vocab_;
  if (params.min_p > 0.0f) kept = std::min(kept, CountAtLeast(logits, params.min_p));
  double total = 0;
  if (kept < vocab_) {
    const Place place = Walk(logits, kept, [](double) { return false; });
    kept = place.rank;
    total = place.sum;
  } else {
    for (int tier = 0; tier <= tier_last_; ++tier) total += tier_weight_[tier];
  }
  if (params.top_p < 1.0f) {
    const double wanted = double{params.top_p} * total;
    const Place place = Walk(logits, kept, [wanted](double sum) { return sum >= wanted; });
    kept = place.rank;
    total = place.sum;
  }
  // The first id whose cumulative weight passes the drawn share.
  const double drawn = uniform * total;
  return Walk(logits, kept, [drawn](double sum) { return sum > drawn; }).id;
}

void Sampler::FillTiers(absl::Span<const float> logits) {
  tier_count_.fill(0);
  tier_weight_.fill(0);
  tier_sorted_ = -1;
  for (int32_t id = 0; id < vocab_; ++id) {
    const double x = (double{logits[id]} - largest_) / temperature_;
    const int tier = TierOf(x, kTiers);
    tier_[id] = static_cast<uint16_t>(tier);
    ++tier_count_[tier];
    tier_weight_[tier] += ExpOfNonPositive(x);
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
      const double weight = ExpOfNonPositive((double{logits[id]} - largest_) / temperature_);
      if (weight == 0) break;
      place = {id, place.rank + 1, place.sum + weight};
      if (place.rank == rank_max || reached(place.sum)) return place;
    }
    // Sums in another order may round to less: then the end is in the next tier.
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
