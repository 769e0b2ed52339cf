// `conclave make-model`: a checkpoint with random weights in the published format.
#include "moe/checkpoint/make_model.h"

#include <cstdint>
#include <iostream>
#include <memory>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "cli/command.h"
#include "cli/progress_bar.h"
#include "cli/stop_flag.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/byte_tokenizer_writer.h"

namespace conclave {
namespace {

class MakeModelCommand final : public Command {
 public:
  std::string name() const override { return "make-model"; }
  std::string summary() const override { return "make a checkpoint with random weights, for tests and planning"; }

  void Declare(CommandFlags& flags) override {
    flags.Add("preset", &options_.preset, "NAME", "a shape that comes with Conclave").choices = {"tiny", "small",
                                                                                                 "v3-slice"};
    flags.Add("config", &options_.config_file, "FILE", "a config.json with the shape, in a preset's place");
    flags.Add("dtype", &options_.dtype, "DTYPE", "how weights are stored").choices = {"bf16", "fp8", "f32"};
    flags.Add("seed", &seed_, "N", "equal seeds give equal bytes");
    flags.Add("out", &options_.out, "DIR", "the directory to write; must not hold a model yet");
  }

  absl::Status Run(const CommandContext&) override {
    if (options_.preset.empty() == options_.config_file.empty()) {
      return UsageError("say which shape, once: --preset tiny|small|v3-slice or --config FILE");
    }
    if (options_.out.empty()) return UsageError("--out is missing: name the directory to write");
    if (!absl::SimpleAtoi(seed_, &options_.seed)) {
      return UsageError(absl::StrCat("--seed takes a whole number from 0 to 2^64-1, not '", seed_, "'"));
    }
    options_.write_tokenizer = WriteByteTokenizer;
    options_.stop = StopWanted;
    CatchStopSignals();
    int64_t bytes = 0;
    {
      ProgressBar bar;
      RETURN_IF_ERROR(MakeModel(options_, [&](int64_t bytes_done, int64_t bytes_total) {
        bytes = bytes_total;
        bar.Update(bytes_done, bytes_total);
      }));
    }
    std::cout << "wrote " << options_.out << " (" << SizeText(bytes) << "); look at it with: conclave inspect "
              << options_.out << "\n";
    return absl::OkStatus();
  }

 private:
  MakeModelOptions options_;
  std::string seed_ = "0";
};

}  // namespace

std::unique_ptr<Command> NewMakeModelCommand() { return std::make_unique<MakeModelCommand>(); }

}  // namespace conclave
