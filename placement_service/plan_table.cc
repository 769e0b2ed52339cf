#include "placement_service/plan_table.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace conclave {
namespace {

std::string Room(const ShardDescription& shard) {
  if (shard.revision == 0) return "of a release that cannot let experts go: left as it is";
  if (shard.expert_bytes_max == 0) return "no limit of its own";
  return absl::StrFormat("%.1f of %.1f MiB", static_cast<double>(shard.expert_bytes) / (1 << 20),
                         static_cast<double>(shard.expert_bytes_max) / (1 << 20));
}

}  // namespace

std::string PlanTable(const RoundReport& report) {
  const Pool& pool = report.pool;
  std::string text = absl::StrFormat("%-16s %-24s %8s %10s  %s\n", "shard", "address", "experts", "tokens", "room");
  for (size_t i = 0; i < pool.shards.size(); ++i) {
    const PoolShard& shard = pool.shards[i];
    size_t held = 0;
    double tokens = 0;
    for (const LayerHolding& holding : shard.description.holdings) held += holding.experts.size();
    for (const PoolLayer& layer : pool.layers) tokens += layer.shard_tokens[i];
    absl::StrAppendFormat(&text, "%-16s %-24s %8d %10.0f  %s\n", shard.description.name, shard.address, held, tokens,
                          Room(shard.description));
  }
  absl::StrAppendFormat(&text, "\nBusiest shard over the mean:\n%5s %9s %9s %9s %6s\n", "layer", "measured", "possible",
                        "planned", "moves");
  for (const LayerReport& layer : report.plan.layers) {
    absl::StrAppendFormat(&text, "%5d %9.2f %9.2f %9.2f %6d\n", Value(layer.layer), layer.measured, layer.possible,
                          layer.planned, layer.moves);
  }
  absl::StrAppendFormat(&text, "%5s %9.2f %9.2f %9.2f %6d\n", "all", report.plan.measured, report.plan.possible,
                        report.plan.planned, report.plan.moves.size() + static_cast<size_t>(report.plan.moves_left));
  if (!report.plan.moves.empty()) text += "\nNext:\n";
  for (const PoolMove& move : report.plan.moves) {
    absl::StrAppend(&text, pool.shards[move.to].description.name, " takes layer ", Value(move.layer), " expert ",
                    Value(move.expert));
    if (move.evict.has_value()) absl::StrAppend(&text, ", in the place of expert ", Value(*move.evict));
    text += "\n";
  }
  if (report.plan.moves_left > 0) absl::StrAppend(&text, "… and ", report.plan.moves_left, " moves later\n");
  absl::StrAppend(&text, "\nThis round: ", Name(report.outcome), "; ", report.loaded, " experts loaded, ",
                  report.unloaded, " let go", report.why.empty() ? "" : absl::StrCat("; ", report.why), "\n");
  return text;
}

}  // namespace conclave
