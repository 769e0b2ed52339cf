// What a process computes on: this CPU or an accelerator, with which kernels, in which numbers. Every service and
// command that runs a part of a model makes one from its flags, and makes that part through it.
#ifndef CONCLAVE_MOE_MODEL_DEVICE_COMPUTE_TARGET_H_
#define CONCLAVE_MOE_MODEL_DEVICE_COMPUTE_TARGET_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "moe/base/thread_pool.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/kernels/accelerator/accelerator.h"
#include "moe/kernels/kernels.h"
#include "moe/model/device/device_memory.h"
#include "moe/model/expert_pool.h"
#include "moe/model/kv_storage.h"
#include "moe/model/transformer.h"
#include "moe/tensor/buffer.h"
#include "moe/tensor/dtype.h"
#include "moe/tensor/row_format.h"

namespace conclave {

// As flags give it.
struct TargetOptions {
  std::string device = "cpu";    // cpu, cuda or cuda:N
  std::string compute = "auto";  // auto, f32, bf16, int8 on a CPU, or fp8 on an accelerator
  std::string isa;               // forces a CPU kernel set; empty: the best of this CPU
  int64_t gpu_memory_bytes = 0;  // what may be used of the accelerator's; 0: nearly all that is free

  // INVALID_ARGUMENT names the flag.
  absl::Status Validate() const;
};

// Owns the accelerator; everything made through it must die before it.
class ComputeTarget {
 public:
  // FAILED_PRECONDITION says what of this machine is missing; INVALID_ARGUMENT names the flag.
  static absl::StatusOr<std::unique_ptr<ComputeTarget>> Create(const TargetOptions& options);
  // Over an accelerator that the caller opened: for tests.
  static absl::StatusOr<std::unique_ptr<ComputeTarget>> Create(const TargetOptions& options,
                                                               std::unique_ptr<Accelerator> accelerator);

  // The CPU's table, or one that says what the accelerator computes: its isa and compute make the numeric profile, its
  // functions round rows on the host.
  const Kernels& kernels() const { return kernels_; }
  // Null on a CPU.
  DeviceMemory* memory() const { return memory_.get(); }
  // Tokens of a KV block that attention here reads fastest.
  int kv_block_tokens() const { return memory_ == nullptr ? kKvBlockTokens : kDeviceKvBlockTokens; }
  // What latents of this model are cached in here.
  DType cache_dtype(const ModelSpec& spec, RowFormat format = RowFormat::kCompute) const;
  // Pinned memory, which may outlive nothing of the target; null on a CPU. Any thread may ask for it.
  HostMemory pinned_memory() const;

  // All experts of the model, in this process, whose rows are rounded to `format`. Errors as LocalExperts::Create and
  // DeviceExpertPool::Create. UNIMPLEMENTED: kFp8 on an accelerator, which rounds rows itself.
  absl::StatusOr<std::unique_ptr<ExpertPool>> MakeLocalExperts(const Checkpoint& checkpoint, ThreadPool& threads,
                                                               int rows_max, RowFormat format = RowFormat::kCompute);
  // Everything but the experts. `local` is what MakeLocalExperts made here, or null where experts run elsewhere.
  // Errors as Transformer::Create and CreateDeviceTransformer.
  absl::StatusOr<std::unique_ptr<Transformer>> MakeTransformer(const Checkpoint& checkpoint, ThreadPool& threads,
                                                               ExpertPool* local, const TransformerOptions& options);

 private:
  ComputeTarget() = default;
  Kernels kernels_ = {};
  std::string isa_;  // what kernels_.isa views, on an accelerator
  std::unique_ptr<Accelerator> accelerator_;
  std::unique_ptr<DeviceMemory> memory_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_DEVICE_COMPUTE_TARGET_H_
