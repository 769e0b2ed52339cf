// `conclave bench-model`: prefill, decode and batched decode of a model, by the engine that serves it, here or, with
// --against, with its experts elsewhere as well.
#include <algorithm>
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
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "cli/bench_ceilings.h"
#include "cli/bench_placement.h"
#include "cli/command.h"
#include "cli/local_cluster.h"
#include "cli/model_timer.h"
#include "cli/process_group.h"
#include "moe/base/json_writer.h"
#include "moe/base/quantile.h"
#include "moe/base/status_macros.h"
#include "router_service/engine.h"
#include "router_service/sampler.h"

namespace conclave {
namespace {

// One thing to measure.
struct Figure {
  enum class Kind { kPrefill, kDecode, kStreams } kind;
  std::string name;  // "pp512", "tg128", "tg128 @ d4096", "tg32 x 16"
  std::function<absl::StatusOr<double>(ModelTimer&)> measure;
};

// Where it is measured, and what came of it.
struct Way {
  std::string name;  // empty: as --shards and --transport say; else an item of --against
  ModelTimer* timer;
  std::vector<std::vector<double>> tokens_per_second = {};  // [figure][repetition]

  double Median(size_t figure) const { return MedianOf(tokens_per_second[figure]); }

  // The median over the repetitions of how many times as fast as `first` this was.
  double MedianRatio(size_t figure, const Way& first) const {
    std::vector<double> ratios;
    for (size_t i = 0; i < tokens_per_second[figure].size(); ++i) {
      ratios.push_back(tokens_per_second[figure][i] / first.tokens_per_second[figure][i]);
    }
    return MedianOf(std::move(ratios));
  }
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
    flags.Add("against", &against_, "PLACE,…",
              "measure with the experts elsewhere as well, in turn: inproc:N, ucx:N or grpc:N, on N shards in this "
              "process or in N others");
    flags.Add("temperature", &temperature_, "X", "0: always the most likely token");
    flags.Add("top-p", &top_p_, "P", "draw from the likeliest tokens of this total probability");
    flags.Add("top-k", &sampling_.top_k, "K", "draw from this many of the likeliest tokens; 0: all");
    flags.Add("min-p", &min_p_, "P", "draw from tokens of at least this share of the likeliest one's probability");
    flags.Add("repetition-penalty", &repetition_penalty_, "X",
              "above 1: tokens that were there already become less likely");
    flags.AddOutput(&output_);
  }

