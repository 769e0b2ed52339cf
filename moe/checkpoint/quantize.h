// Converts a checkpoint to quantised weights: the substance of `conclave quantize`.
#ifndef CONCLAVE_MOE_CHECKPOINT_QUANTIZE_H_
#define CONCLAVE_MOE_CHECKPOINT_QUANTIZE_H_

#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "moe/base/thread_pool.h"

namespace conclave {

// What to convert, and to what.
struct QuantizeOptions {
  std::string model;  // the directory of a checkpoint in BF16, F16, F32, FP8 or packed integers
  // int8: a scale a row. int4: a scale a row and 32 columns. Both symmetric, as compressed-tensors packs them.
  // fp8: e4m3 in blocks of 128 x 128, as DeepSeek publishes it.
  std::string to;
  bool head = false;                       // the head too; of a model that has the format already, the head alone
  std::string out;                         // must not exist, or be an empty directory
  int64_t file_bytes_max = 4'000'000'000;  // beyond it another file is begun, and an index written
};

// Matrices of attention, dense FFNs and experts are converted, and where asked for the head; gates, norms, embedding
// and biases stay as they are (TensorSpec::quantised), and so do matrices whose columns are no whole groups. What is
// quantised in the source and not in the result becomes BF16; matrices that have the result's format already and
// tensors outside the decoder's list are copied. config.json keeps all but its quantization_config; tokenizer and
// template files are copied.
// The directory grows under another name beside `out` and gets its own when it is whole; else nothing is left.
// `progress` hears of bytes written; when `stop` returns true the work ends with CANCELLED.
// INVALID_ARGUMENT: options, or nothing is left to convert. ALREADY_EXISTS: `out`. RESOURCE_EXHAUSTED: the
// disk is full. DATA_LOSS: the source is damaged or holds values that are not finite. Errors of Checkpoint::Open.
absl::Status QuantizeModel(const QuantizeOptions& options, ThreadPool& threads,
                           absl::FunctionRef<void(int64_t bytes_done, int64_t bytes_total)> progress,
                           absl::FunctionRef<bool()> stop);

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_QUANTIZE_H_
