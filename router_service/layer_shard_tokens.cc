#include "router_service/layer_shard_tokens.h"

#include "absl/strings/str_cat.h"
#include "router_service/expert_balance.h"

namespace conclave {

LayerShardTokens::LayerShardTokens(absl::Span<const LayerId> layers, const std::vector<std::string>& shards,
                                   Metrics* metrics)
    : shards_(shards.size()), counts_(layers.size() * shards.size()), shown_counts_(counts_.size()) {
  if (metrics == nullptr || layers.empty()) return;
  rows_.assign(static_cast<size_t>(Value(layers.back())) + 1, -1);
  for (size_t row = 0; row < layers.size(); ++row) {
    rows_[static_cast<size_t>(Value(layers[row]))] = static_cast<int>(row);
    const std::string layer = absl::StrCat(Value(layers[row]));
    for (const std::string& shard : shards) shown_.push_back(AddLayerShardTokens(*metrics, layer, shard));
    balancedness_.push_back(AddLayerBalancedness(*metrics, layer, "shards"));
  }
  hook_ = metrics->OnScrape([this] { Refresh(); });
}

void LayerShardTokens::Refresh() {
  std::vector<std::vector<uint64_t>> totals(balancedness_.size());
  for (size_t i = 0; i < counts_.size(); ++i) {
    const uint64_t count = counts_[i].load(std::memory_order_relaxed);
    shown_[i]->Add(static_cast<double>(count - shown_counts_[i]));
    shown_counts_[i] = count;
    totals[i / shards_].push_back(count);
  }
  const auto recent = window_.Update(totals);
  for (size_t row = 0; row < recent.size(); ++row) balancedness_[row]->Set(Balancedness(recent[row]));
}

}  // namespace conclave
