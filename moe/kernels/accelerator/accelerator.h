// A device with memory of its own that the model can run on. The model's code above it (moe/model/device) holds no
// vendor's types: this interface is all that crosses into the shared object that talks to the driver.
#ifndef CONCLAVE_MOE_KERNELS_ACCELERATOR_ACCELERATOR_H_
#define CONCLAVE_MOE_KERNELS_ACCELERATOR_ACCELERATOR_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "moe/kernels/accelerator/attention_ops.h"
#include "moe/kernels/accelerator/device_event.h"
#include "moe/kernels/accelerator/device_stream.h"
#include "moe/kernels/accelerator/expert_ops.h"
#include "moe/kernels/accelerator/ops.h"
#include "moe/kernels/kernels.h"

namespace conclave {

// What was found at opening.
struct AcceleratorInfo {
  std::string isa;   // "sm90", "sm80-portable"; part of the numeric profile
  std::string name;  // "NVIDIA H200"
  int64_t memory_total_bytes = 0;
  int64_t memory_free_bytes = 0;  // when it was opened
  std::string uuid;               // of the physical device: two processes that share it see the same
  bool portable = false;          // runs kernels that any GPU runs, slowly, and no Compute::kF8
};

// What a device can do at most, measured. Zero: not known.
struct AcceleratorCeilings {
  double copy_bytes_per_second = 0;   // within its memory, read and written ones counted
  double bf16_flops_per_second = 0;   // of a large product by the vendor's library
  double fp8_flops_per_second = 0;    // the same of e4m3 numbers with one scale a matrix
};

// One queue of work, in order. Operations and asynchronous copies return at once and never fail by themselves: what
// went wrong comes out of the next Synchronize. After a lost device everything fails with UNAVAILABLE.
// Used by one thread at a time.
class Accelerator {
 public:
  virtual ~Accelerator() = default;
  virtual const AcceleratorInfo& info() const = 0;
  // Whether `compute` can be had for experts of this shape on this device; INVALID_ARGUMENT says why not.
  virtual absl::Status Supports(Compute compute, const ExpertSlots& slots) const = 0;
  // What all that an attention head has and the latents it caches are in with `compute`, for a latent of `latent`
  // values and `rope` rotated ones: BF16 where attention runs on tensor cores, or rounds anyway; else F32.
  virtual DType AttentionDType(Compute compute, int latent, int rope) const = 0;

  // A queue beside this one. Any thread may ask. Errors say what the device refused.
  virtual absl::StatusOr<std::unique_ptr<DeviceStream>> NewStream() = 0;

  // An event of the device. Any thread may ask. Errors say what the device refused.
  virtual absl::StatusOr<std::unique_ptr<DeviceEvent>> NewEvent() = 0;
  // `event`, of NewEvent, now stands for what has been queued so far. REQUIRES: not between BeginGraph and EndGraph
  virtual void Record(DeviceEvent& event) = 0;

  // Takes a second, and a few GiB of memory meanwhile. RESOURCE_EXHAUSTED: they are not there.
  virtual absl::StatusOr<AcceleratorCeilings> MeasureCeilings() = 0;

  // Device memory, 256-byte aligned, zeroed. RESOURCE_EXHAUSTED: there is too little left.
  virtual absl::StatusOr<void*> Allocate(int64_t bytes) = 0;
  virtual void Free(void* memory) = 0;
  // Host memory that the device copies from and to at full speed and asynchronously.
  virtual absl::StatusOr<void*> AllocateHost(int64_t bytes) = 0;
  virtual void FreeHost(void* memory) = 0;

  // In the order of the queue. Host memory not from AllocateHost must stay as it is until Synchronize.
  virtual void CopyIn(void* device, const void* host, int64_t bytes) = 0;
  virtual void CopyOut(void* host, const void* device, int64_t bytes) = 0;
  // Waits for all work. INTERNAL: an operation failed; UNAVAILABLE: the device is lost. Both name the first failure.
  virtual absl::Status Synchronize() = 0;

  // Work between BeginGraph and EndGraph is recorded under `key` and then run; Replay runs it again with the same
  // arguments and returns true, or returns false where nothing was recorded under `key`.
  virtual bool Replay(uint64_t key) = 0;
  virtual void BeginGraph(uint64_t key) = 0;
  virtual void EndGraph() = 0;

  virtual void Embed(const EmbedArgs& args) = 0;
  virtual void RmsNorm(const NormArgs& args) = 0;
  virtual void Linear(const LinearArgs& args) = 0;
  virtual void FillCache(const FillCacheArgs& args) = 0;
  virtual void RotateQueries(const RotateArgs& args) = 0;
  virtual void Attend(const AttendArgs& args) = 0;
  // What Attend needs for up to `rows` rows of `heads` heads behind up to `tokens_max` tokens.
  virtual int64_t AttendWorkspaceBytes(int64_t rows, int heads, int latent, DType dtype, int64_t tokens_max) const = 0;
  virtual void Ffn(const FfnArgs& args) = 0;
  // What Linear and Ffn need within `limits`.
  virtual int64_t DenseWorkspaceBytes(const DenseLimits& limits) const = 0;
  virtual void AddToResidual(const AddArgs& args) = 0;
  virtual void AddAndNormalise(const AddNormArgs& args) = 0;
  virtual void SelectExperts(const SelectArgs& args) = 0;
  virtual void DrawTokens(const DrawArgs& args) = 0;
  virtual void GatherRows(const GatherRowsArgs& args) = 0;
  virtual void Combine(const CombineArgs& args) = 0;
  virtual void RunExperts(const ExpertFfnArgs& args) = 0;
  // What RunExperts needs for up to `pairs` pairs over experts in this shape.
  virtual int64_t ExpertWorkspaceBytes(Compute compute, int64_t pairs, const ExpertSlots& slots) const = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_KERNELS_ACCELERATOR_ACCELERATOR_H_
