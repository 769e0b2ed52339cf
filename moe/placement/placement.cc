#include "moe/placement/placement.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/base/limits.h"

namespace conclave {
namespace {

// Experts [begin, end).
struct Range {
  int64_t begin = 0, end = 0;
};

// Part `number` of `parts`, all of one size to within one.
Range PartOf(Range whole, int64_t number, int64_t parts) {
  const int64_t size = whole.end - whole.begin;
  return {whole.begin + size * number / parts, whole.begin + size * (number + 1) / parts};
}

}  // namespace

std::vector<ExpertId> ExpertsOfShard(int expert_count, int shard_index, int shard_count, int replicas) {
  CONCLAVE_CHECK(expert_count >= 0 && shard_index >= 0 && shard_count > 0)
      << "shard " << shard_index << " of " << shard_count << " with " << expert_count << " experts";
  CONCLAVE_CHECK(replicas >= 1 && replicas <= shard_count) << replicas << " replicas on " << shard_count << " shards";
  std::vector<ExpertId> experts;
  const auto hold = [&](Range range) {
    for (int64_t expert = range.begin; expert < range.end; ++expert) {
      experts.push_back(ExpertId{static_cast<int32_t>(expert)});
    }
  };
  for (int copy = 0; copy < replicas; ++copy) {
    const int64_t number = (int64_t{shard_index} + copy) % shard_count;
    if (shard_index < shard_count) {
      hold(PartOf({0, expert_count}, number, shard_count));
      continue;
    }
    for (int64_t share = 0; share < shard_count; ++share) {
      // Each share's slice has another number: where shares are smaller than N, all further shards get as many.
      const int64_t slice = (number + share) % shard_count;
      hold(PartOf(PartOf({0, expert_count}, share, shard_count), slice, shard_count));
    }
  }
  std::sort(experts.begin(), experts.end());  // the last shards' further shares begin again at expert 0
  return experts;
}

std::string FormatExperts(absl::Span<const ExpertId> experts) {
  if (experts.empty()) return "none";
  std::string text;
  for (size_t i = 0; i < experts.size();) {
    size_t last = i;
    while (last + 1 < experts.size() && Value(experts[last + 1]) == Value(experts[last]) + 1) ++last;
    absl::StrAppend(&text, text.empty() ? "" : ", ", Value(experts[i]));
    if (last > i) absl::StrAppend(&text, "-", Value(experts[last]));
    i = last + 1;
  }
  return text;
}

namespace {

// The outer vector is by layer index * experts + expert.
using HolderLists = std::vector<std::vector<ShardId>>;

absl::Status CheckShape(absl::Span<const LayerId> layers, int experts, size_t shards) {
  if (experts < 0 || experts > limits::kExpertsPerLayerMax) {
    return absl::InvalidArgumentError(absl::StrCat("placement: ", experts, " experts in a layer"));
  }
  if (shards < 1 || shards > static_cast<size_t>(limits::kShardsMax)) {
    return absl::InvalidArgumentError(
        absl::StrCat("placement: ", shards, " shards; between 1 and ", limits::kShardsMax, " are possible"));
  }
  for (size_t i = 0; i < layers.size(); ++i) {
    const bool ascending = i == 0 || Value(layers[i - 1]) < Value(layers[i]);
    if (Value(layers[i]) < 0 || Value(layers[i]) >= limits::kLayersMax || !ascending) {
      return absl::InvalidArgumentError(absl::StrCat("placement: layer ", Value(layers[i]), " is out of order"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Placement>> Placement::Create(uint64_t epoch, absl::Span<const LayerId> layers,
                                                                   int experts,
                                                                   absl::Span<const ShardHoldings> shards) {
  if (absl::Status status = CheckShape(layers, experts, shards.size()); !status.ok()) return status;
  std::shared_ptr<Placement> placement(new Placement);
  placement->epoch_ = epoch;
  placement->shards_ = static_cast<int>(shards.size());
  placement->experts_ = experts;
  placement->layers_.assign(layers.begin(), layers.end());
  placement->index_of_layer_.assign(layers.empty() ? 0 : Value(layers.back()) + 1, -1);
  for (size_t i = 0; i < layers.size(); ++i) placement->index_of_layer_[Value(layers[i])] = static_cast<int32_t>(i);

  HolderLists lists(layers.size() * experts);
  for (size_t shard = 0; shard < shards.size(); ++shard) {
    for (const LayerHolding& holding : shards[shard].holdings) {
      const int index = placement->IndexOf(holding.layer);
      if (index < 0) {
        return absl::InvalidArgumentError(absl::StrCat("shard ", shards[shard].name, " holds experts of layer ",
                                                       Value(holding.layer), ", which has none in this model"));
      }
      for (const ExpertId expert : holding.experts) {
        const bool known = Value(expert) >= 0 && Value(expert) < experts;
        auto* list = known ? &lists[size_t{static_cast<size_t>(index)} * experts + Value(expert)] : nullptr;
        const ShardId id{static_cast<int32_t>(shard)};
        if (!known || (!list->empty() && list->back() == id)) {
          return absl::InvalidArgumentError(absl::StrCat("shard ", shards[shard].name, ": layer ", Value(holding.layer),
                                                         " expert ", Value(expert),
                                                         known ? " is listed twice" : " is not one of the model's"));
        }
        list->push_back(id);
      }
    }
  }

  placement->begin_.reserve(lists.size() + 1);
  placement->begin_.push_back(0);
  for (const std::vector<ShardId>& list : lists) {
    placement->holders_.insert(placement->holders_.end(), list.begin(), list.end());
    placement->begin_.push_back(static_cast<int32_t>(placement->holders_.size()));
  }
  return std::shared_ptr<const Placement>(std::move(placement));
}

absl::Status Placement::CheckComplete() const {
  std::string first;
  int64_t missing = 0;
  for (size_t i = 0; i + 1 < begin_.size(); ++i) {
    if (begin_[i] != begin_[i + 1]) continue;
    if (missing++ == 0) first = absl::StrCat("layer ", Value(layers_[i / experts_]), " expert ", i % experts_);
  }
  if (missing == 0) return absl::OkStatus();
  const std::string others = missing > 1 ? absl::StrCat(" (and ", missing - 1, " other experts)") : "";
  return absl::UnavailableError(
      absl::StrCat(first, others, ": no shard holds it; start the missing shards, or all with the same --shard-count"));
}

int Placement::IndexOf(LayerId layer) const {
  const int32_t number = Value(layer);
  return number >= 0 && static_cast<size_t>(number) < index_of_layer_.size() ? index_of_layer_[number] : -1;
}

absl::Span<const ShardId> Placement::Holders(LayerId layer, ExpertId expert) const {
  const int index = IndexOf(layer);
  if (index < 0 || Value(expert) < 0 || Value(expert) >= experts_) return {};
  const int64_t at = int64_t{index} * experts_ + Value(expert);
  return absl::MakeConstSpan(holders_).subspan(begin_[at], begin_[at + 1] - begin_[at]);
}

}  // namespace conclave
