// Makes checkpoints with random weights in the published format, for tests, benchmarks and capacity planning.
#ifndef CONCLAVE_MOE_CHECKPOINT_MAKE_MODEL_H_
#define CONCLAVE_MOE_CHECKPOINT_MAKE_MODEL_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/checkpoint/model_writer.h"

namespace conclave {

// What to make and where; MakeModel checks it.
struct MakeModelOptions {
  // "tiny" (a few hundred KB), "small" (1.234 G parameters, context 8192) or "v3-slice" (DeepSeek-V3 at full width with
  // one dense and two MoE layers); or empty, and config_file names a config.json. Exactly one of the two.
  std::string preset;
  std::string config_file;
  std::string dtype = "bf16";  // bf16, f32, or fp8: e4m3 in blocks of 128 x 128 (config_file may say otherwise)
  uint64_t seed = 0;
  std::string out;                         // the directory; created, and must not hold a model yet
  int64_t file_bytes_max = 4'000'000'000;  // beyond it another file is begun, and an index written
  // Writes tokenizer.json and its configuration for ids [0, vocab) of which 0 … 255 are bytes.
  std::function<absl::Status(const std::string& directory, int vocab, int32_t bos, int32_t eos)> write_tokenizer;
  std::function<bool()> stop;  // asked often; once true, MakeModel ends with CANCELLED
};

// Bytes of tensors written.
using MakeModelProgress = WriteProgress;

// The shape behind a preset. INVALID_ARGUMENT lists the presets.
absl::StatusOr<ModelSpec> PresetSpec(absl::string_view preset);

// Writes config.json, generation_config.json, the tokenizer and the weights, streamed, with a few MB of memory.
// They come to `out` when they are complete; what fails leaves nothing behind. Equal options give equal bytes.
// INVALID_ARGUMENT: options. ALREADY_EXISTS: `out` holds a model. RESOURCE_EXHAUSTED: not enough disk, checked first.
absl::Status MakeModel(const MakeModelOptions& options, MakeModelProgress progress);

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_MAKE_MODEL_H_