  absl::Status Run(const CommandContext& context) override {
    RETURN_IF_ERROR(local_.Validate());
    RETURN_IF_ERROR(TakeSampling());
    ASSIGN_OR_RETURN(const std::vector<int> streams, Numbers("--streams", streams_, kStreamsMax));
    ASSIGN_OR_RETURN(const std::vector<int> depths, Numbers("--depths", depths_, kDepthMax));
    ASSIGN_OR_RETURN(const std::vector<BenchPlacement> placements, ParseBenchPlacements(against_));
    if (!placements.empty()) BlockSignals();
    EngineOptions options;
    options.sequences_running_max =
        std::max(1, streams.empty() ? 1 : *std::max_element(streams.begin(), streams.end()));
    options.batch_tokens_max = options.prefill_chunk_tokens_max = 512;
    const int depth_max = depths.empty() ? 1 : *std::max_element(depths.begin(), depths.end());
    options.context_max = std::max(prompt_tokens_ + 1, std::max(answer_tokens_, stream_tokens_) + depth_max +
                                                           options.sequences_running_max);
    ASSIGN_OR_RETURN(ceilings_, BenchCeilings::Measure(local_.target));
    const absl::Time start = absl::Now();
    ASSIGN_OR_RETURN(const auto cluster, LocalCluster::Create(local_, context.hub, options));
    ModelTimer timer(*cluster, sampling_);
    // The first pass maps the weights' pages, and is what a user waits for after a start.
    RETURN_IF_ERROR(timer.Decode(1, 1).status());
    const absl::Duration first_token = absl::Now() - start;
    std::vector<Way> ways{{"", &timer}};
    std::vector<std::unique_ptr<PlacedModel>> elsewhere;
    for (const BenchPlacement& placement : placements) {
      ASSIGN_OR_RETURN(elsewhere.emplace_back(), PlacedModel::Create(placement, local_, context, options, sampling_));
      ways.push_back({placement.Name(), &elsewhere.back()->timer()});
    }
    const std::vector<Figure> figures = Plan(streams, depths);
    RETURN_IF_ERROR(Measure(figures, ways));
    for (const auto& model : elsewhere) RETURN_IF_ERROR(model->Stop());
    Print(figures, ways, first_token, cluster->checkpoint());
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

  absl::Status TakeSampling() {
    sampling_.temperature = static_cast<float>(temperature_);
    sampling_.top_p = static_cast<float>(top_p_);
    sampling_.min_p = static_cast<float>(min_p_);
    sampling_.repetition_penalty = static_cast<float>(repetition_penalty_);
    const absl::Status status = sampling_.Validate();
    return status.ok() ? status : UsageError(std::string(status.message()));
  }

  std::vector<Figure> Plan(const std::vector<int>& streams, const std::vector<int>& depths) const {
    std::vector<Figure> figures;
    if (prompt_tokens_ > 0) {
      figures.push_back(
          {Figure::Kind::kPrefill, absl::StrCat("pp", prompt_tokens_),
           [n = prompt_tokens_](ModelTimer& timer) { return timer.Prefill(n); }});
    }
    if (answer_tokens_ > 0) {
      const auto decode = [n = answer_tokens_](int depth) {
        return [=](ModelTimer& timer) { return timer.Decode(1, n, depth); };
      };
      figures.push_back({Figure::Kind::kDecode, absl::StrCat("tg", answer_tokens_), decode(1)});
      for (const int depth : depths)
        figures.push_back({Figure::Kind::kDecode, absl::StrCat("tg", answer_tokens_, " @ d", depth), decode(depth)});
    }
    for (const int count : streams) {
      figures.push_back({Figure::Kind::kStreams, absl::StrCat("tg", stream_tokens_, " x ", count),
                         [=, n = stream_tokens_](ModelTimer& timer) { return timer.Decode(count, n); }});
    }
    return figures;
  }

  // All figures everywhere in turn, and that as often as asked, so that a slow minute of the machine falls on all of
  // them. CANCELLED: a signal asked to end.
  absl::Status Measure(const std::vector<Figure>& figures, std::vector<Way>& ways) const {
    for (Way& way : ways) {
      way.tokens_per_second.resize(figures.size());
      // Touches every expert.
      if (prompt_tokens_ > 0) RETURN_IF_ERROR(way.timer->Prefill(prompt_tokens_).status());
    }
    for (int i = 0; i < repetitions_; ++i) {
      for (size_t figure = 0; figure < figures.size(); ++figure) {
        for (Way& way : ways) {
          ASSIGN_OR_RETURN(const double speed, figures[figure].measure(*way.timer));
          way.tokens_per_second[figure].push_back(speed);
          if (ways.size() > 1 && AsksToEnd(WaitForSignal(absl::ZeroDuration()))) {
            return absl::CancelledError("asked to end while measuring");
          }
        }
      }
    }
    return absl::OkStatus();
  }

  std::string Json(const std::vector<Figure>& figures, const std::vector<Way>& ways, absl::Duration first_token) const {
    JsonWriter json;
    json.BeginObject().Key("first_token_ms").Real(absl::ToDoubleMilliseconds(first_token));
    json.Key("temperature").Real(temperature_);
    if (ceilings_.known()) {
      json.Key("copy_bytes_per_second").Real(ceilings_.values().copy_bytes_per_second);
      json.Key("bf16_flops_per_second").Real(ceilings_.values().bf16_flops_per_second);
      json.Key("fp8_flops_per_second").Real(ceilings_.values().fp8_flops_per_second);
    }
    json.Key("figures").BeginArray();
    for (size_t figure = 0; figure < figures.size(); ++figure) {
      for (const Way& way : ways) {
        json.BeginObject().Key("name").Text(figures[figure].name).Key("tokens_per_second").Real(way.Median(figure));
        if (!way.name.empty()) {
          json.Key("against").Text(way.name).Key("ratio").Real(way.MedianRatio(figure, ways.front()));
        }
        json.Key("repetitions").BeginArray();
        for (const double speed : way.tokens_per_second[figure]) json.Real(speed);
        json.End().End();
      }
    }
    return json.End().End().text();
  }

  void Print(const std::vector<Figure>& figures, const std::vector<Way>& ways, absl::Duration first_token,
             const Checkpoint& checkpoint) const {
    if (output_ == "json") {
      std::cout << Json(figures, ways, first_token) << "\n";
      return;
    }
    std::cout << absl::StrFormat("start to first token: %.0f ms\n", absl::ToDoubleMilliseconds(first_token))
              << ceilings_.Text();
    for (size_t figure = 0; figure < figures.size(); ++figure) {
      for (const Way& way : ways) {
        const std::vector<double>& speeds = way.tokens_per_second[figure];
        const auto [least, most] = std::minmax_element(speeds.begin(), speeds.end());
        std::cout << absl::StrFormat("%-14s", figures[figure].name);
        if (ways.size() > 1) std::cout << absl::StrFormat(" %-10s", way.name);
        std::cout << absl::StrFormat(" %9.1f tokens/s  (%.1f to %.1f)", way.Median(figure), *least, *most);
        const Figure::Kind kind = figures[figure].kind;
        if (kind == Figure::Kind::kPrefill) {
          std::cout << ceilings_.OfPrefill(checkpoint, prompt_tokens_, way.Median(figure));
        }
        if (kind == Figure::Kind::kDecode) std::cout << ceilings_.OfDecode(checkpoint, way.Median(figure));
        if (!way.name.empty()) std::cout << absl::StrFormat("  %5.1f%%", 100 * way.MedianRatio(figure, ways.front()));
        std::cout << "\n";
      }
    }
  }

  LocalClusterFlags local_;
  int prompt_tokens_ = 512;
  int answer_tokens_ = 128;
  std::string depths_;
  std::string streams_ = "1,4,8,16";
  int stream_tokens_ = 32;
  int repetitions_ = 3;
  double temperature_ = 0, top_p_ = 1, min_p_ = 0, repetition_penalty_ = 1;
  SamplingParams sampling_;
  BenchCeilings ceilings_;
  std::string against_;
  std::string output_ = "text";
};

}  // namespace

std::unique_ptr<Command> NewBenchModelCommand() { return std::make_unique<BenchModelCommand>(); }

}  // namespace conclave
