// Plain loops for grouped products: every device runs them, slowly. REQUIRES: the problem passed the checks of
// grouped_ffn.h's launchers.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_PLAIN_GROUPED_FFN_H_
#define CONCLAVE_MOE_KERNELS_CUDA_PLAIN_GROUPED_FFN_H_

#include "absl/status/status.h"
#include "moe/kernels/cuda/grouped_ffn.h"

namespace conclave::cuda {

// Each as its namesake without "Plain".
absl::Status LaunchPlainGroupedGemm(const GroupedGemm& problem, void* out, void* stream);
absl::Status LaunchPlainGroupedGateUp(const GroupedGemm& problem, const Fp8Rows& out, void* stream);
absl::Status LaunchPlainBf16GroupedGemm(const Bf16GroupedGemm& problem, void* out, void* stream);
absl::Status LaunchPlainBf16GroupedGateUp(const Bf16GroupedGemm& problem, void* out, void* stream);

}  // namespace conclave::cuda

#endif  // CONCLAVE_MOE_KERNELS_CUDA_PLAIN_GROUPED_FFN_H_
