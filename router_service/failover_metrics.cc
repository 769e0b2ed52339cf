#include "router_service/failover_metrics.h"

#include "absl/strings/string_view.h"

namespace conclave {

FailoverMetrics::FailoverMetrics(Metrics* metrics) {
  if (metrics == nullptr) return;
  const std::map<absl::StatusCode, const char*> causes = {
      {absl::StatusCode::kUnavailable, "gone"},      {absl::StatusCode::kDeadlineExceeded, "late"},
      {absl::StatusCode::kDataLoss, "damaged"},      {absl::StatusCode::kFailedPrecondition, "stale"},
      {absl::StatusCode::kResourceExhausted, "full"}, {absl::StatusCode::kCancelled, "taken_back"}};
  for (const auto& [code, cause] : causes) {
    resends_[code] =
        metrics->AddCounter("conclave_router_expert_resends_total",
                            "Calls whose rows needed another call, by what went wrong.", {{"cause", cause}});
  }
  hedges_ = metrics->AddCounter("conclave_router_expert_hedges_total",
                                "Calls sent to a second holder while the first was late.", {});
  hedged_rows_ = metrics->AddCounter("conclave_router_expert_hedged_rows_total",
                                     "Pairs of a row and an expert in such calls.", {});
  hedge_wins_ = metrics->AddCounter("conclave_router_expert_hedge_wins_total",
                                    "Such calls that were answered before the first.", {});
  dispatch_ = metrics->AddHistogram("conclave_router_dispatch_seconds",
                                    "Time to round, group and send the rows of one layer.", {}, LatencyBuckets());
  combine_ = metrics->AddHistogram("conclave_router_combine_seconds",
                                   "Time to put the rows of one layer in their places.", {}, LatencyBuckets());
  for (const char* way : {"inproc", "grpc", "ucx", "nccl"}) {
    const auto counter = [&](const char* direction) {
      return metrics->AddCounter("conclave_router_transport_bytes_total",
                                 "Activations to and from shards, by transport, without its own overhead.",
                                 {{"transport", way}, {"direction", direction}});
    };
    bytes_.push_back({way, counter("sent"), counter("received")});
  }
}

void FailoverMetrics::CountSent(const char* way, int64_t bytes) {
  for (const Bytes& each : bytes_) {
    if (absl::string_view(each.way) == way) each.sent->Add(static_cast<double>(bytes));
  }
}

void FailoverMetrics::CountReceived(const char* way, int64_t bytes) {
  for (const Bytes& each : bytes_) {
    if (absl::string_view(each.way) == way) each.received->Add(static_cast<double>(bytes));
  }
}

void FailoverMetrics::CountResend(absl::StatusCode code) {
  const auto found = resends_.find(code);
  if (found != resends_.end()) found->second->Add(1);
}

void FailoverMetrics::CountHedge(int64_t pairs) {
  if (hedges_ == nullptr) return;
  hedges_->Add(1);
  hedged_rows_->Add(static_cast<double>(pairs));
}

void FailoverMetrics::CountHedgeWin() {
  if (hedge_wins_ != nullptr) hedge_wins_->Add(1);
}

void FailoverMetrics::ObserveDispatch(absl::Duration duration) {
  if (dispatch_ != nullptr) dispatch_->Observe(absl::ToDoubleSeconds(duration));
}

void FailoverMetrics::ObserveCombine(absl::Duration duration) {
  if (combine_ != nullptr) combine_->Observe(absl::ToDoubleSeconds(duration));
}

}  // namespace conclave
