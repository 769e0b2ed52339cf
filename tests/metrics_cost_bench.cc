// What counting costs: a gateway, an attention service and shards in one process answer a request while every call of a
// metric is counted; times what a call takes by itself, over the time of a token. A table, not a test:
//
//   bazel run //tests:metrics_cost_bench -- --model DIR
#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "expert_service/expert_shard.h"
#include "gateway/dispatcher.h"
#include "gateway/routers/router_pool.h"
#include "gateway/served_model.h"
#include "grpcpp/grpcpp.h"
#include "moe/base/quantile.h"
#include "moe/base/status_macros.h"
#include "moe/base/thread_pool.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/daemon/flags.h"
#include "moe/kernels/kernels.h"
#include "moe/metrics/metrics.h"
#include "moe/model/numeric_profile.h"
#include "moe/transport/inproc/inproc_transport.h"
#include "router_service/engine.h"
#include "router_service/remote_experts.h"
#include "router_service/service.h"

namespace conclave {
namespace {

struct Options {
  std::string model = "models/demo";
  std::string compute = "bf16";
  int shards = 2, threads = 2, tokens = 256, repetitions = 5;
};

enum class Kind { kCounter, kGauge, kHistogram };

// Calls of one metric, all its series together.
struct Calls {
  Kind kind = Kind::kCounter;
  std::atomic<int64_t> count{0};
};

// A real registry that counts what is asked of it.
class CountingMetrics final : public Metrics {
 public:
  Counter* AddCounter(absl::string_view name, absl::string_view help, const MetricLabels& labels) override {
    return Keep(counters_, name, Kind::kCounter, inner_->AddCounter(name, help, labels));
  }
  Gauge* AddGauge(absl::string_view name, absl::string_view help, const MetricLabels& labels) override {
    return Keep(gauges_, name, Kind::kGauge, inner_->AddGauge(name, help, labels));
  }
  Histogram* AddHistogram(absl::string_view name, absl::string_view help, const MetricLabels& labels,
                          const std::vector<double>& bounds) override {
    return Keep(histograms_, name, Kind::kHistogram, inner_->AddHistogram(name, help, labels, bounds));
  }
  void RemoveGauge(absl::string_view name, const MetricLabels& labels) override { inner_->RemoveGauge(name, labels); }
  std::unique_ptr<RefreshHook> OnScrape(std::function<void()> refresh) override {
    return inner_->OnScrape(std::move(refresh));
  }
  absl::StatusOr<std::string> Expose(const std::string& address) override { return inner_->Expose(address); }
  std::string Text() const override { return inner_->Text(); }

  // Kind and calls by name.
  std::map<std::string, std::pair<Kind, int64_t>> Counts() {
    std::lock_guard<std::mutex> lock(mutex_);
    std::map<std::string, std::pair<Kind, int64_t>> counts;
    for (const auto& [name, calls] : calls_) counts[name] = {calls.kind, calls.count.load()};
    return counts;
  }

 private:
  struct CountedCounter final : Counter {
    CountedCounter(Calls& calls_in, Counter* inner_in) : calls(calls_in), inner(inner_in) {}
    void Add(double amount) override { ++calls.count, inner->Add(amount); }
    Calls& calls;
    Counter* inner;
  };
  struct CountedGauge final : Gauge {
    CountedGauge(Calls& calls_in, Gauge* inner_in) : calls(calls_in), inner(inner_in) {}
    void Set(double value) override { ++calls.count, inner->Set(value); }
    Calls& calls;
    Gauge* inner;
  };
  struct CountedHistogram final : Histogram {
    CountedHistogram(Calls& calls_in, Histogram* inner_in) : calls(calls_in), inner(inner_in) {}
    void Observe(double value) override { ++calls.count, inner->Observe(value); }
    Calls& calls;
    Histogram* inner;
  };

  template <typename Counted, typename Base>
  Base* Keep(std::vector<std::unique_ptr<Counted>>& kept, absl::string_view name, Kind kind, Base* inner) {
    std::lock_guard<std::mutex> lock(mutex_);
    Calls& calls = calls_[std::string(name)];
    calls.kind = kind;
    kept.push_back(std::make_unique<Counted>(calls, inner));
    return kept.back().get();
  }

  std::unique_ptr<Metrics> inner_ = Metrics::Create();
  std::mutex mutex_;
  std::map<std::string, Calls> calls_;
  std::vector<std::unique_ptr<CountedCounter>> counters_;
  std::vector<std::unique_ptr<CountedGauge>> gauges_;
  std::vector<std::unique_ptr<CountedHistogram>> histograms_;
};

// The median time of one call.
double Nanoseconds(int repetitions, const std::function<void(int)>& call) {
  constexpr int kCalls = 200'000;
  std::vector<double> times;
  for (int repetition = 0; repetition < repetitions; ++repetition) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < kCalls; ++i) call(i);
    times.push_back(std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin).count() /
                    kCalls);
  }
  return MedianOf(std::move(times));
}

