// `conclave logits`: what the serving engine computes for given token ids, for comparison with other implementations.
#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cli/command.h"
#include "cli/local_cluster.h"
#include "cli/run_request.h"
#include "moe/base/check.h"
#include "moe/base/ids.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/safetensors_writer.h"
#include "moe/model/expert_pool.h"
#include "moe/tensor/mat_view.h"
#include "router_service/engine.h"

namespace conclave {
namespace {

// Keeps copies of what the engine shows of the prompt's rows.
class Recorder final : public SequenceObserver {
 public:
  Recorder(int64_t rows, const ModelSpec& spec)
      : vocab_(spec.vocab), top_k_(spec.gate.top_k), rows_(rows), logits_(static_cast<size_t>(rows * spec.vocab)) {}

  void OnPromptLogits(int32_t first_position, ConstMatView rows) override {
    CONCLAVE_CHECK(first_position + rows.rows <= rows_ && rows.cols == vocab_);
    for (int64_t row = 0; row < rows.rows; ++row) {
      std::memcpy(&logits_[static_cast<size_t>((first_position + row) * vocab_)], rows.Row<float>(row),
                  static_cast<size_t>(vocab_) * sizeof(float));
    }
  }

  void OnPromptRouting(LayerId layer, int32_t first_position, const Routing& routing) override {
    Gate& gate = gates_[Value(layer)];
    const size_t size = static_cast<size_t>(rows_ * top_k_);
    gate.experts.resize(size);
    gate.weights.resize(size);
    const size_t begin = static_cast<size_t>(first_position) * static_cast<size_t>(top_k_);
    CONCLAVE_CHECK(begin + routing.experts.size() <= size);
    std::copy(routing.experts.begin(), routing.experts.end(), gate.experts.begin() + static_cast<int64_t>(begin));
    std::copy(routing.weights.begin(), routing.weights.end(), gate.weights.begin() + static_cast<int64_t>(begin));
  }

  // Writes "logits", "gate.<layer>.experts", "gate.<layer>.weights" and "greedy".
  absl::Status Write(const std::string& path, const std::vector<int32_t>& greedy) const {
    std::vector<SafetensorsArray> arrays;
    arrays.push_back({"logits", DType::kF32, {rows_, vocab_}, logits_.data()});
    for (const auto& [layer, gate] : gates_) {
      arrays.push_back({absl::StrCat("gate.", layer, ".experts"), DType::kI32, {rows_, top_k_}, gate.experts.data()});
      arrays.push_back({absl::StrCat("gate.", layer, ".weights"), DType::kF32, {rows_, top_k_}, gate.weights.data()});
    }
    arrays.push_back({"greedy", DType::kI32, {static_cast<int64_t>(greedy.size())}, greedy.data()});
    return WriteSafetensors(path, arrays);
  }

 private:
  struct Gate {
    std::vector<int32_t> experts;  // [rows, top_k]
    std::vector<float> weights;    // [rows, top_k]
  };

  int64_t vocab_, top_k_, rows_;
  std::vector<float> logits_;  // [rows, vocab]
  std::map<int32_t, Gate> gates_;
};

absl::StatusOr<std::vector<int32_t>> ParseIds(const std::string& text) {
  if (text.empty()) return UsageError("--ids is missing: give the prompt as token ids, such as --ids 1,2,3");
  std::vector<int32_t> ids;
  for (absl::string_view word : absl::StrSplit(text, ',')) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(word, &id) || id < 0) {
      return UsageError(absl::StrCat("--ids takes token ids with commas between them; '", word, "' is none"));
    }
    ids.push_back(id);
  }
  return ids;
}

class LogitsCommand final : public Command {
 public:
  std::string name() const override { return "logits"; }
  std::string summary() const override { return "write the logits and routing of given token ids to a file"; }

  void Declare(CommandFlags& flags) override {
    local_.Declare(flags);
    flags.Add("ids", &ids_, "1,2,3", "the prompt as token ids, taken as they are");
    flags.Add("greedy", &greedy_, "N", "go on by N most likely tokens, past the end of the answer").minimum = 0;
    flags.Add("out", &out_, "FILE", "the safetensors file to write");
  }

  absl::Status Run(const CommandContext& context) override {
    RETURN_IF_ERROR(local_.Validate());
    if (out_.empty()) return UsageError("--out is missing: name the safetensors file to write");
    EngineRequest request;
    ASSIGN_OR_RETURN(request.prompt_ids, ParseIds(ids_));
    EngineOptions options;
    options.sequences_running_max = 1;
    ASSIGN_OR_RETURN(const auto cluster, LocalCluster::Create(local_, context.hub, options));
    const int64_t rows = static_cast<int64_t>(request.prompt_ids.size());
    if (rows > cluster->checkpoint().spec().context_max) {
      return absl::InvalidArgumentError(absl::StrCat("--ids has ", rows, " ids, but the model's context ends at ",
                                                     cluster->checkpoint().spec().context_max));
    }
    Recorder recorder(rows, cluster->checkpoint().spec());
    request.observer = &recorder;
    request.ignore_eos = true;
    request.max_tokens = std::max(greedy_, 1);  // the prompt's own logits need one step
    ASSIGN_OR_RETURN(RequestOutcome outcome, RunToEnd(cluster->engine(), std::move(request)));
    std::vector<int32_t>& greedy = outcome.ids;
    if (static_cast<int>(greedy.size()) < greedy_) {
      return absl::InvalidArgumentError(absl::StrCat("--greedy ", greedy_, " goes beyond the model's context of ",
                                                     cluster->checkpoint().spec().context_max, " tokens"));
    }
    greedy.resize(static_cast<size_t>(greedy_));
    return recorder.Write(out_, greedy);
  }

 private:
  LocalClusterFlags local_;
  std::string ids_, out_;
  int greedy_ = 0;
};

}  // namespace

std::unique_ptr<Command> NewLogitsCommand() { return std::make_unique<LogitsCommand>(); }

}  // namespace conclave
