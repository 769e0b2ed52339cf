// `conclave perplexity`: how well a model foretells a text, by the engine that serves it.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "cli/command.h"
#include "cli/local_cluster.h"
#include "cli/progress_bar.h"
#include "cli/run_request.h"
#include "moe/base/json_writer.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/model_file.h"
#include "moe/tokenizer/tokenizer.h"
#include "router_service/engine.h"

namespace conclave {
namespace {

constexpr int64_t kTextBytesMax = int64_t{64} << 20;

// Sums over tokens.
struct Score {
  int64_t tokens = 0;
  double nats = 0;           // of all together: -Σ ln p
  double squared_nats = 0;
  double mean() const { return nats / static_cast<double>(tokens); }
  double perplexity() const { return std::exp(mean()); }
  // The standard error of the mean, were tokens independent.
  double error() const {
    const double count = static_cast<double>(tokens);
    return std::sqrt(std::max(0.0, squared_nats / count - mean() * mean()) / count);
  }
};

class PerplexityCommand final : public Command {
 public:
  std::string name() const override { return "perplexity"; }
  std::string summary() const override { return "measure how well a model foretells a text"; }

  void Declare(CommandFlags& flags) override {
    local_.Declare(flags);
    flags.Add("text", &text_, "FILE", "the text; names of special tokens in it stand for these");
    flags.Add("window", &window_, "N", "tokens that a prediction may look back on, and BOS before them").minimum = 2;
    flags.Add("stride", &stride_, "N", "tokens from one window to the next, each scored once; 0: half a window")
        .minimum = 0;
    flags.Add("tokens-max", &tokens_max_, "N", "use the first N tokens of the text; 0: all").minimum = 0;
    flags.AddOutput(&output_);
  }

  absl::Status Run(const CommandContext& context) override {
    RETURN_IF_ERROR(local_.Validate());
    if (text_.empty()) return UsageError("--text is missing: name a file with text");
    const int stride = stride_ > 0 ? stride_ : std::max(1, window_ / 2);
    if (stride > window_) {
      return UsageError(absl::StrCat("--stride ", stride, " is more than --window ", window_,
                                     ": tokens between windows would not be scored"));
    }
    ASSIGN_OR_RETURN(const std::string text, ReadTextFile(text_, kTextBytesMax));
    EngineOptions options;
    options.sequences_running_max = 1;
    ASSIGN_OR_RETURN(const auto cluster, LocalCluster::Create(local_, context.hub, options));
    ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(cluster->checkpoint().directory()));
    std::vector<int32_t> ids = tokenizer->Encode(text, SpecialText::kAsTokens);
    if (tokens_max_ > 0 && ids.size() > static_cast<size_t>(tokens_max_)) ids.resize(static_cast<size_t>(tokens_max_));
    if (ids.size() < 2) return absl::InvalidArgumentError(absl::StrCat(text_, ": has fewer than two tokens"));
    if (window_ + 2 > cluster->checkpoint().spec().context_max) {
      return UsageError(absl::StrCat("--window ", window_, " and two more tokens do not fit the model's context of ",
                                     cluster->checkpoint().spec().context_max));
    }
    const bool bos = tokenizer->add_bos() && tokenizer->bos_id().has_value();
    Score score;
    auto bar = std::make_unique<ProgressBar>("tokens");
    size_t scored = 0;  // tokens of the text before this one have been
    for (size_t begin = 0; scored < ids.size(); begin += static_cast<size_t>(stride)) {
      bar->Update(static_cast<int64_t>(scored), static_cast<int64_t>(ids.size()));
      const size_t end = std::min(ids.size(), begin + static_cast<size_t>(window_));
      std::vector<int32_t> window;
      if (bos) window.push_back(*tokenizer->bos_id());
      window.insert(window.end(), ids.begin() + static_cast<int64_t>(begin), ids.begin() + static_cast<int64_t>(end));
      RETURN_IF_ERROR(AddWindow(cluster->engine(), std::move(window), end - scored, score));
      scored = end;
    }
    bar = nullptr;  // takes its line away
    Print(score, stride);
    return absl::OkStatus();
  }

 private:
  // Adds the last `count` tokens of the window, but never its first one, which follows nothing.
  static absl::Status AddWindow(Engine& engine, std::vector<int32_t> window, size_t count, Score& score) {
    EngineRequest request;
    request.prompt_ids = std::move(window);
    request.max_tokens = 1;
    request.ignore_eos = true;
    request.top_logprobs = 0;
    request.prompt_logprobs = true;
    ASSIGN_OR_RETURN(const RequestOutcome outcome, RunToEnd(engine, std::move(request)));
    const size_t size = outcome.prompt_logprobs.size();
    for (size_t i = std::max<size_t>(1, size - std::min(size, count)); i < size; ++i) {
      const double nats = -static_cast<double>(outcome.prompt_logprobs[i].logprob);
      ++score.tokens;
      score.nats += nats;
      score.squared_nats += nats * nats;
    }
    return absl::OkStatus();
  }

  void Print(const Score& score, int stride) const {
    if (output_ == "json") {
      JsonWriter json;
      json.BeginObject().Key("perplexity").Real(score.perplexity()).Key("nats_per_token").Real(score.mean());
      json.Key("nats_per_token_error").Real(score.error()).Key("tokens").Number(score.tokens);
      json.Key("window").Number(window_).Key("stride").Number(stride);
      std::cout << json.End().text() << "\n";
      return;
    }
    std::cout << absl::StrFormat(
        "perplexity %.4f: %.5f nats a token (standard error %.5f) over %d tokens, windows of %d, stride %d\n",
        score.perplexity(), score.mean(), score.error(), score.tokens, window_, stride);
  }

  LocalClusterFlags local_;
  std::string text_;
  int window_ = 512;
  int stride_ = 0;
  int tokens_max_ = 0;
  std::string output_ = "text";
};

}  // namespace

std::unique_ptr<Command> NewPerplexityCommand() { return std::make_unique<PerplexityCommand>(); }

}  // namespace conclave
