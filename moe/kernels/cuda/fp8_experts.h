// The experts' feed-forward through the grouped FP8 kernels of grouped_ffn.h: rows are quantised with one scale per row
// and 128 values, sorted by expert, multiplied, and put back in the order of the pairs.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_FP8_EXPERTS_H_
#define CONCLAVE_MOE_KERNELS_CUDA_FP8_EXPERTS_H_

#include "absl/status/status.h"
#include "moe/kernels/accelerator/expert_ops.h"

namespace conclave::cuda {

// INVALID_ARGUMENT says which size or dtype of these experts the kernels do not take.
absl::Status SupportsFp8Experts(const ExpertSlots& slots);
int64_t Fp8ExpertBytes(int64_t pairs, const ExpertSlots& slots);
// Queues the work on `stream`, a cudaStream_t. REQUIRES: SupportsFp8Experts, rows of BF16.
absl::Status RunFp8Experts(const ExpertFfnArgs& args, void* stream);

}  // namespace conclave::cuda

#endif  // CONCLAVE_MOE_KERNELS_CUDA_FP8_EXPERTS_H_
