#include "moe/metrics/metrics.h"

#include <atomic>
#include <chrono>
#include <exception>
#include <list>
#include <map>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "moe/base/check.h"
#include "moe/metrics/wake_listener.h"
#include "prometheus/check_names.h"
#include "prometheus/collectable.h"
#include "prometheus/counter.h"
#include "prometheus/exposer.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "prometheus/text_serializer.h"

namespace conclave {
namespace {

class CounterHandle final : public Counter {
 public:
  explicit CounterHandle(prometheus::Counter& counter) : counter_(counter) {}
  void Add(double amount) override { counter_.Increment(amount); }

 private:
  prometheus::Counter& counter_;
};

class GaugeHandle final : public Gauge {
 public:
  explicit GaugeHandle(prometheus::Gauge& gauge) : gauge_(gauge) {}
  void Set(double value) override { gauge_.Set(value); }

 private:
  prometheus::Gauge& gauge_;
};

class HistogramHandle final : public Histogram {
 public:
  explicit HistogramHandle(prometheus::Histogram& histogram) : histogram_(histogram) {}
  void Observe(double value) override { histogram_.Observe(value); }

 private:
  prometheus::Histogram& histogram_;
};

// The registry with the refresh hooks in front of it: whoever collects, sees fresh values.
class RefreshedRegistry final : public prometheus::Collectable {
 public:
  class Hook final : public RefreshHook {
   public:
    Hook(std::shared_ptr<RefreshedRegistry> owner, std::function<void()> refresh) : owner_(std::move(owner)) {
      absl::MutexLock lock(&owner_->mutex_);
      place_ = owner_->hooks_.insert(owner_->hooks_.end(), std::move(refresh));
    }
    ~Hook() override {
      absl::MutexLock lock(&owner_->mutex_);
      owner_->hooks_.erase(place_);
    }

   private:
    std::shared_ptr<RefreshedRegistry> owner_;
    std::list<std::function<void()>>::iterator place_;
  };

  prometheus::Registry& registry() { return registry_; }

  std::vector<prometheus::MetricFamily> Collect() const override {
    {
      absl::MutexLock lock(&mutex_);
      for (const auto& refresh : hooks_) refresh();
    }
    return registry_.Collect();
  }

 private:
  prometheus::Registry registry_;
  mutable absl::Mutex mutex_;
  std::list<std::function<void()>> hooks_ ABSL_GUARDED_BY(mutex_);
};

void CheckNames(absl::string_view name, absl::string_view help, const MetricLabels& labels) {
  CONCLAVE_CHECK(prometheus::CheckMetricName(std::string(name))) << "metric name " << name;
  // Recording rules own the colon.
  CONCLAVE_CHECK(name.find(':') == absl::string_view::npos) << "metric name " << name;
  CONCLAVE_CHECK(!help.empty()) << "metric " << name << " has no help text";
  for (const auto& [label, value] : labels) {
    CONCLAVE_CHECK(prometheus::CheckLabelName(label)) << "label " << label << " of metric " << name;
  }
}

class PrometheusMetrics final : public Metrics {
 public:
  // CivetWeb's thread looks at its stop flag only every two seconds, or when a connection comes.
  ~PrometheusMetrics() override {
    if (exposer_ == nullptr) return;
    std::atomic<bool> stopped{false};
    std::thread stopper([this, &stopped] {
      exposer_.reset();
      stopped.store(true);
    });
    while (!stopped.load()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      WakeListener(address_);
    }
    stopper.join();
  }

  Counter* AddCounter(absl::string_view name, absl::string_view help, const MetricLabels& labels) override {
    CheckNames(name, help, labels);
    auto& family =
        prometheus::BuildCounter().Name(std::string(name)).Help(std::string(help)).Register(registry_->registry());
    return Keep<CounterHandle>(counters_, family.Add(labels));
  }

