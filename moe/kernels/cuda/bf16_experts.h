// The experts' feed-forward through the grouped bfloat16 kernels of grouped_ffn.h: rows are sorted by expert,
// multiplied, and put back in the order of the pairs. silu(gate) · up is rounded to bfloat16 between the two products.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_BF16_EXPERTS_H_
#define CONCLAVE_MOE_KERNELS_CUDA_BF16_EXPERTS_H_

#include "absl/status/status.h"
#include "moe/kernels/accelerator/expert_ops.h"

namespace conclave::cuda {

// Whether the current device runs these experts so: a Hopper GPU, weights of bfloat16, a hidden size in multiples of
// 256, an intermediate size in multiples of 128. All else is RunPlainExperts'.
bool TakesBf16Experts(const ExpertSlots& slots);
int64_t Bf16ExpertBytes(int64_t pairs, const ExpertSlots& slots);
// Queues the work on `stream`, a cudaStream_t. REQUIRES: TakesBf16Experts, rows of BF16.
absl::Status RunBf16Experts(const ExpertFfnArgs& args, void* stream);

}  // namespace conclave::cuda

#endif  // CONCLAVE_MOE_KERNELS_CUDA_BF16_EXPERTS_H_
