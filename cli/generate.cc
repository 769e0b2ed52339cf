// `conclave generate`: text from a prompt, by a gateway or by an engine in this process.
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "cli/cluster_access.h"
#include "cli/command.h"
#include "cli/expert_report.h"
#include "cli/generation.h"
#include "cli/local_cluster.h"
#include "moe/base/json_writer.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/model_file.h"
#include "moe/grammar/json_schema.h"
#include "moe/placement/placement.h"

namespace conclave {
namespace {

constexpr int kBarsMax = 16;

void AppendExpertUse(const ExpertUse& use, JsonWriter& json) {
  json.Key("expert_use").BeginArray();
  for (size_t layer = 0; layer < use.size(); ++layer) {
    if (use[layer].empty()) continue;
    json.BeginObject().Key("layer").Number(static_cast<int64_t>(layer)).Key("tokens").BeginArray();
    for (const uint32_t tokens : use[layer]) json.Number(tokens);
    json.End().End();
  }
  json.End();
}

std::string ToJson(const GenerationResult& result, bool show_experts) {
  JsonWriter json;
  json.BeginObject().Key("prompt_ids").Numbers(result.prompt_ids).Key("ids").Numbers(result.ids);
  json.Key("text").Text(result.text).Key("finish_reason").Text(result.finish_reason);
  json.Key("logits_hash").Text(result.logits_hash);
  if (show_experts) AppendExpertUse(result.expert_use, json);
  return json.End().text();
}

class GenerateCommand final : public Command {
 public:
  std::string name() const override { return "generate"; }
  std::string summary() const override { return "answer a prompt, by a running cluster or in this process"; }

  void Declare(CommandFlags& flags) override {
    local_.Declare(flags);
    access_.Declare(flags, "ask the gateway with this gRPC address instead of loading a model here", "gateway");
    flags.Add("prompt", &request_.prompt, "TEXT", "the prompt");
    flags.Add("chat", &request_.chat, "", "render the prompt as a chat message with the model's template");
    flags.Add("max-tokens", &request_.max_tokens, "N", "generate at most this many tokens").minimum = 1;
    CommandFlag& temperature = flags.Add("temperature", &request_.temperature, "X", "0: always the most likely token");
    temperature.minimum = 0;
    temperature.maximum = 100;
    CommandFlag& top_p =
        flags.Add("top-p", &request_.top_p, "P", "sample from the likeliest tokens of this total probability");
    top_p.minimum = 1e-6;
    top_p.maximum = 1;
    flags.Add("top-k", &request_.top_k, "K", "sample from this many of the likeliest tokens; 0: all").minimum = 0;
    flags.Add("seed", &seed_, "N", "makes sampling repeatable; drawn where absent");
    flags.Add("hash-logits", &request_.hash_logits, "", "report a hash over the logits of every step");
    flags.Add("ignore-eos", &request_.ignore_eos, "", "go on past the end of the answer");
    flags.Add("json-schema", &schema_file_, "FILE", "answer with an instance of this JSON Schema");
    flags.Add("show-experts", &show_experts_, "", "afterwards, show which experts did the work");
    CommandFlag& beside = flags.Add("beside", &beside_, "N", "run N other requests at the same time");
    beside.hidden = true;
    beside.minimum = 0;
    beside.maximum = 255;
    flags.AddOutput(&output_);
  }

  absl::Status Run(const CommandContext& context) override {
    RETURN_IF_ERROR(Validate());
    const bool json = output_ == "json";
    bool wrote = false;
    const TextSink sink = [json, &wrote](absl::string_view text) {
      if (!json) std::cout << text << std::flush;
      wrote = true;
    };
    absl::StatusOr<GenerationResult> result = local_.model.empty() ? AskCluster(sink) : AskHere(context, sink);
    if (json) {
      if (result.ok()) std::cout << ToJson(*result, show_experts_) << "\n";
      return result.status();
    }
    if (result.ok() || wrote) std::cout << std::endl;
    RETURN_IF_ERROR(result.status());
    if (request_.hash_logits) std::cout << "logits hash: " << result->logits_hash << "\n";
    if (show_experts_) std::cout << "\n" << ExpertReport(result->expert_use, holdings_, kBarsMax);
    return absl::OkStatus();
  }

 private:
  absl::Status Validate() {
    const int sources = !local_.model.empty() + !access_.address.empty() + !access_.run_directory.empty();
    if (sources != 1) {
      return UsageError(
          "say who shall answer, once: --model DIR runs here, --address HOST:PORT or --run-dir DIR asks a cluster");
    }
    if (request_.prompt.empty()) return UsageError("--prompt is empty: give the text to go on from");
    if (static_cast<int64_t>(request_.prompt.size()) > limits::kPromptBytesMax) {
      return UsageError(
          absl::StrCat("--prompt has ", request_.prompt.size(), " bytes, at most ", limits::kPromptBytesMax));
    }
    if (!seed_.empty()) {
      uint64_t seed = 0;
      if (!absl::SimpleAtoi(seed_, &seed)) {
        return UsageError(absl::StrCat("--seed takes a whole number from 0 to 2^64-1, not '", seed_, "'"));
      }
      request_.seed = seed;
    }
    if (!schema_file_.empty()) RETURN_IF_ERROR(ReadSchema());
    return local_.model.empty() ? access_.Validate() : local_.Validate();
  }

  absl::Status ReadSchema() {
    absl::StatusOr<std::string> text = ReadTextFile(schema_file_, kSchemaBytesMax);
    if (!text.ok()) return UsageError(absl::StrCat("--json-schema: ", text.status().message()));
    if (const absl::Status valid = CompileJsonSchema(*text).status(); !valid.ok()) {
      return UsageError(absl::StrCat("--json-schema: ", schema_file_, ": ", valid.message()));
    }
    if (request_.ignore_eos) return UsageError("--ignore-eos: a schema says where the answer ends");
    request_.json_schema = *std::move(text);
    local_.vocabulary = true;
    return absl::OkStatus();
  }

  absl::StatusOr<GenerationResult> AskCluster(const TextSink& sink) {
    ASSIGN_OR_RETURN(const std::string gateway, access_.AddressOf("gateway"));
    ASSIGN_OR_RETURN(GenerationResult result, GenerateAtGateway(gateway, access_, request_, sink));
    if (show_experts_ && !access_.run_directory.empty()) {
      ASSIGN_OR_RETURN(const std::string router, access_.AddressOf("router"));
      ASSIGN_OR_RETURN(holdings_, HoldingsFromRouter(router, access_));
    }
    if (holdings_.empty()) holdings_ = SingleHolder("all shards", result.expert_use);
    return result;
  }

  absl::StatusOr<GenerationResult> AskHere(const CommandContext& context, const TextSink& sink) {
    EngineOptions options;
    options.sequences_running_max = 1 + beside_;
    ASSIGN_OR_RETURN(const auto cluster, LocalCluster::Create(local_, context.hub, options));
    ASSIGN_OR_RETURN(GenerationResult result, GenerateLocally(*cluster, request_, beside_, sink));
    holdings_ = cluster->Holdings();
    return result;
  }

  LocalClusterFlags local_;
  ClusterAccess access_;
  GenerationRequest request_;
  std::string seed_, schema_file_, output_ = "text";
  bool show_experts_ = false;
  int beside_ = 0;
  std::vector<ShardHoldings> holdings_;
};

}  // namespace

std::unique_ptr<Command> NewGenerateCommand() { return std::make_unique<GenerateCommand>(); }

}  // namespace conclave