// One answer, from its first token to its last.
class TimedSink final : public AnswerSink {
 public:
  void OnChunk(const v1::GenerateResponse& chunk) override {
    if (chunk.ids_size() > 0 && tokens == 0) first = absl::Now();
    tokens += chunk.ids_size();
    last = absl::Now();
  }
  void OnEnd(const absl::Status& ended) override {
    status = ended;
    done.Notify();
  }
  int tokens = 0;
  absl::Time first, last;
  absl::Status status;
  absl::Notification done;
};

// Everything between a client and the experts, with every metric counted and every expert's series on.
class Cluster {
 public:
  explicit Cluster(const Options& options) : options_(options), threads_(options.threads) {}
  ~Cluster() {
    dispatcher_.reset();
    pool_.reset();
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
    server_.reset();
    engine_.reset();
    transport_.reset();
  }

  absl::Status Start() {
    ASSIGN_OR_RETURN(checkpoint_, Checkpoint::Open(options_.model));
    ASSIGN_OR_RETURN(kernels_, CpuKernels(options_.compute == "f32" ? Compute::kF32 : Compute::kBF16, ""));
    RETURN_IF_ERROR(StartShards());
    EngineOptions engine;
    engine.metrics = &metrics_;
    engine.context_max = 2048;
    engine.batch_tokens_max = 256;
    ASSIGN_OR_RETURN(engine_, Engine::Create(*checkpoint_, *kernels_, threads_, *experts_, engine));
    service_ = RouterGrpcService::Create(metrics_, /*per_expert_metrics=*/true);
    const ModelSpec& spec = checkpoint_->spec();
    service_->SetEngine(
        engine_.get(),
        {"model", checkpoint_->fingerprint(), NumericProfile(*kernels_), spec.model_type, 2048, spec.vocab},
        [] { return ExpertMapView(); });
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service_->service());
    server_ = builder.BuildAndStart();
    ASSIGN_OR_RETURN(model_, LoadServedModel(options_.model, "model", /*generation_defaults=*/false, "none"));
    RouterPoolOptions pool;
    pool.addresses = {absl::StrCat("127.0.0.1:", port)};
    pool_ = RouterPool::Create(pool, metrics_);
    RETURN_IF_ERROR(pool_->WaitUntilServing(absl::Now() + absl::Seconds(30)).status());
    dispatcher_ = std::make_unique<Dispatcher>(*model_, *pool_, metrics_);
    return absl::OkStatus();
  }

  absl::StatusOr<std::shared_ptr<TimedSink>> Ask(int tokens) {
    v1::GenerateRequest request;
    for (int i = 0; i < 16; ++i) request.mutable_tokens()->add_ids((977 * i + 13) % model_->vocab);
    request.set_max_tokens(tokens);
    request.set_ignore_eos(true);
    auto sink = std::make_shared<TimedSink>();
    const Caller caller{std::make_shared<const Tenant>(Tenant{"default", 0, 0, 0, 0, {}, ""}), "bench"};
    RETURN_IF_ERROR(dispatcher_->Generate(caller, request, absl::InfiniteFuture(), sink).status());
    sink->done.WaitForNotification();
    RETURN_IF_ERROR(sink->status);
    return sink;
  }

  CountingMetrics& metrics() { return metrics_; }
  const ModelSpec& spec() const { return checkpoint_->spec(); }

 private:
  absl::Status StartShards() {
    std::vector<ExpertHandler*> handlers;
    std::vector<ShardDescription> descriptions;
    for (int i = 0; i < options_.shards; ++i) {
      ExpertShardOptions shard;
      shard.name = absl::StrCat("expert-", i);
      shard.shard_index = i;
      shard.shard_count = options_.shards;
      shard.kernels = kernels_;
      shard.threads.threads = 1;
      shard.metrics = &metrics_;
      shard.per_expert_metrics = true;
      ASSIGN_OR_RETURN(shards_.emplace_back(), ExpertShard::Create(shard, *checkpoint_));
      handlers.push_back(shards_.back().get());
      descriptions.push_back(shards_.back()->Describe());
    }
    transport_ = std::make_unique<InprocTransport>(handlers);
    RemoteExpertsOptions remote;
    remote.rows_max = 256;
    remote.model_fingerprint = checkpoint_->fingerprint();
    remote.metrics = &metrics_;
    ASSIGN_OR_RETURN(experts_,
                     RemoteExperts::Create(checkpoint_->spec(), *kernels_, *transport_, descriptions, remote));
    return absl::OkStatus();
  }

  const Options options_;
  CountingMetrics metrics_;
  ThreadPool threads_;
  std::unique_ptr<Checkpoint> checkpoint_;
  const Kernels* kernels_ = nullptr;
  std::vector<std::unique_ptr<ExpertShard>> shards_;
  std::unique_ptr<RemoteExperts> experts_;
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<RouterGrpcService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<ServedModel> model_;
  std::unique_ptr<RouterPool> pool_;
  std::unique_ptr<Dispatcher> dispatcher_;
};

