// `conclave make-model`: a checkpoint with random weights in the published format.
#include "moe/checkpoint/make_model.h"

#include <unistd.h>

#include <cstdint>
#include <iostream>
#include <memory>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "cli/command.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/byte_tokenizer_writer.h"

namespace conclave {
namespace {

// "1.23 GB" or "0.4 MB".
std::string Size(int64_t bytes) {
  return bytes >= 100'000'000 ? absl::StrFormat("%.2f GB", static_cast<double>(bytes) / 1e9)
                              : absl::StrFormat("%.1f MB", static_cast<double>(bytes) / 1e6);
}

// One line on standard error that is rewritten in place; silent where that is no terminal.
class ProgressBar {
 public:
  ~ProgressBar() {
    if (drawn_) std::cerr << "\r\033[K" << std::flush;
  }

  void Update(int64_t bytes_done, int64_t bytes_total) {
    if (!terminal_ || bytes_total <= 0 || absl::Now() - last_ < absl::Milliseconds(100)) return;
    last_ = absl::Now();
    const int filled = static_cast<int>(bytes_done * kWidth / bytes_total);
    std::cerr << absl::StrFormat("\r[%-*s] %3d%%  %s of %s", kWidth, std::string(static_cast<size_t>(filled), '#'),
                                 bytes_done * 100 / bytes_total, Size(bytes_done), Size(bytes_total))
              << std::flush;
    drawn_ = true;
  }

 private:
  static constexpr int kWidth = 40;
  const bool terminal_ = isatty(STDERR_FILENO) == 1;
  bool drawn_ = false;
  absl::Time last_ = absl::InfinitePast();
};

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
    int64_t bytes = 0;
    {
      ProgressBar bar;
      RETURN_IF_ERROR(MakeModel(options_, [&](int64_t bytes_done, int64_t bytes_total) {
        bytes = bytes_total;
        bar.Update(bytes_done, bytes_total);
      }));
    }
    std::cout << "wrote " << options_.out << " (" << Size(bytes) << "); look at it with: conclave inspect "
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
