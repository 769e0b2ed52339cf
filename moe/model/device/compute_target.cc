#include "moe/model/device/compute_target.h"

#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/kernels/accelerator/open_accelerator.h"
#include "moe/kernels/accelerator/pinned_memory.h"
#include "moe/model/device/device_expert_pool.h"
#include "moe/model/device/device_transformer.h"
#include "moe/model/local_experts.h"
#include "moe/model/numeric_profile.h"

namespace conclave {

absl::Status TargetOptions::Validate() const {
  RETURN_IF_ERROR(ValidateDeviceName(device));
  if (compute == "fp8" && device == "cpu") {
    return absl::InvalidArgumentError(
        "--compute: fp8 needs a GPU (--device cuda); on a CPU use auto, f32, bf16 or int8");
  }
  if (compute == "int8" && device != "cpu") {
    return absl::InvalidArgumentError("--compute: int8 runs on a CPU alone; on a GPU use auto, f32, bf16 or fp8");
  }
  if (compute != "auto" && compute != "f32" && compute != "bf16" && compute != "int8" && compute != "fp8") {
    return absl::InvalidArgumentError(absl::StrCat(
        "--compute: expected auto, f32 or bf16, on a CPU int8, or on a GPU fp8, got '", compute.substr(0, 60), "'"));
  }
  if (gpu_memory_bytes < 0) {
    return absl::InvalidArgumentError(absl::StrCat("--gpu-memory: ", gpu_memory_bytes, " is negative"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ComputeTarget>> ComputeTarget::Create(const TargetOptions& options) {
  RETURN_IF_ERROR(options.Validate());
  ASSIGN_OR_RETURN(auto accelerator, OpenAccelerator(options.device));
  return Create(options, std::move(accelerator));
}

absl::StatusOr<std::unique_ptr<ComputeTarget>> ComputeTarget::Create(const TargetOptions& options,
                                                                     std::unique_ptr<Accelerator> accelerator) {
  auto target = absl::WrapUnique(new ComputeTarget);
  if (accelerator == nullptr) {
    const bool bf16 = options.compute == "bf16" || (options.compute == "auto" && CpuHasBf16());
    const Compute compute = options.compute == "int8" ? Compute::kInt8 : bf16 ? Compute::kBF16 : Compute::kF32;
    ASSIGN_OR_RETURN(const Kernels* kernels, CpuKernels(compute, options.isa));
    target->kernels_ = *kernels;
    return target;
  }
  // Float32 tables round rows as the accelerator does, subnormal numbers included.
  ASSIGN_OR_RETURN(const Kernels* kernels, CpuKernels(Compute::kF32, options.isa));
  target->kernels_ = *kernels;
  target->kernels_.compute = options.compute == "f32"   ? Compute::kF32
                             : options.compute == "fp8" ? Compute::kF8
                                                        : Compute::kBF16;
  target->isa_ = accelerator->info().isa;
  target->kernels_.isa = target->isa_;
  target->accelerator_ = std::move(accelerator);
  target->memory_ = std::make_unique<DeviceMemory>(*target->accelerator_, options.gpu_memory_bytes);
  return target;
}

DType ComputeTarget::cache_dtype(const ModelSpec& spec, RowFormat format) const {
  if (accelerator_ == nullptr || format == RowFormat::kFp8) return CacheDType(kernels_.compute, format);
  return accelerator_->AttentionDType(kernels_.compute, spec.attention.kv_lora_rank, spec.attention.qk_rope_head_dim);
}

HostMemory ComputeTarget::pinned_memory() const {
  if (accelerator_ == nullptr) return nullptr;
  return PinnedMemory(*accelerator_);
}

absl::StatusOr<std::unique_ptr<ExpertPool>> ComputeTarget::MakeLocalExperts(const Checkpoint& checkpoint,
                                                                            ThreadPool& threads, int rows_max,
                                                                            RowFormat format) {
  if (memory_ != nullptr && format != RowFormat::kCompute) {
    return absl::UnimplementedError("--row-format: an accelerator's own experts take rows as it computes them");
  }
  if (memory_ != nullptr) return DeviceExpertPool::Create(checkpoint, kernels_, rows_max, *memory_);
  return LocalExperts::Create(checkpoint, kernels_, threads, rows_max, format);
}

absl::StatusOr<std::unique_ptr<Transformer>> ComputeTarget::MakeTransformer(const Checkpoint& checkpoint,
                                                                            ThreadPool& threads, ExpertPool* local,
                                                                            const TransformerOptions& options) {
  if (memory_ == nullptr) return Transformer::Create(checkpoint, kernels_, threads, options);
  return CreateDeviceTransformer(checkpoint, kernels_, *memory_, static_cast<DeviceExpertPool*>(local), options);
}

}  // namespace conclave
