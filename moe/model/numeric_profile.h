// What decides the bits of an answer besides model, prompt, parameters and seed.
#ifndef CONCLAVE_MOE_MODEL_NUMERIC_PROFILE_H_
#define CONCLAVE_MOE_MODEL_NUMERIC_PROFILE_H_

#include <string>

#include "absl/status/statusor.h"
#include "moe/kernels/kernels.h"
#include "moe/tensor/row_format.h"

namespace conclave {

// Grows whenever a kernel's order of accumulation or rounding changes.
inline constexpr int kKernelRevision = 5;

// "r5/avx512-bf16/bf16/dense-f32/row-bf16/kv-f32/mla-absorbed/tp1": equal strings mean equal bits. A router refuses
// shards of another profile unless told --allow-mixed-numerics. Rows that were rounded to FP8 on their way
// ("…/row-bf16-fp8/…") are part of what an attention service computes, not of what its shards do: they take the values
// that they get. So are latents, whatever they are cached in ("…/kv-bf16/…", "…/kv-fp8/…").
std::string NumericProfile(const Kernels& kernels, RowFormat rows, DType cache);
// Of a shard: rows as they come, latents as `kernels` would cache them.
std::string NumericProfile(const Kernels& kernels);

// With Compute::kBF16 the routed experts compute in bfloat16, and their rows travel in it: they are most of the weights
// and all of the traffic. Everything before a gate computes in float32 over the stored weights, and latents are cached
// in float32, because a choice of experts is a step function: where two scores nearly tie, the rounding of a hidden
// state to eight bits swaps an expert, and that row's logits are then wrong by tens of percent. Measured on the six
// random models of the reference set (2,890 choices, float32 as the judge): bfloat16 throughout changes 44 of them and
// misses logits by up to 69%. Each of these alone, beside bfloat16 experts, is as bad: a bfloat16 cache 35, rounded
// outputs of the norms 37, the products inside attention 27, those of dense and shared FFNs 24. As it is, 10 change,
// and no compared row is off by more than 1.2%. Decoding loses nothing by it: there, reading the weights takes the
// time.

// The table for all but gates and routed experts: float32, of the same instruction set as `kernels`. AMX has no
// float32: its table splits inputs into three bfloat16. (Two of them, 16 bits, changed one more choice of an expert.)
// With Compute::kInt8 products with INT8 and INT4 weights are products of integers here too, which is a choice of its
// user: it changes choices of experts, for twice the speed (docs/quantization.md has what it costs).
absl::StatusOr<const Kernels*> DenseKernels(const Kernels& kernels);
// The table for gates: float32, whatever the rest computes in.
absl::StatusOr<const Kernels*> GateKernels(const Kernels& kernels);
// The dtype in which rows travel to experts and back: F32 with Compute::kF32, else BF16.
DType RowDType(Compute compute);
// The dtype of cached latents on a CPU: BF16 with Compute::kF8, else F32; with kFp8 F8_E4M3. An accelerator has its own
// (ComputeTarget::cache_dtype).
DType CacheDType(Compute compute, RowFormat format = RowFormat::kCompute);

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_NUMERIC_PROFILE_H_