  Gauge* AddGauge(absl::string_view name, absl::string_view help, const MetricLabels& labels) override {
    CheckNames(name, help, labels);
    auto& family =
        prometheus::BuildGauge().Name(std::string(name)).Help(std::string(help)).Register(registry_->registry());
    {
      absl::MutexLock lock(&mutex_);
      gauge_families_[std::string(name)] = &family;
    }
    return Keep<GaugeHandle>(gauges_, family.Add(labels));
  }

  void RemoveGauge(absl::string_view name, const MetricLabels& labels) override {
    absl::MutexLock lock(&mutex_);
    const auto family = gauge_families_.find(std::string(name));
    if (family == gauge_families_.end() || !family->second->Has(labels)) return;
    prometheus::Gauge& gauge = family->second->Add(labels);
    gauges_.erase(&gauge);
    family->second->Remove(&gauge);
  }

  Histogram* AddHistogram(absl::string_view name, absl::string_view help, const MetricLabels& labels,
                          const std::vector<double>& bounds) override {
    CheckNames(name, help, labels);
    auto& family =
        prometheus::BuildHistogram().Name(std::string(name)).Help(std::string(help)).Register(registry_->registry());
    return Keep<HistogramHandle>(histograms_, family.Add(labels, bounds));
  }

  std::unique_ptr<RefreshHook> OnScrape(std::function<void()> refresh) override {
    return std::make_unique<RefreshedRegistry::Hook>(registry_, std::move(refresh));
  }

  absl::StatusOr<std::string> Expose(const std::string& address) override {
    if (absl::StartsWith(address, "[")) {
      return absl::UnimplementedError(
          absl::StrCat("metrics are served over IPv4 alone, not at ", address, ": give an IPv4 address and a port"));
    }
    try {
      // Scrapes are few and short: two threads, a short queue and a request timeout bound what a storm can cost.
      auto exposer = std::make_unique<prometheus::Exposer>(std::vector<std::string>{
          "listening_ports", address, "num_threads", "2", "connection_queue", "16", "request_timeout_ms", "5000"});
      exposer->RegisterCollectable(registry_);
      const std::vector<int> ports = exposer->GetListeningPorts();
      if (ports.empty()) return absl::UnavailableError(absl::StrCat("cannot listen on ", address));
      CONCLAVE_CHECK(exposer_ == nullptr) << "Expose was called twice";
      exposer_ = std::move(exposer);
      address_ = absl::StrCat(address.substr(0, address.rfind(':')), ":", ports[0]);
      return address_;
    } catch (const std::exception&) {
      // CivetWeb says no more than "null context" here.
      return absl::UnavailableError(absl::StrCat("cannot listen on ", address, ": the port is in use or not ours"));
    }
  }

  std::string Text() const override { return prometheus::TextSerializer().Serialize(registry_->Collect()); }

 private:
  // The value's one handle.
  template <typename Handle, typename Base, typename Value>
  Base* Keep(std::map<const void*, std::unique_ptr<Base>>& handles, Value& value) {
    absl::MutexLock lock(&mutex_);
    std::unique_ptr<Base>& handle = handles[&value];
    if (handle == nullptr) handle = std::make_unique<Handle>(value);
    return handle.get();
  }

  std::shared_ptr<RefreshedRegistry> registry_ = std::make_shared<RefreshedRegistry>();
  absl::Mutex mutex_;
  std::map<const void*, std::unique_ptr<Counter>> counters_ ABSL_GUARDED_BY(mutex_);
  std::map<const void*, std::unique_ptr<Gauge>> gauges_ ABSL_GUARDED_BY(mutex_);
  std::map<const void*, std::unique_ptr<Histogram>> histograms_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, prometheus::Family<prometheus::Gauge>*> gauge_families_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<prometheus::Exposer> exposer_;
  std::string address_;  // what exposer_ listens on
};

}  // namespace

std::vector<double> LatencyBuckets() {
  return {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60};
}

std::unique_ptr<Metrics> Metrics::Create() { return std::make_unique<PrometheusMetrics>(); }

}  // namespace conclave
