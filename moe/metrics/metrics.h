// Counters, gauges and histograms, with the Prometheus exposer behind them.
#ifndef CONCLAVE_MOE_METRICS_METRICS_H_
#define CONCLAVE_MOE_METRICS_METRICS_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave {

using MetricLabels = std::map<std::string, std::string>;

// Handles are owned by Metrics, never null, and thread-safe; look them up once, not per event.
class Counter {
 public:
  virtual ~Counter() = default;
  virtual void Add(double amount) = 0;  // REQUIRES: amount >= 0
};
class Gauge {
 public:
  virtual ~Gauge() = default;
  virtual void Set(double value) = 0;
};
class Histogram {
 public:
  virtual ~Histogram() = default;
  virtual void Observe(double value) = 0;
};

// Bucket bounds for latencies in seconds, 100 µs to 60 s.
std::vector<double> LatencyBuckets();

// Names by Prometheus' rules: conclave_<what>_<base unit>, counters end in _total. One instance per process.
class Metrics {
 public:
  static std::unique_ptr<Metrics> Create();
  virtual ~Metrics() = default;
  virtual Counter* AddCounter(absl::string_view name, absl::string_view help, const MetricLabels& labels) = 0;
  virtual Gauge* AddGauge(absl::string_view name, absl::string_view help, const MetricLabels& labels) = 0;
  virtual Histogram* AddHistogram(absl::string_view name, absl::string_view help, const MetricLabels& labels,
                                  const std::vector<double>& bounds) = 0;
  // Serves /metrics on host:port (port 0 picks one); returns the bound address. UNAVAILABLE: the port is in use.
  virtual absl::StatusOr<std::string> Expose(const std::string& address) = 0;
  // The text that /metrics serves.
  virtual std::string Text() const = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_METRICS_METRICS_H_
