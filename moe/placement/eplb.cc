#include "moe/placement/eplb.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <utility>

#include "moe/base/check.h"

namespace conclave {
namespace {

// A step must lower the cost by this share. The cost grows with the eighth power of the loads: the highest decides, and
// where several shards are as high, relieving one of them counts too.
constexpr double kStepGain = 0.05;
// The plan ends where max/mean is within this share of what all steps reach.
constexpr double kGoodEnough = 0.01;
constexpr int kStepsMax = 64;

double CostOf(absl::Span<const double> loads, double mean) {
  double cost = 0;
  for (const double load : loads) {
    const double square = load / mean * (load / mean);
    cost += square * square * square * square;
  }
  return cost;
}

class LayerPlanner {
 public:
  LayerPlanner(absl::Span<const double> tokens, absl::Span<const EplbShard> shards, const ExpertHolders& holders,
               const EplbOptions& options)
      : tokens_(tokens), shards_(shards), options_(options), holders_(holders), held_(shards.size()) {
    for (const std::vector<int32_t>& list : holders_) {
      for (const int32_t shard : list) ++held_[static_cast<size_t>(shard)];
      old_copies_.push_back(static_cast<int>(list.size()));
    }
  }

  EplbPlan Plan() {
    EplbPlan plan;
    Update();
    plan.imbalance_now = MaxOverMean(loads_);
    PlaceOrphans(plan);
    const size_t needed = plan.steps.size();
    const double before = MaxOverMean(loads_);
    plan.imbalance_planned = before;
    if (before * (1 - options_.gain_min) < 1) return plan;  // max/mean is 1 at the least: no steps bring so much
    std::vector<double> after;                              // of each step from here on
    while (static_cast<int>(plan.steps.size()) < kStepsMax) {
      const std::optional<EplbStep> step = BestStep();
      if (!step.has_value()) break;
      Take(*step);
      plan.steps.push_back(*step);
      after.push_back(MaxOverMean(loads_));
    }
    if (after.empty() || after.back() > before * (1 - options_.gain_min)) {
      plan.steps.resize(needed);
      return plan;
    }
    const auto enough = std::find_if(after.begin(), after.end(),
                                     [&](double imbalance) { return imbalance <= after.back() * (1 + kGoodEnough); });
    plan.imbalance_planned = *enough;
    plan.steps.resize(needed + static_cast<size_t>(enough - after.begin()) + 1);
    return plan;
  }

 private:
  int Shards() const { return static_cast<int>(shards_.size()); }
  bool Holds(int32_t shard, size_t expert) const {
    return std::find(holders_[expert].begin(), holders_[expert].end(), shard) != holders_[expert].end();
  }
  void Update() {
    loads_ = SplitEvenly(tokens_, holders_, Shards());
    mean_ = std::accumulate(loads_.begin(), loads_.end(), 0.0) / std::max(1, Shards());
  }

  // Whether the shard can take one more, and what it must let go for it: the redundant copy that matters least.
  bool MakesRoom(int32_t shard, std::optional<ExpertId>* evict) const {
    const EplbShard& room = shards_[static_cast<size_t>(shard)];
    evict->reset();
    if (room.frozen) return false;
    if (held_[static_cast<size_t>(shard)] < room.slots) return true;
    double least = 0;
    for (size_t expert = 0; expert < holders_.size(); ++expert) {
      if (old_copies_[expert] <= std::max(1, options_.copies_min) || !Holds(shard, expert)) continue;
      if (taken_.count({shard, static_cast<int32_t>(expert)}) > 0) continue;
      const double share = tokens_[expert] / static_cast<double>(holders_[expert].size());
      if (evict->has_value() && share >= least) continue;
      *evict = ExpertId{static_cast<int32_t>(expert)};
      least = share;
    }
    return evict->has_value();
  }

