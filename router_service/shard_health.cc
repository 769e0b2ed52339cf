#include "router_service/shard_health.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "moe/base/log.h"

namespace conclave {
namespace {

// How often a shard's speed is compared with the others', in answers.
constexpr uint64_t kCompareEvery = 8;

}  // namespace

ShardHealth::ShardHealth(const std::vector<std::string>& names, const OutlierOptions& options, Metrics* metrics)
    : options_(options), latency_(static_cast<int>(names.size())) {
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
      shard->ejections_total =
          metrics->AddCounter("conclave_router_shard_ejections_total",
                              "Times that a shard was avoided for being late, slow or wrong.", labels);
      shard->up = metrics->AddGauge("conclave_router_shard_up", "1: the shard is reachable.", labels);
      shard->up->Set(1);
    }
    shards_.push_back(std::move(shard));
  }
}

void ShardHealth::RecordAnswer(ShardId id, int64_t rows, int64_t pairs, absl::Duration latency, absl::Time now) {
  Shard& shard = *shards_[Value(id)];
  const uint64_t calls = shard.calls.fetch_add(1, std::memory_order_relaxed) + 1;
  shard.rows.fetch_add(static_cast<uint64_t>(rows), std::memory_order_relaxed);
  const int64_t before = shard.latency_recent_ns.load(std::memory_order_relaxed);
  const int64_t latest = absl::ToInt64Nanoseconds(latency);
  shard.latency_recent_ns.store(before == 0 ? latest : before + (latest - before) / 8, std::memory_order_relaxed);
  shard.failures_in_row = shard.late_in_row = 0;
  latency_.Record(id, pairs, latency);
  if (shard.latency_seconds != nullptr) {
    shard.latency_seconds->Observe(absl::ToDoubleSeconds(latency));
    shard.rows_total->Add(static_cast<double>(rows));
  }
  if (calls % kCompareEvery != 0) return;
  const double slowness = latency_.Slowness(id, pairs, options_.slow_min);
  if (slowness > options_.slowness_max) Eject(id, absl::StrCat("is ", slowness, " times slower than the others"), now);
}

void ShardHealth::RecordFailure(ShardId id, const absl::Status& status, absl::Time now) {
  Shard& shard = *shards_[Value(id)];
  shard.calls.fetch_add(1, std::memory_order_relaxed);
  shard.failures.fetch_add(1, std::memory_order_relaxed);
  if (shard.failures_total != nullptr) shard.failures_total->Add(1);
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:         // it is gone: SetReachable
    case absl::StatusCode::kFailedPrecondition:  // we are behind, not the shard
      return;
    case absl::StatusCode::kDeadlineExceeded:
      if (++shard.late_in_row >= options_.late_max) Eject(id, "did not answer within the deadline", now);
      return;
    default:
      if (++shard.failures_in_row >= options_.failures_max) Eject(id, status.message(), now);
  }
}

void ShardHealth::RecordOutpaced(ShardId id, absl::Time now) {
  Shard& shard = *shards_[Value(id)];
  shard.calls.fetch_add(1, std::memory_order_relaxed);
  if (++shard.failures_in_row >= options_.failures_max)
    Eject(id, "was outpaced by another holder again and again", now);
}

void ShardHealth::SetReachable(ShardId id, bool reachable) {
  Shard& shard = *shards_[Value(id)];
  if (shard.reachable.exchange(reachable) == reachable) return;
  if (shard.up != nullptr) shard.up->Set(reachable ? 1 : 0);
  if (!reachable) return;
  // It may be another machine by now.
  latency_.Forget(id);
  shard.failures_in_row = shard.late_in_row = 0;
}

bool ShardHealth::MayEject(absl::Time now) const {
  const auto ejected = std::count_if(shards_.begin(), shards_.end(),
                                     [&](const auto& shard) { return shard->Ejected(now); });
  const double after = static_cast<double>(ejected) + 1;
  return ejected == 0 || after <= options_.ejected_share_max * static_cast<double>(shards_.size());
}

void ShardHealth::Eject(ShardId id, absl::string_view why, absl::Time now) {
  Shard& shard = *shards_[Value(id)];
  if (Ejected(id, now) || !MayEject(now)) return;
  if (now - shard.last_ejected > options_.forgiven_after) shard.ejections_recent = 0;
  const absl::Duration duration =
      std::min(options_.ejection_base * ++shard.ejections_recent, options_.ejection_max);
  shard.last_ejected = now + duration;
  shard.ejected_until_ns.store(absl::ToUnixNanos(now + duration), std::memory_order_relaxed);
  shard.failures_in_row = shard.late_in_row = 0;
  // Judged anew when it is back: what it did before would eject it at once.
  latency_.Forget(id);
  shard.ejections.fetch_add(1, std::memory_order_relaxed);
  if (shard.ejections_total != nullptr) shard.ejections_total->Add(1);
  LogWarning(absl::StrCat("expert shard ", shard.name, " ", why, "; avoided for ", absl::FormatDuration(duration)));
}

std::vector<ShardFigures> ShardHealth::Figures(absl::Time now) const {
  std::vector<ShardFigures> figures;
  for (const auto& shard : shards_) {
    figures.push_back({shard->name, shard->reachable, shard->Ejected(now), shard->calls, shard->failures, shard->rows,
                       absl::Nanoseconds(shard->latency_recent_ns.load(std::memory_order_relaxed)), shard->ejections});
  }
  return figures;
}

void ForgetShardGauges(const std::string& shard, Metrics& metrics) {
  metrics.RemoveGauge("conclave_router_shard_up", {{"shard", shard}});
  metrics.RemoveGauge("conclave_router_shard_epoch", {{"shard", shard}});
}

}  // namespace conclave
