// `conclave bench-model`: prefill, decode and batched decode of a model, by the engine that serves it. The figures mean
// what llama-bench's mean: pp512 is a prompt of 512 tokens, tg128 are 128 tokens after it began, one at a time.
#include <algorithm>
#include <cstdint>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "cli/command.h"
#include "cli/local_cluster.h"
#include "moe/base/json_writer.h"
#include "moe/base/status_macros.h"
#include "router_service/engine.h"

namespace conclave {
namespace {

// What one sequence of a run told.
struct Stream {
  absl::Time first, last;  // when its first and its last token came
  absl::Status status;
};

class Bench;

struct Figure {
  std::string name;  // "pp512", "tg128", "tg128 @ d4096", "tg32 x 16"
  std::function<absl::StatusOr<double>(Bench&)> measure;
  std::vector<double> tokens_per_second = {};  // one a repetition
  double Median() const {
    std::vector<double> sorted = tokens_per_second;
    std::nth_element(sorted.begin(), sorted.begin() + sorted.size() / 2, sorted.end());
    return sorted[sorted.size() / 2];
  }
};

// Token ids that differ between sequences, so that no cache of prefixes answers for the model.
std::vector<int32_t> PromptIds(int count, uint64_t seed, int vocab) {
  std::vector<int32_t> ids;
  uint64_t state = seed * 0x9e3779b97f4a7c15ull + 1;
  for (int i = 0; i < count; ++i) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    ids.push_back(static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(vocab)));
  }
  return ids;
}

class Bench {
 public:
  explicit Bench(LocalCluster& cluster) : cluster_(cluster) {}

  // Tokens per second of reading a prompt: until its first answer, which the last row of the prompt gives.
  absl::StatusOr<double> Prefill(int tokens) {
    const absl::Time start = absl::Now();
    ASSIGN_OR_RETURN(const std::vector<Stream> streams, Run(1, tokens, 1));
    return tokens / absl::ToDoubleSeconds(streams[0].last - start);
  }

  // Tokens per second of `count` sequences that answer at the same time behind a context of `depth` tokens, all of
  // them together. The clock runs from when the last of them has its first token until the first of them ends.
  absl::StatusOr<double> Decode(int count, int tokens, int depth = 1) {
    ASSIGN_OR_RETURN(const std::vector<Stream> streams, Run(count, depth, tokens + 1));
    absl::Time begin = absl::InfinitePast(), end = absl::InfiniteFuture();
    for (const Stream& stream : streams) {
      begin = std::max(begin, stream.first);
      end = std::min(end, stream.last);
    }
    return count * tokens / absl::ToDoubleSeconds(end - begin);
  }

 private:
  absl::StatusOr<std::vector<Stream>> Run(int count, int prompt_tokens, int answer_tokens) {
    // Shared with the engine's thread, which may still be inside a callback when the wait is over.
    struct Shared {
      explicit Shared(int count) : streams(static_cast<size_t>(count)), left(count) {}
      std::vector<Stream> streams;
      absl::BlockingCounter left;
    };
    const auto shared = std::make_shared<Shared>(count);
    std::vector<SequenceId> sequences;
    for (int i = 0; i < count; ++i) {
      EngineRequest request;
      request.prompt_ids = PromptIds(prompt_tokens, ++prompts_, cluster_.checkpoint().spec().vocab);
      request.max_tokens = answer_tokens;
      request.ignore_eos = true;
      absl::StatusOr<SequenceId> id =
          cluster_.engine().Submit(std::move(request), [shared, i](const TokenEvent& event) {
            Stream& stream = shared->streams[static_cast<size_t>(i)];
            stream.last = absl::Now();
            if (stream.first == absl::Time()) stream.first = stream.last;
            if (!event.ended()) return;
            stream.status = event.status;
            shared->left.DecrementCount();
          });
      if (!id.ok()) {
        for (const SequenceId started : sequences) cluster_.engine().Cancel(started);
        return id.status();
      }
      sequences.push_back(*id);
    }
    shared->left.Wait();
    for (const Stream& stream : shared->streams) RETURN_IF_ERROR(stream.status);
    return shared->streams;
  }

  LocalCluster& cluster_;
  uint64_t prompts_ = 0;
};

class BenchModelCommand final : public Command {
 public:
  std::string name() const override { return "bench-model"; }
  std::string summary() const override { return "measure prefill and decode of a model in tokens per second"; }

  void Declare(CommandFlags& flags) override {
    local_.Declare(flags);
    flags.Add("prompt-tokens", &prompt_tokens_, "N", "tokens of the prompt to read; 0: do not measure").minimum = 0;
    flags.Add("answer-tokens", &answer_tokens_, "N", "tokens to generate alone; 0: do not measure").minimum = 0;
    flags.Add("depths", &depths_, "N,N,…", "contexts behind which to generate alone as well; empty: none");
    flags.Add("streams", &streams_, "N,N,…", "how many sequences decode together; empty: do not measure");
    flags.Add("stream-tokens", &stream_tokens_, "N", "tokens that each of them generates").minimum = 1;
    flags.Add("repetitions", &repetitions_, "N", "runs of each, of which the median counts").minimum = 1;
    flags.AddOutput(&output_);
  }

