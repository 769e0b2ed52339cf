// Times an accelerator's operations in the shapes of a model, through the same interface that serves it.
#ifndef CONCLAVE_MOE_KERNELS_ACCELERATOR_KERNEL_BENCH_H_
#define CONCLAVE_MOE_KERNELS_ACCELERATOR_KERNEL_BENCH_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "moe/kernels/accelerator/accelerator.h"

namespace conclave {

// What is timed. The defaults are DeepSeek-V3's.
struct KernelBenchShape {
  int hidden = 7168;
  int heads = 128, q_lora_rank = 1536, latent = 512, nope = 128, rope = 64, value = 128;
  int dense_intermediate = 18432, moe_intermediate = 2048;
  int vocab = 129280;
  int experts = 32;             // on the device
  int context = 4096;           // tokens that every row attends to
  std::vector<int64_t> rows = {1, 16, 64, 128};  // of one operation; experts get so many each
  double seconds = 0.05;        // of each timing, at least
};

// One operation of one size. Weights and rows are random.
struct KernelFigure {
  std::string name;        // "o projection, fp8"
  int64_t rows = 0;
  double seconds = 0;      // the median of one run, back to back with others over other weights
  double bytes = 0;        // that it must move: weights and cache once, inputs, outputs
  double operations = 0;   // additions and multiplications
};

// Products and experts in FP8 with blocks of 128 x 128, the head in bfloat16, attention over a bfloat16 cache. A shape
// that does not fit the device's memory: RESOURCE_EXHAUSTED. Other errors are the accelerator's.
absl::StatusOr<std::vector<KernelFigure>> TimeKernels(Accelerator& accelerator, const KernelBenchShape& shape);

}  // namespace conclave

#endif  // CONCLAVE_MOE_KERNELS_ACCELERATOR_KERNEL_BENCH_H_