// What a call of each kind takes by itself.
std::map<Kind, double> CallTimes(int repetitions) {
  const auto metrics = Metrics::Create();
  Counter* const counter = metrics->AddCounter("conclave_bench_total", "Bench.", {});
  Gauge* const gauge = metrics->AddGauge("conclave_bench_value", "Bench.", {});
  Histogram* const histogram = metrics->AddHistogram("conclave_bench_seconds", "Bench.", {}, LatencyBuckets());
  return {{Kind::kCounter, Nanoseconds(repetitions, [&](int) { counter->Add(1); })},
          {Kind::kGauge, Nanoseconds(repetitions, [&](int i) { gauge->Set(i); })},
          {Kind::kHistogram, Nanoseconds(repetitions, [&](int i) { histogram->Observe(1e-4 * (i % 64)); })}};
}

void Row(const std::string& name, double calls, double ns, double token_ns) {
  std::cout << absl::StreamFormat("| `%s` | %.2f | %.1f | %.0f | %.4f%% |\n", name, calls, ns, calls * ns,
                                  100 * calls * ns / token_ns);
}

absl::Status RunBench(const Options& options) {
  const std::map<Kind, double> times = CallTimes(options.repetitions);
  std::atomic<uint64_t> plain{0};
  const double plain_ns = Nanoseconds(options.repetitions, [&](int) {
    plain.store(plain.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  });
  Cluster cluster(options);
  RETURN_IF_ERROR(cluster.Start());
  RETURN_IF_ERROR(cluster.Ask(8).status());  // warm
  const auto before = cluster.metrics().Counts();
  std::vector<double> token_ns;
  int64_t tokens = 0;
  for (int repetition = 0; repetition < options.repetitions; ++repetition) {
    ASSIGN_OR_RETURN(const auto sink, cluster.Ask(options.tokens));
    token_ns.push_back(absl::ToDoubleNanoseconds(sink->last - sink->first) / (sink->tokens - 1));
    tokens += sink->tokens;
  }
  const double token = MedianOf(token_ns);

  std::cout << "| metric | calls a token | ns a call | ns a token | of a token's time |\n|---|---|---|---|---|\n";
  double calls_sum = 0, sum = 0;
  for (const auto& [name, kind_and_count] : cluster.metrics().Counts()) {
    const auto was = before.find(name);
    const int64_t count = kind_and_count.second - (was == before.end() ? 0 : was->second.second);
    // Gauges are set by scrapes and polls, not by tokens, and none is there.
    if (count == 0) continue;
    const double calls = static_cast<double>(count) / static_cast<double>(tokens), ns = times.at(kind_and_count.first);
    Row(name, calls, ns, token);
    calls_sum += calls;
    sum += calls * ns;
  }
  const ModelSpec& spec = cluster.spec();
  // Every pair of a row and an expert is counted at the router and at its shard, every call by layer and shard.
  const double plain_calls = spec.moe_layers() * (2.0 * spec.gate.top_k + options.shards);
  Row("plain counts of experts, layers and shards", plain_calls, plain_ns, token);
  sum += plain_calls * plain_ns;
  std::cout << absl::StreamFormat("| all | %.2f | | %.0f | **%.3f%%** of %.0f µs |\n", calls_sum + plain_calls, sum,
                                  100 * sum / token, token / 1e3);
  const absl::Time begin = absl::Now();
  const size_t bytes = cluster.metrics().Text().size();
  std::cout << absl::StreamFormat("one scrape with every expert's series: %.1f ms, %d KiB\n",
                                  absl::ToDoubleMilliseconds(absl::Now() - begin), bytes >> 10);
  return absl::OkStatus();
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  conclave::Options options;
  conclave::Flags flags("metrics_cost_bench", "What counting costs of a token's time.");
  flags.Add("model", &options.model, "model directory");
  flags.Add("compute", &options.compute, "f32 or bf16");
  flags.Add("shards", &options.shards, "shards, in this process");
  flags.Add("threads", &options.threads, "threads of the attention service");
  flags.Add("tokens", &options.tokens, "tokens of an answer");
  flags.Add("repetitions", &options.repetitions, "of everything; medians are shown");
  const absl::StatusOr<bool> parsed = flags.Parse(argc, argv);
  if (!parsed.ok()) return conclave::ExitWith("metrics_cost_bench", parsed.status(), 2);
  if (!*parsed) return 0;
  return conclave::ExitWith("metrics_cost_bench", conclave::RunBench(options), 1);
}