  absl::Status Run(const CommandContext& context) override {
    RETURN_IF_ERROR(local_.Validate());
    ASSIGN_OR_RETURN(const std::vector<int> streams, Numbers("--streams", streams_, kStreamsMax));
    ASSIGN_OR_RETURN(const std::vector<int> depths, Numbers("--depths", depths_, kDepthMax));
    EngineOptions options;
    options.sequences_running_max =
        std::max(1, streams.empty() ? 1 : *std::max_element(streams.begin(), streams.end()));
    options.batch_tokens_max = options.prefill_chunk_tokens_max = 512;
    const int depth_max = depths.empty() ? 1 : *std::max_element(depths.begin(), depths.end());
    options.context_max = std::max(prompt_tokens_ + 1, std::max(answer_tokens_, stream_tokens_) + depth_max + 1);
    const absl::Time start = absl::Now();
    ASSIGN_OR_RETURN(const auto cluster, LocalCluster::Create(local_, context.hub, options));
    Bench bench(*cluster);
    // The first pass maps the weights' pages, and is what a user waits for after a start.
    RETURN_IF_ERROR(bench.Decode(1, 1).status());
    const absl::Duration first_token = absl::Now() - start;
    std::vector<Figure> figures = Plan(streams, depths);
    RETURN_IF_ERROR(Measure(bench, figures));
    Print(figures, first_token);
    return absl::OkStatus();
  }

 private:
  static constexpr int kStreamsMax = 256, kDepthMax = 1 << 20;

  static absl::StatusOr<std::vector<int>> Numbers(absl::string_view flag, absl::string_view text, int most) {
    std::vector<int> numbers;
    for (const absl::string_view word : absl::StrSplit(text, ',', absl::SkipEmpty())) {
      int number = 0;
      if (!absl::SimpleAtoi(word, &number) || number < 1 || number > most) {
        return UsageError(
            absl::StrCat(flag, " takes numbers from 1 to ", most, " with commas between them; '", word, "' is none"));
      }
      numbers.push_back(number);
    }
    return numbers;
  }

  std::vector<Figure> Plan(const std::vector<int>& streams, const std::vector<int>& depths) const {
    std::vector<Figure> figures;
    if (prompt_tokens_ > 0) {
      figures.push_back(
          {absl::StrCat("pp", prompt_tokens_), [n = prompt_tokens_](Bench& bench) { return bench.Prefill(n); }});
    }
    if (answer_tokens_ > 0) {
      const auto decode = [n = answer_tokens_](int depth) {
        return [=](Bench& bench) { return bench.Decode(1, n, depth); };
      };
      figures.push_back({absl::StrCat("tg", answer_tokens_), decode(1)});
      for (const int depth : depths)
        figures.push_back({absl::StrCat("tg", answer_tokens_, " @ d", depth), decode(depth)});
    }
    for (const int count : streams) {
      figures.push_back({absl::StrCat("tg", stream_tokens_, " x ", count),
                         [=, n = stream_tokens_](Bench& bench) { return bench.Decode(count, n); }});
    }
    return figures;
  }

  // All figures in turn, and that as often as asked, so that a slow minute of the machine falls on all of them.
  absl::Status Measure(Bench& bench, std::vector<Figure>& figures) const {
    if (prompt_tokens_ > 0) RETURN_IF_ERROR(bench.Prefill(prompt_tokens_).status());  // touches every expert
    for (int i = 0; i < repetitions_; ++i) {
      for (Figure& figure : figures) {
        ASSIGN_OR_RETURN(const double speed, figure.measure(bench));
        figure.tokens_per_second.push_back(speed);
      }
    }
    return absl::OkStatus();
  }

  void Print(const std::vector<Figure>& figures, absl::Duration first_token) const {
    if (output_ == "json") {
      JsonWriter json;
      json.BeginObject()
          .Key("first_token_ms")
          .Real(absl::ToDoubleMilliseconds(first_token))
          .Key("figures")
          .BeginArray();
      for (const Figure& figure : figures) {
        json.BeginObject().Key("name").Text(figure.name).Key("tokens_per_second").Real(figure.Median());
        json.Key("repetitions").BeginArray();
        for (const double speed : figure.tokens_per_second) json.Real(speed);
        json.End().End();
      }
      std::cout << json.End().End().text() << "\n";
      return;
    }
    std::cout << absl::StrFormat("start to first token: %.0f ms\n", absl::ToDoubleMilliseconds(first_token));
    for (const Figure& figure : figures) {
      const auto [least, most] = std::minmax_element(figure.tokens_per_second.begin(), figure.tokens_per_second.end());
      std::cout << absl::StrFormat("%-14s %9.1f tokens/s  (%.1f to %.1f)\n", figure.name, figure.Median(), *least,
                                   *most);
    }
  }

  LocalClusterFlags local_;
  int prompt_tokens_ = 512;
  int answer_tokens_ = 128;
  std::string depths_;
  std::string streams_ = "1,4,8,16";
  int stream_tokens_ = 32;
  int repetitions_ = 3;
  std::string output_ = "text";
};

}  // namespace

std::unique_ptr<Command> NewBenchModelCommand() { return std::make_unique<BenchModelCommand>(); }

}  // namespace conclave
