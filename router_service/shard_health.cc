#include "router_service/shard_health.h"

namespace conclave {

ShardHealth::ShardHealth(const std::vector<std::string>& names, Metrics* metrics) {
  for (const std::string& name : names) {
    auto shard = std::make_unique<Shard>();
    shard->name = name;
    if (metrics != nullptr) {
      const MetricLabels labels = {{"shard", name}};
      shard->latency_seconds =
          metrics->AddHistogram("conclave_router_shard_call_seconds",
                                "Time from sending a call to a shard to its answer.", labels, LatencyBuckets());
      shard->rows_total =
          metrics->AddCounter("conclave_router_shard_rows_total", "Rows that a shard answered.", labels);
      shard->failures_total = metrics->AddCounter("conclave_router_shard_failures_total",
                                                  "Calls that a shard did not answer well.", labels);
    }
    shards_.push_back(std::move(shard));
  }
}

void ShardHealth::Record(ShardId id, int64_t rows, absl::Duration latency, const absl::Status& status, absl::Time now) {
  Shard& shard = *shards_[Value(id)];
  shard.calls.fetch_add(1, std::memory_order_relaxed);
  shard.healthy.store(status.ok(), std::memory_order_relaxed);
  if (!status.ok()) {
    shard.avoid_until = now + kAvoidTime;
    shard.failures.fetch_add(1, std::memory_order_relaxed);
    if (shard.failures_total != nullptr) shard.failures_total->Add(1);
    return;
  }
  shard.avoid_until = absl::InfinitePast();
  shard.rows.fetch_add(static_cast<uint64_t>(rows), std::memory_order_relaxed);
  const int64_t before = shard.latency_recent_ns.load(std::memory_order_relaxed);
  const int64_t latest = absl::ToInt64Nanoseconds(latency);
  shard.latency_recent_ns.store(before == 0 ? latest : before + (latest - before) / 8, std::memory_order_relaxed);
  if (shard.latency_seconds == nullptr) return;
  shard.latency_seconds->Observe(absl::ToDoubleSeconds(latency));
  shard.rows_total->Add(static_cast<double>(rows));
}

std::vector<ShardFigures> ShardHealth::Figures() const {
  std::vector<ShardFigures> figures;
  for (const auto& shard : shards_) {
    figures.push_back({shard->name, shard->healthy, shard->calls, shard->failures, shard->rows,
                       absl::Nanoseconds(shard->latency_recent_ns.load(std::memory_order_relaxed))});
  }
  return figures;
}

}  // namespace conclave
