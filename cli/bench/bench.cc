// `conclave bench`: load on a gateway, over OpenAI's API or gRPC, and what came of it.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "cli/bench/bench_report.h"
#include "cli/bench/grpc_load_client.h"
#include "cli/bench/http_load_client.h"
#include "cli/bench/length_distribution.h"
#include "cli/bench/load_client.h"
#include "cli/bench/load_runner.h"
#include "cli/bench/request_record.h"
#include "cli/bench/sample_text.h"
#include "cli/bench/slo.h"
#include "cli/bench/workload.h"
#include "cli/cluster_access.h"
#include "cli/cluster_file.h"
#include "cli/command.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

constexpr int kClosedLoopConcurrency = 8, kOpenLoopConcurrency = 1000;
constexpr int kRequests = 100;
constexpr int kWarmUpConcurrency = 8;

// Each request over HTTP has a connection, and so a descriptor.
void AllowManyDescriptors() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

absl::Status NameFlag(absl::string_view flag, const absl::Status& status) {
  return status.ok() ? status : UsageError(absl::StrCat("--", flag, " ", std::string(status.message())));
}

// One line that is rewritten on a terminal; nothing elsewhere.
class ProgressLine {
 public:
  ~ProgressLine() {
    if (shown_) std::cerr << "\r\033[K" << std::flush;
  }
  void Show(const LoadProgress& progress) {
    const double seconds = absl::ToDoubleSeconds(progress.elapsed);
    std::cerr << absl::StrFormat("\r\033[K%.0f s: %d running, %d answered, %d refused, %d failed, %.0f output tokens/s",
                                 seconds, progress.running, progress.answered, progress.refused, progress.errors,
                                 seconds > 0 ? static_cast<double>(progress.output_tokens) / seconds : 0.0)
              << std::flush;
    shown_ = true;
  }

 private:
  bool shown_ = false;
};

class BenchCommand final : public Command {
 public:
  std::string name() const override { return "bench"; }
  std::string summary() const override { return "put load on a gateway, and measure latency, throughput and refusals"; }

  void Declare(CommandFlags& flags) override {
    access_.Declare(flags, "the gateway's address for --protocol; http:// or https:// may stand before it");
    flags.Add("protocol", &protocol_, "NAME", "http: OpenAI's completions, streamed; grpc: the Generate RPC")
        .choices = {"http", "grpc"};
    CommandFlag& rate = flags.Add("rate", &rate_, "R", "send R requests a second, at random (Poisson), come what may");
    rate.minimum = 1e-3;
    rate.maximum = 1e6;
    CommandFlag& concurrency = flags.Add("concurrency", &concurrency_, "N",
                                         "without --rate or --trace: N requests at once, one after the other (8); with "
                                         "them: at most N at once (1000)");
    concurrency.minimum = 1;
    concurrency.maximum = 100000;
    CommandFlag& requests = flags.Add("requests", &requests_, "N", "send N requests (100, or all of the trace)");
    requests.minimum = 1;
    requests.maximum = 1e9;
    flags.Add("duration", &duration_, "TIME", "send for so long, such as 30s, in place of --requests");
    CommandFlag& warm_up = flags.Add("warmup", &warm_up_, "N", "first send N requests that do not count");
    warm_up.minimum = 0;
    warm_up.maximum = 1e6;
    flags.Add("input-tokens", &input_, "LENGTH",
              "of prompts: a number, uniform:MIN-MAX or lognormal:MEDIAN,SIGMA[,MAX]");
    flags.Add("output-tokens", &output_, "LENGTH", "of answers, in the same way");
    CommandFlag& prefix = flags.Add("shared-prefix", &shared_prefix_, "N", "begin all prompts with the same N tokens");
    prefix.minimum = 0;
    prefix.maximum = 1e6;
    flags.Add("trace", &trace_, "FILE", "take arrivals and lengths from this file (docs/benchmarking.md)");
    CommandFlag& speed = flags.Add("trace-speed", &trace_speed_, "X", "replay the trace so many times as fast");
    speed.minimum = 1e-6;
    speed.maximum = 1e6;
    flags.Add("slo", &slo_text_, "BOUNDS", "what counts for goodput: ttft=500ms,itl=100ms,tpot=50ms,e2e=10s");
    flags.Add("seed", &seed_text_, "N", "the same seed gives the same requests; drawn where absent");
    flags.Add("stop-at-eos", &stop_at_eos_, "", "let answers end where the model ends them");
    flags.Add("ignore-retry-after", &ignore_retry_after_, "",
              "without --rate: whoever is refused sends its next request at once");
    flags.Add("timeout", &timeout_, "TIME", "give a request up after so long; it then counts as failed");
    flags.AddOutput(&format_);
  }

