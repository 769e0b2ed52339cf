// Which tensors a quantised checkpoint consists of, and what each is made from. Private to quantize.h.
#ifndef CONCLAVE_MOE_CHECKPOINT_QUANTIZE_PLAN_H_
#define CONCLAVE_MOE_CHECKPOINT_QUANTIZE_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/checkpoint/model_writer.h"

namespace conclave {

// How one stored tensor is made.
struct QuantizeStep {
  enum class Make {
    kCopy,    // of the tensor `source`
    kWiden,   // the quantised matrix `source` as BF16
    kCodes,   // of the matrix `source`
    kScales,  // of the matrix `source`
    kShape,   // rows and columns of the matrix `source`
  };
  Make make = Make::kCopy;
  std::string source;
  int64_t rows = 0, cols = 0;  // of a matrix
  PlannedTensor planned;
};

// All of a result.
struct QuantizePlan {
  BlockQuantSpec block_quant;    // what the result has: one of these two
  PackedQuantSpec packed_quant;
  std::vector<QuantizeStep> steps;
  std::vector<std::string> kept;  // layers whose matrices stay as they are, as compressed-tensors' "ignore" names them
};

// head: the head as well. INVALID_ARGUMENT: `to` is unknown, or nothing of the checkpoint is left to quantise; a head
// that cannot be.
absl::StatusOr<QuantizePlan> PlanQuantization(const Checkpoint& checkpoint, absl::string_view to, bool head);

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_QUANTIZE_PLAN_H_
