// serving_bench --model DIR: what batching, pacing and the prefix cache are worth, by the engine that serves the model,
// with its experts in this process. docs/serving.md says what the figures mean; each is a ratio within one run.
#include <algorithm>
#include <cstdint>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "moe/base/quantile.h"
#include "moe/base/status_macros.h"
#include "moe/base/thread_pool.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/checkpoint/inspect.h"
#include "moe/daemon/flags.h"
#include "moe/kernels/kernels.h"
#include "moe/model/local_experts.h"
#include "router_service/engine.h"

namespace conclave {
namespace {

struct BenchOptions {
  std::string model, kernels;
  int threads = 2;
  int answer_tokens = 48;  // of each stream, where streams are compared
  int streams = 16;        // of decode together
  int long_prompt = 4000;  // tokens that are prefilled beside 8 streams
  int prefix_tokens = 1000;
  double prefill_stretch = EngineOptions().prefill_stretch_max;
  std::vector<std::string> only;  // together, streams, prefill, prefix; empty: all
};

// When the tokens of one request came, since all were submitted.
struct Stream {
  std::vector<double> seconds;
  int32_t cached_tokens = 0;
  absl::Status status;
};

// Gaps between tokens that ended in (after, until].
std::vector<double> Gaps(const std::vector<Stream>& streams, double after, double until) {
  std::vector<double> gaps;
  for (const Stream& stream : streams) {
    for (size_t i = 1; i < stream.seconds.size(); ++i) {
      if (stream.seconds[i] > after && stream.seconds[i] <= until) {
        gaps.push_back(stream.seconds[i] - stream.seconds[i - 1]);
      }
    }
  }
  return gaps;
}

class Bench {
 public:
  explicit Bench(const BenchOptions& options) : options_(options), threads_(options.threads) {}

  absl::Status Start() {
    ASSIGN_OR_RETURN(checkpoint_, Checkpoint::Open(options_.model));
    ASSIGN_OR_RETURN(kernels_, CpuKernels(CpuHasBf16() ? Compute::kBF16 : Compute::kF32, options_.kernels));
    EngineOptions engine;
    engine.prefill_stretch_max = options_.prefill_stretch;
    ASSIGN_OR_RETURN(experts_, LocalExperts::Create(*checkpoint_, *kernels_, threads_, engine.batch_tokens_max));
    ASSIGN_OR_RETURN(engine_, Engine::Create(*checkpoint_, *kernels_, threads_, *experts_, engine));
    return Run({Request(64, 8)}).status();  // brings weights into memory
  }

  absl::Status RunAll() {
    const auto wanted = [this](const char* name) {
      return options_.only.empty() ||
             std::find(options_.only.begin(), options_.only.end(), name) != options_.only.end();
    };
    if (wanted("together")) RETURN_IF_ERROR(Together());
    if (wanted("streams")) RETURN_IF_ERROR(Streams());
    if (wanted("prefill")) RETURN_IF_ERROR(PrefillBesideStreams());
    if (wanted("prefix")) RETURN_IF_ERROR(RepeatedPrefix());
    return absl::OkStatus();
  }

 private:
  // Prompts never meet, so that no cache of prefixes answers for the model.
  EngineRequest Request(int prompt, int answer) {
    EngineRequest request;
    for (int i = 0; i < prompt; ++i) {
      random_ = random_ * 6364136223846793005u + 1442695040888963407u;
      request.prompt_ids.push_back(
          static_cast<int32_t>((random_ >> 33) % static_cast<uint64_t>(checkpoint_->spec().vocab)));
    }
    request.max_tokens = answer;
    request.ignore_eos = true;
    return request;
  }

  // Submits all at once and waits for the ends. `on_token` sees the number of the stream, on the engine's thread.
  absl::StatusOr<std::vector<Stream>> Run(std::vector<EngineRequest> requests,
                                          std::function<void(size_t)> on_token = nullptr) {
    std::vector<Stream> streams(requests.size());
    absl::BlockingCounter left(static_cast<int>(requests.size()));
    start_ = absl::Now();
    for (size_t i = 0; i < requests.size(); ++i) {
      RETURN_IF_ERROR(engine_
                          ->Submit(std::move(requests[i]), Recorder(streams[i], left,
                                                                    [on_token, i] {
                                                                      if (on_token != nullptr) on_token(i);
                                                                    }))
                          .status());
    }
    left.Wait();
    for (const Stream& stream : streams) RETURN_IF_ERROR(stream.status);
    return streams;
  }