  absl::Status Run(const CommandContext&) override {
    RETURN_IF_ERROR(Validate());
    AllowManyDescriptors();
    ASSIGN_OR_RETURN(const std::string address, Address());
    boost::asio::io_context context;
    std::unique_ptr<LoadClient> client;
    if (protocol_ == "http") {
      ASSIGN_OR_RETURN(client, NewHttpLoadClient(address, access_, context));
    } else {
      ASSIGN_OR_RETURN(client, NewGrpcLoadClient(address, access_));
    }
    ASSIGN_OR_RETURN(const ServedModel model, client->Discover(kSampleText));
    if (model.ids.empty()) return absl::DataLossError(absl::StrCat(address, " cuts a text into no tokens"));
    client->SetOptions({model.name, stop_at_eos_, timeout_});
    const PromptMaker prompts(model.ids, seed_);
    RETURN_IF_ERROR(WarmUp(context, *client, model));

    const std::unique_ptr<Workload> workload = NewWorkload(prompts);
    return Report(address, model.name, RunMeasured(context, *client, *workload));
  }

 private:
  absl::Status Validate() {
    RETURN_IF_ERROR(access_.Validate());
    ASSIGN_OR_RETURN(slo_, Named("slo", Slo::Parse(slo_text_)));
    ASSIGN_OR_RETURN(input_lengths_, Named("input-tokens", LengthDistribution::Parse(input_)));
    ASSIGN_OR_RETURN(output_lengths_, Named("output-tokens", LengthDistribution::Parse(output_)));
    seed_ = std::random_device()();
    if (!seed_text_.empty() && !absl::SimpleAtoi(seed_text_, &seed_)) {
      return UsageError(absl::StrCat("--seed takes a whole number from 0 to 2^64-1, not '", seed_text_, "'"));
    }
    if (duration_ < absl::ZeroDuration()) return UsageError("--duration should be above 0, such as 30s");
    if (timeout_ <= absl::ZeroDuration()) return UsageError("--timeout should be above 0, such as 10m");
    if (requests_ > 0 && duration_ > absl::ZeroDuration()) {
      return UsageError("--requests and --duration: give one of them");
    }
    if (trace_.empty()) return absl::OkStatus();
    if (rate_ > 0) return UsageError("--rate and --trace: give one of them; --trace-speed changes a trace's pace");
    ASSIGN_OR_RETURN(trace_lines_, Named("trace", ReadTrace(trace_)));
    return absl::OkStatus();
  }

  template <typename T>
  static absl::StatusOr<T> Named(absl::string_view flag, absl::StatusOr<T> value) {
    if (value.ok()) return value;
    return NameFlag(flag, value.status());
  }

  absl::StatusOr<std::string> Address() {
    if (access_.run_directory.empty()) {
      const bool is_url = absl::StartsWith(access_.address, "http");
      if (is_url && protocol_ == "grpc") return UsageError("--protocol grpc takes an --address HOST:PORT, no URL");
      return access_.address;
    }
    if (protocol_ == "grpc") return access_.AddressOf("gateway");
    ASSIGN_OR_RETURN(const std::vector<ClusterProcess> processes, access_.Processes());
    for (const ClusterProcess& process : processes) {
      if (process.role == "gateway" && !process.http.empty()) return process.http;
    }
    return absl::NotFoundError(absl::StrCat("the cluster in ", access_.run_directory, " serves no HTTP"));
  }

  bool open_loop() const { return rate_ > 0 || !trace_.empty(); }

  SyntheticOptions Synthetic() const {
    SyntheticOptions options;
    options.rate = rate_;
    if (duration_ == absl::ZeroDuration()) options.requests = requests_ > 0 ? requests_ : kRequests;
    options.shared_prefix_tokens = shared_prefix_;
    options.input = input_lengths_;
    options.output = output_lengths_;
    options.seed = seed_;
    return options;
  }

  std::unique_ptr<Workload> NewWorkload(const PromptMaker& prompts) {
    if (trace_.empty()) return NewSyntheticWorkload(Synthetic(), prompts);
    return NewTraceWorkload(std::move(trace_lines_), trace_speed_, requests_, prompts);
  }

