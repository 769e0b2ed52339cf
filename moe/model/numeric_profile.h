// What decides the bits of an answer besides model, prompt, parameters and seed.
#ifndef CONCLAVE_MOE_MODEL_NUMERIC_PROFILE_H_
#define CONCLAVE_MOE_MODEL_NUMERIC_PROFILE_H_

#include <string>

#include "moe/kernels/kernels.h"

namespace conclave {

// Grows whenever a kernel's order of accumulation or rounding changes.
inline constexpr int kKernelRevision = 1;

// "r1/avx512-bf16/bf16/row-bf16/kv-bf16/mla-absorbed/tp1": equal strings mean equal bits. A router refuses shards
// of another profile unless told --allow-mixed-numerics.
std::string NumericProfile(const Kernels& kernels);

// The dtype in which rows travel to experts and back, and in which latents are cached: F32 with Compute::kF32, else BF16.
DType RowDType(Compute compute);
DType CacheDType(Compute compute);

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_NUMERIC_PROFILE_H_