  TokenCallback Recorder(
      Stream& stream, absl::BlockingCounter& left, std::function<void()> on_token = [] {}) {
    return [this, &stream, &left, on_token](const TokenEvent& event) {
      if (event.token >= 0) {
        if (stream.seconds.empty()) stream.cached_tokens = event.cached_tokens;
        stream.seconds.push_back(absl::ToDoubleSeconds(absl::Now() - start_));
        on_token();
      }
      if (!event.ended()) return;
      stream.status = event.status;
      left.DecrementCount();
    };
  }

  // Four streams: how much sooner they end on average at once than one after another.
  absl::Status Together() {
    std::vector<double> gains;
    for (int repetition = 0; repetition < 3; ++repetition) {
      double alone = 0, at_once = 0, before = 0;
      for (int i = 0; i < 4; ++i) {
        ASSIGN_OR_RETURN(const auto streams, Run({Request(32, options_.answer_tokens)}));
        before += streams[0].seconds.back();
        alone += before / 4;
      }
      std::vector<EngineRequest> requests;
      for (int i = 0; i < 4; ++i) requests.push_back(Request(32, options_.answer_tokens));
      ASSIGN_OR_RETURN(const auto streams, Run(std::move(requests)));
      for (const Stream& stream : streams) at_once += stream.seconds.back() / 4;
      gains.push_back(1 - at_once / alone);
    }
    std::cout << absl::StreamFormat(
        "4 streams at once end on average %.0f%% sooner than one after another (bar 40%%)\n", 100 * MedianOf(gains));
    return absl::OkStatus();
  }

  // Tokens per second of decode, and experts read a step, with `count` streams.
  absl::StatusOr<std::pair<double, double>> Decode(int count) {
    std::vector<double> rates, experts;
    for (int repetition = 0; repetition < 3; ++repetition) {
      std::vector<EngineRequest> requests;
      for (int i = 0; i < count; ++i) requests.push_back(Request(16, options_.answer_tokens));
      ASSIGN_OR_RETURN(const auto streams, Run(std::move(requests)));
      // Where all decode: from the last first token to the first last one.
      double from = 0, to = 1e30;
      for (const Stream& stream : streams) {
        from = std::max(from, stream.seconds.front());
        to = std::min(to, stream.seconds.back());
      }
      rates.push_back(static_cast<double>(Gaps(streams, from, to).size()) / (to - from));
      experts.push_back(engine_->stats().experts_last_step);
    }
    return std::pair(MedianOf(rates), MedianOf(experts));
  }

  absl::Status Streams() {
    const ModelReport report = Inspect(*checkpoint_, 1);
    const ModelSpec& spec = report.spec;
    const double expert = static_cast<double>(report.expert_bytes) / spec.moe_layers() / spec.gate.experts;
    const double fixed = static_cast<double>(report.active_bytes) - expert * spec.moe_layers() * spec.gate.top_k;
    ASSIGN_OR_RETURN(const auto one, Decode(1));
    ASSIGN_OR_RETURN(const auto many, Decode(options_.streams));
    const double bytes_one = fixed + expert * one.second, bytes_many = fixed + expert * many.second;
    const double predicted = options_.streams * bytes_one / bytes_many, seen = many.first / one.first;
    std::cout << absl::StreamFormat(
        "decode: %.1f tokens/s with 1 stream (%.0f MB a step, %.1f GB/s), %.1f with %d (%.0f MB a step, %.1f GB/s, "
        "%.1f of %d experts a layer)\n",
        one.first, bytes_one / 1e6, bytes_one * one.first / 1e9, many.first, options_.streams, bytes_many / 1e6,
        bytes_many * many.first / options_.streams / 1e9, many.second / spec.moe_layers(), spec.gate.experts);
    std::cout << absl::StreamFormat("ratio %.2f, predicted by bytes %.2f: %.0f%% of it (bar 70%%)\n", seen, predicted,
                                    100 * seen / predicted);
    return absl::OkStatus();
  }