  LoadPlan Plan() const {
    LoadPlan plan;
    plan.open_loop = open_loop();
    plan.concurrency = concurrency_ > 0 ? concurrency_ : open_loop() ? kOpenLoopConcurrency : kClosedLoopConcurrency;
    if (duration_ > absl::ZeroDuration()) plan.duration = duration_;
    plan.obey_retry_after = !ignore_retry_after_;
    return plan;
  }

  // Also shows what is wrong with the whole undertaking, such as a wrong key, before anything is measured.
  absl::Status WarmUp(boost::asio::io_context& context, LoadClient& client, const ServedModel& model) const {
    if (warm_up_ == 0) return absl::OkStatus();
    SyntheticOptions options = Synthetic();
    options.rate = 0;
    options.requests = warm_up_;
    // Other prompts than those that are measured, which should not find these in the prefix cache.
    const PromptMaker prompts(model.ids, ~seed_);
    const std::unique_ptr<Workload> workload = NewSyntheticWorkload(options, prompts);
    LoadPlan plan;
    plan.concurrency = std::min(warm_up_, concurrency_ > 0 ? concurrency_ : kWarmUpConcurrency);
    const LoadResult result = RunLoad(context, client, *workload, plan, nullptr);
    if (result.interrupted) return absl::CancelledError("interrupted");
    for (const RequestRecord& record : result.records) {
      if (record.outcome == Outcome::kError) {
        return absl::FailedPreconditionError(absl::StrCat("a request of the warm-up failed: ", record.error));
      }
    }
    return absl::OkStatus();
  }

  LoadResult RunMeasured(boost::asio::io_context& context, LoadClient& client, Workload& workload) const {
    ProgressLine line;
    std::function<void(const LoadProgress&)> progress;
    if (isatty(STDERR_FILENO) == 1) progress = [&line](const LoadProgress& now) { line.Show(now); };
    return RunLoad(context, client, workload, Plan(), progress);
  }

  std::map<std::string, std::string> Setup(const std::string& address, const std::string& model) const {
    const LoadPlan plan = Plan();
    std::map<std::string, std::string> setup = {{"address", address},
                                                {"model", model},
                                                {"protocol", protocol_},
                                                {"concurrency", absl::StrCat(plan.concurrency)},
                                                {"seed", absl::StrCat(seed_)}};
    if (trace_.empty()) {
      setup["input_tokens"] = input_;
      setup["output_tokens"] = output_;
      setup["shared_prefix"] = absl::StrCat(shared_prefix_);
    } else {
      setup["trace"] = trace_;
      setup["trace_speed"] = absl::StrCat(trace_speed_);
    }
    if (rate_ > 0) setup["rate"] = absl::StrCat(rate_);
    if (slo_.any()) setup["slo"] = slo_text_;
    return setup;
  }

  absl::Status Report(const std::string& address, const std::string& model, const LoadResult& result) const {
    const BenchFigures figures = FiguresOf(result, slo_);
    if (format_ == "json") {
      std::cout << ToJson(figures, slo_.any(), Setup(address, model)) << "\n";
    } else {
      std::string heading;
      for (const auto& [key, value] : Setup(address, model)) {
        absl::StrAppend(&heading, heading.empty() ? "" : ", ", key, " ", value);
      }
      std::cout << heading << "\n" << ToText(figures, slo_.any());
    }
    if (figures.interrupted) return absl::CancelledError("interrupted; the figures are of what came until then");
    if (figures.errors > 0) {
      return absl::AbortedError(absl::StrCat(figures.errors, " of ", figures.sent,
                                             " requests failed, most of them: ", figures.error_counts.front().first));
    }
    if (figures.answered == 0) return absl::AbortedError("no request was answered");
    return absl::OkStatus();
  }

  ClusterAccess access_;
  std::string protocol_ = "http", input_ = "128", output_ = "64", trace_, slo_text_, seed_text_, format_ = "text";
  double rate_ = 0, trace_speed_ = 1;
  int concurrency_ = 0, warm_up_ = 1, shared_prefix_ = 0;
  int64_t requests_ = 0;
  uint64_t seed_ = 0;
  absl::Duration duration_ = absl::ZeroDuration(), timeout_ = absl::Minutes(10);
  bool stop_at_eos_ = false, ignore_retry_after_ = false;
  Slo slo_;
  LengthDistribution input_lengths_, output_lengths_;
  std::vector<TraceLine> trace_lines_;
};

}  // namespace

std::unique_ptr<Command> NewBenchCommand() { return std::make_unique<BenchCommand>(); }

}  // namespace conclave
