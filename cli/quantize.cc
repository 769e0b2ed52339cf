// `conclave quantize`: a checkpoint with its matrices in INT8, INT4 or FP8.
#include "moe/checkpoint/quantize.h"

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <memory>
#include <string>

#include "cli/command.h"
#include "cli/progress_bar.h"
#include "cli/stop_flag.h"
#include "moe/base/cpus.h"
#include "moe/base/status_macros.h"
#include "moe/base/thread_pool.h"
#include "moe/checkpoint/model_dir.h"

namespace conclave {
namespace {

class QuantizeCommand final : public Command {
 public:
  std::string name() const override { return "quantize"; }
  std::string summary() const override { return "convert a model's matrices to INT8, INT4 or FP8"; }

  void Declare(CommandFlags& flags) override {
    flags.Add("model", &options_.model, "DIR", "a directory, or org/name in the Hugging Face cache");
    flags.Add("to", &options_.to, "FORMAT",
              "int8 (a scale a row) and int4 (a scale for 32 values), as compressed-tensors packs them; fp8 in blocks "
              "of 128 x 128")
        .choices = {"int8", "int4", "fp8"};
    flags.Add("head", &options_.head, "", "the head as well, which then reads so many bytes less a token");
    flags.Add("out", &options_.out, "DIR", "the directory to write; must not exist yet");
    flags.Add("threads", &threads_, "N", "0: one per core").minimum = 0;
  }

  absl::Status Run(const CommandContext& context) override {
    if (options_.model.empty()) return UsageError("--model is missing: name a model's directory");
    if (options_.to.empty()) return UsageError("--to is missing: int8, int4 or fp8");
    if (options_.out.empty()) return UsageError("--out is missing: name the directory to write");
    ASSIGN_OR_RETURN(options_.model, ResolveModelDir(options_.model, context.hub));
    const int cores = UsableCores();
    ThreadPool threads(threads_ > 0 ? threads_ : cores);
    CatchStopSignals();
    int64_t bytes = 0;
    {
      ProgressBar bar;
      RETURN_IF_ERROR(QuantizeModel(
          options_, threads,
          [&](int64_t bytes_done, int64_t bytes_total) {
            bytes = bytes_total;
            bar.Update(bytes_done, bytes_total);
          },
          StopWanted));
    }
    std::cout << "wrote " << options_.out << " (" << SizeText(bytes)
              << "); see what it costs with: conclave perplexity --model " << options_.out << " --text FILE\n";
    return absl::OkStatus();
  }

 private:
  QuantizeOptions options_;
  int threads_ = 0;
};

}  // namespace

std::unique_ptr<Command> NewQuantizeCommand() { return std::make_unique<QuantizeCommand>(); }

}  // namespace conclave