  // Eight streams; while they run, a long prompt.
  absl::Status PrefillBesideStreams() {
    std::vector<EngineRequest> requests;
    for (int i = 0; i < 8; ++i) requests.push_back(Request(32, 1 << 20));
    Stream prompt;
    absl::BlockingCounter prompt_left(1);
    double submitted = 0;
    std::vector<Stream> streams(8);
    absl::BlockingCounter left(8);
    std::vector<SequenceId> ids;
    start_ = absl::Now();
    for (int i = 0; i < 8; ++i) {
      ASSIGN_OR_RETURN(const SequenceId id, engine_->Submit(std::move(requests[i]), Recorder(streams[i], left)));
      ids.push_back(id);
    }
    absl::SleepFor(absl::Seconds(6));
    submitted = absl::ToDoubleSeconds(absl::Now() - start_);
    RETURN_IF_ERROR(engine_->Submit(Request(options_.long_prompt, 1), Recorder(prompt, prompt_left)).status());
    prompt_left.Wait();
    for (const SequenceId id : ids) engine_->Cancel(id);
    left.Wait();
    RETURN_IF_ERROR(prompt.status);
    // Before: the second half, when all decode.
    const double before = MedianOf(Gaps(streams, submitted / 2, submitted));
    const std::vector<double> during = Gaps(streams, submitted, prompt.seconds[0]);
    std::cout << absl::StreamFormat(
        "8 streams: median gap %.0f ms; while %d tokens are prefilled (%.1f s) median %.0f, p99 %.0f, max %.0f ms: p99 "
        "is "
        "%.2f x the median before (bar 3)\n",
        1e3 * before, options_.long_prompt, prompt.seconds[0] - submitted, 1e3 * MedianOf(during),
        1e3 * QuantileOf(during, 0.99), 1e3 * QuantileOf(during, 1), QuantileOf(during, 0.99) / before);
    return absl::OkStatus();
  }

  // The same beginning again, with another question behind it.
  absl::Status RepeatedPrefix() {
    std::vector<double> cold, warm;
    int32_t cached = 0;
    for (int repetition = 0; repetition < 3; ++repetition) {
      const EngineRequest prefix = Request(options_.prefix_tokens, 1);
      for (std::vector<double>* times : {&cold, &warm}) {
        EngineRequest request = prefix;
        for (int32_t id : Request(16, 1).prompt_ids) request.prompt_ids.push_back(id);
        ASSIGN_OR_RETURN(const auto streams, Run({request}));
        times->push_back(streams[0].seconds[0]);
        cached = streams[0].cached_tokens;
      }
    }
    std::cout << absl::StreamFormat(
        "prefix of %d tokens: first token after %.0f ms cold, %.0f ms again (%d tokens cached): %.1f%% (bar 15%%)\n",
        options_.prefix_tokens, 1e3 * MedianOf(cold), 1e3 * MedianOf(warm), cached,
        100 * MedianOf(warm) / MedianOf(cold));
    return absl::OkStatus();
  }

  const BenchOptions options_;
  uint64_t random_ = 1;
  ThreadPool threads_;
  std::unique_ptr<Checkpoint> checkpoint_;
  const Kernels* kernels_ = nullptr;
  std::unique_ptr<ExpertPool> experts_;
  absl::Time start_;
  std::unique_ptr<Engine> engine_;  // last: its thread uses the others
};

absl::Status RunBench(const BenchOptions& options) {
  if (options.model.empty()) return absl::InvalidArgumentError("--model: missing; give a model directory");
  Bench bench(options);
  RETURN_IF_ERROR(bench.Start());
  return bench.RunAll();
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  conclave::BenchOptions options;
  conclave::Flags flags("serving_bench", "What batching, pacing and the prefix cache are worth on this machine.");
  flags.Add("model", &options.model, "model directory, such as conclave make-model --preset small makes");
  flags.Add("kernels", &options.kernels, "set of kernels, such as avx512-bf16; empty: the one that a service takes");
  flags.Add("threads", &options.threads, "threads that compute");
  flags.Add("answer-tokens", &options.answer_tokens, "tokens of each stream");
  flags.Add("streams", &options.streams, "streams that decode together");
  flags.Add("long-prompt", &options.long_prompt, "tokens that are prefilled beside 8 streams");
  flags.Add("prefix-tokens", &options.prefix_tokens, "tokens that two prompts have in common");
  flags.Add("prefill-stretch", &options.prefill_stretch, "as the flag of router_service");
  flags.Add("only", &options.only, "together, streams, prefill or prefix; none: all");
  const absl::StatusOr<bool> parsed = flags.Parse(argc, argv);
  if (!parsed.ok()) return conclave::ExitWith("serving_bench", parsed.status(), 2);
  if (!*parsed) return 0;
  return conclave::ExitWith("serving_bench", conclave::RunBench(options), 1);
}