  void Apply(const EplbStep& step) {
    if (step.evict.has_value()) {
      std::vector<int32_t>& list = holders_[static_cast<size_t>(Value(*step.evict))];
      list.erase(std::find(list.begin(), list.end(), step.to));
    }
    holders_[static_cast<size_t>(Value(step.expert))].push_back(step.to);
  }
  void Undo(const EplbStep& step) {
    holders_[static_cast<size_t>(Value(step.expert))].pop_back();
    if (step.evict.has_value()) holders_[static_cast<size_t>(Value(*step.evict))].push_back(step.to);
  }
  void Take(const EplbStep& step) {
    Apply(step);
    step.evict.has_value() ? --old_copies_[static_cast<size_t>(Value(*step.evict))]
                           : ++held_[static_cast<size_t>(step.to)];
    taken_.insert({step.to, Value(step.expert)});
    Update();
  }

  // Shards from the one with most to do to the one with least, or the other way round; the first of equals first.
  std::vector<int32_t> ByLoad(bool descending) const {
    std::vector<int32_t> order(shards_.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return descending ? loads_[a] > loads_[b] : loads_[a] < loads_[b];
    });
    return order;
  }

  void PlaceOrphans(EplbPlan& plan) {
    std::vector<size_t> orphans;
    for (size_t expert = 0; expert < holders_.size(); ++expert) {
      if (holders_[expert].empty()) orphans.push_back(expert);
    }
    std::stable_sort(orphans.begin(), orphans.end(), [&](size_t a, size_t b) { return tokens_[a] > tokens_[b]; });
    for (const size_t expert : orphans) {
      for (const int32_t shard : ByLoad(/*descending=*/false)) {
        EplbStep step{ExpertId{static_cast<int32_t>(expert)}, shard, std::nullopt};
        if (!MakesRoom(shard, &step.evict)) continue;
        Take(step);
        plan.steps.push_back(step);
        break;
      }
    }
  }

  // The further copy that relieves the fullest shard most, or, where none helps that one, the next.
  std::optional<EplbStep> BestStep() {
    if (mean_ <= 0) return std::nullopt;
    const double cost = CostOf(loads_, mean_);
    for (const int32_t full : ByLoad(/*descending=*/true)) {
      if (loads_[full] <= mean_) break;
      std::optional<EplbStep> best;
      double best_cost = cost * (1 - kStepGain);
      for (int32_t to = 0; to < Shards(); ++to) {
        std::optional<ExpertId> evict;
        if (loads_[to] >= loads_[full] || !MakesRoom(to, &evict)) continue;
        for (size_t expert = 0; expert < holders_.size(); ++expert) {
          if (tokens_[expert] <= 0 || !Holds(full, expert) || Holds(to, expert)) continue;
          const EplbStep step{ExpertId{static_cast<int32_t>(expert)}, to, evict};
          Apply(step);
          const double then = CostOf(SplitEvenly(tokens_, holders_, Shards()), mean_);
          Undo(step);
          if (then >= best_cost) continue;
          best_cost = then;
          best = step;
        }
      }
      if (best.has_value()) return best;
    }
    return std::nullopt;
  }

  const absl::Span<const double> tokens_;
  const absl::Span<const EplbShard> shards_;
  const EplbOptions options_;
  ExpertHolders holders_;
  std::vector<int> held_;                           // [shards] experts of the layer
  std::vector<int> old_copies_;                     // [experts] that were there before and have not been evicted
  std::set<std::pair<int32_t, int32_t>> taken_;     // shards and experts of steps so far, not to be evicted again
  std::vector<double> loads_;                       // [shards]
  double mean_ = 0;
};

}  // namespace

EplbPlan PlanLayer(absl::Span<const double> tokens, absl::Span<const EplbShard> shards, const ExpertHolders& holders,
                   const EplbOptions& options) {
  CONCLAVE_CHECK(tokens.size() == holders.size()) << tokens.size() << " experts, holders of " << holders.size();
  return LayerPlanner(tokens, shards, holders, options).Plan();
}

}  // namespace conclave
