// `conclave inspect DIR`: what a checkpoint consists of, and how it would spread over shards.
#include "moe/checkpoint/inspect.h"

#include <iostream>
#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "cli/command.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/checkpoint/model_dir.h"

namespace conclave {
namespace {

class InspectCommand final : public Command {
 public:
  std::string name() const override { return "inspect"; }
  std::string summary() const override { return "show what a model consists of and how it spreads over shards"; }

  void Declare(CommandFlags& flags) override {
    flags.Add("model", &model_, "DIR", "the model: a directory, or org/name[@revision] in the Hugging Face cache")
        .positional = true;
    CommandFlag& shards = flags.Add("shards", &shards_, "N", "how many shards to spread the experts over");
    shards.minimum = 1;
    shards.maximum = limits::kShardsMax;
    flags.AddOutput(&output_);
  }

  absl::Status Run(const CommandContext& context) override {
    if (model_.empty()) return UsageError("name the model: conclave inspect DIR");
    ASSIGN_OR_RETURN(const std::string directory, ResolveModelDir(model_, context.hub));
    ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::Open(directory));
    const ModelReport report = Inspect(*checkpoint, shards_);
    const std::string text = output_ == "json" ? ToJson(report) : ToText(report);
    std::cout << text << (absl::EndsWith(text, "\n") ? "" : "\n");
    return absl::OkStatus();
  }

 private:
  std::string model_, output_ = "text";
  int shards_ = 4;
};

}  // namespace

std::unique_ptr<Command> NewInspectCommand() { return std::make_unique<InspectCommand>(); }

}  // namespace conclave
