// Counters, gauges and histograms, with the Prometheus exposer behind them.
#ifndef CONCLAVE_MOE_METRICS_METRICS_H_
#define CONCLAVE_MOE_METRICS_METRICS_H_

#include <functional>
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

// Ends a refresh hook when destroyed; waits for a run of it that is under way.
class RefreshHook {
 public:
  virtual ~RefreshHook() = default;
};

// Bucket bounds for latencies in seconds, 100 µs to 60 s.
std::vector<double> LatencyBuckets();

// Names by Prometheus' rules: conclave_<what>_<base unit>, counters end in _total. One instance per process.
// Thread-safe. A name or label that breaks the rules, or one name for two kinds of metric, is our own mistake (CHECK).
// The same name and labels again give a handle to the same value.
class Metrics {
 public:
  static std::unique_ptr<Metrics> Create();
  virtual ~Metrics() = default;
  virtual Counter* AddCounter(absl::string_view name, absl::string_view help, const MetricLabels& labels) = 0;
  virtual Gauge* AddGauge(absl::string_view name, absl::string_view help, const MetricLabels& labels) = 0;
  virtual Histogram* AddHistogram(absl::string_view name, absl::string_view help, const MetricLabels& labels,
                                  const std::vector<double>& bounds) = 0;
  // Shows the value no more: what it told of has gone. Does nothing where there is none. Handles to it must not be used
  // from then on.
  virtual void RemoveGauge(absl::string_view name, const MetricLabels& labels) = 0;
  // `refresh` runs before each scrape and each Text(), for values that are cheap to read and dear to push. It runs on
  // a scrape's thread, one at a time, and must not call OnScrape. Metrics must outlive the hook.
  virtual std::unique_ptr<RefreshHook> OnScrape(std::function<void()> refresh) = 0;
  // Serves /metrics on host:port (port 0 picks one); returns the bound address. Called once, before
  // other threads use this. UNAVAILABLE: the port is in use. UNIMPLEMENTED: an IPv6 address, which Debian's CivetWeb
  // does not know.
  virtual absl::StatusOr<std::string> Expose(const std::string& address) = 0;
  // The text that /metrics serves.
  virtual std::string Text() const = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_METRICS_METRICS_H_
