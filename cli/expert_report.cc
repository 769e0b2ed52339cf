#include "cli/expert_report.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/bars.h"
#include "moe/base/ids.h"
#include "moe/placement/placement.h"

namespace conclave {
namespace {

// The experts of `layer` that a shard holds; null: none.
const std::vector<ExpertId>* ExpertsHeld(const ShardHoldings& shard, int layer) {
  for (const LayerHolding& holding : shard.holdings) {
    if (Value(holding.layer) == layer) return &holding.experts;
  }
  return nullptr;
}

// A shard's bars of one layer: rows by expert, neighbours summed where there are more than `bars_max`.
std::vector<uint64_t> BarsOf(const std::vector<uint32_t>& layer_use, const std::vector<ExpertId>& experts,
                             int bars_max) {
  std::vector<uint64_t> rows;
  for (const ExpertId id : experts) {
    const size_t expert = static_cast<size_t>(Value(id));
    rows.push_back(expert < layer_use.size() ? layer_use[expert] : 0);
  }
  return SumNeighbours(rows, bars_max);
}

std::string Busiest(const std::vector<uint32_t>& layer_use, uint64_t total) {
  const auto most = std::max_element(layer_use.begin(), layer_use.end());
  if (total == 0 || most == layer_use.end()) return "none";
  return absl::StrFormat("expert %d (%d%%)", most - layer_use.begin(), *most * 100 / total);
}

// The columns of one layer: bars and share of each shard.
std::string LayerLine(int layer, const std::vector<uint32_t>& layer_use, const std::vector<ShardHoldings>& shards,
                      int bars_max, int column_width) {
  const uint64_t total = std::accumulate(layer_use.begin(), layer_use.end(), uint64_t{0});
  std::vector<std::vector<uint64_t>> bars;
  uint64_t largest = 0;
  for (const ShardHoldings& shard : shards) {
    const std::vector<ExpertId>* held = ExpertsHeld(shard, layer);
    bars.push_back(held == nullptr ? std::vector<uint64_t>{} : BarsOf(layer_use, *held, bars_max));
    for (const uint64_t value : bars.back()) largest = std::max(largest, value);
  }
  std::string line = absl::StrFormat("%5d ", layer);
  for (const std::vector<uint64_t>& shard_bars : bars) {
    absl::StrAppend(&line, " | ");
    uint64_t shard_total = 0;
    for (const uint64_t value : shard_bars) {
      absl::StrAppend(&line, Bar(value, largest));
      shard_total += value;
    }
    const int padding = column_width - static_cast<int>(shard_bars.size()) - 5;
    absl::StrAppend(&line, std::string(static_cast<size_t>(std::max(0, padding)), ' '),
                    absl::StrFormat(" %3d%%", total == 0 ? 0 : shard_total * 100 / total));
  }
  return absl::StrCat(line, " | ", Busiest(layer_use, total), "\n");
}

}  // namespace

std::vector<ShardHoldings> SingleHolder(const std::string& name, const ExpertUse& use) {
  ShardHoldings holder{name, {}};
  for (size_t layer = 0; layer < use.size(); ++layer) {
    if (use[layer].empty()) continue;
    LayerHolding& holding = holder.holdings.emplace_back();
    holding.layer = LayerId{static_cast<int32_t>(layer)};
    holding.experts = ExpertsOfShard(static_cast<int>(use[layer].size()), 0, 1);
  }
  return {holder};
}

std::string ExpertReport(const ExpertUse& use, const std::vector<ShardHoldings>& shards, int bars_max) {
  int column_width = 0;
  for (const ShardHoldings& shard : shards) {
    column_width = std::max(column_width, static_cast<int>(shard.name.size()));
    for (const LayerHolding& holding : shard.holdings) {
      column_width = std::max(column_width, std::min(bars_max, static_cast<int>(holding.experts.size())) + 5);
    }
  }
  std::string report = "layer ";
  for (const ShardHoldings& shard : shards) absl::StrAppendFormat(&report, " | %-*s", column_width, shard.name);
  absl::StrAppend(&report, " | busiest\n");
  for (size_t layer = 0; layer < use.size(); ++layer) {
    if (use[layer].empty()) continue;
    absl::StrAppend(&report, LayerLine(static_cast<int>(layer), use[layer], shards, bars_max, column_width));
  }
  return report;
}

}  // namespace conclave
