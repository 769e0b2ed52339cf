// Routed experts on an accelerator: the matrices of those that one process holds, and the feed-forward over them.
// A shard and an attention service with local experts run this very code, as expert_ffn.h on the CPU.
#ifndef CONCLAVE_MOE_MODEL_DEVICE_DEVICE_EXPERTS_H_
#define CONCLAVE_MOE_MODEL_DEVICE_DEVICE_EXPERTS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/kernels/accelerator/expert_ops.h"
#include "moe/kernels/accelerator/piecewise_copy.h"
#include "moe/model/device/device_memory.h"
#include "moe/model/device/weight_uploader.h"
#include "moe/placement/placement.h"
#include "moe/tensor/mat_view.h"

namespace conclave {

// Limits of one call, and what it computes in.
struct DeviceExpertsOptions {
  Compute compute = Compute::kF32;
  int64_t rows_max = 0;   // of one call
  int64_t pairs_max = 0;  // (row, expert) pairs of one call
};

// Used by one thread at a time, the one that uses the accelerator.
class DeviceExperts {
 public:
  // Copies the experts of `holdings` to the device. `memory` and `checkpoint` must outlive the object.
  // NOT_FOUND / DATA_LOSS as Checkpoint::Weight; RESOURCE_EXHAUSTED with the plan; INVALID_ARGUMENT where the device
  // cannot compute so in this model's shape. `progress` is told the experts copied so far; may be empty.
  static absl::StatusOr<std::unique_ptr<DeviceExperts>> Create(const Checkpoint& checkpoint,
                                                               const std::vector<LayerHolding>& holdings,
                                                               const DeviceExpertsOptions& options,
                                                               DeviceMemory& memory,
                                                               const std::function<void(int64_t)>& progress);

  // Holds `experts` too; those held already change nothing. While a layer is copied anew, it takes its room twice.
  // Errors as Create; the layers before the one that failed are then held.
  absl::Status Hold(absl::Span<const LayerHolding> experts);
  // Holds `experts` no more; those not held change nothing. Time, room and errors as Hold.
  absl::Status Drop(absl::Span<const LayerHolding> experts);
  bool Holds(LayerId layer, int32_t expert) const;
  DType row_dtype() const { return row_dtype_; }

  // Queues the FFN of every pair for device memory, and `combine` of the results: rows [combine.rows, hidden] of
  // row_dtype(), pair_experts [rows * top_k], scratch [rows * top_k, hidden] of row_dtype().
  // REQUIRES: all experts are held, limits are kept.
  void Queue(LayerId layer, const void* rows, const int32_t* pair_experts, const CombineArgs& combine, void* scratch);

  // The same in the form of GroupedExperts::Run, for rows and out in host memory or both on the device; waits for the
  // result. landed, where it is not empty: as PiecewiseCopy's, for `out` in host memory. REQUIRES: as above; what lies
  // on the device is complete, without gaps and 256-byte aligned. UNAVAILABLE: the device is lost; INTERNAL: it failed.
  absl::Status Run(LayerId layer, ConstMatView rows, absl::Span<const uint32_t> row_offsets,
                   absl::Span<const int32_t> experts, MatView out, const std::function<void(int64_t)>& landed = {});

 private:
  // One layer that routes to experts.
  struct Layer {
    ExpertSlots slots;
    std::vector<ExpertId> held;               // [slots]
    DeviceBuffer weights;
    int64_t weight_bytes = 0;
    std::vector<int32_t> slot_of;             // [experts]; -1: not held
    int32_t* slot_of_device = nullptr;        // the same there
  };
  DeviceExperts(DeviceMemory& memory, const Checkpoint& checkpoint, const DeviceExpertsOptions& options,
                PiecewiseCopy results);
  absl::Status AllocateTables();
  // A copy of the layer with `held` in it, named to the uploader and not yet copied.
  absl::StatusOr<std::unique_ptr<Layer>> Plan(LayerId layer, std::vector<ExpertId> held,
                                              WeightUploader& uploader) const;
  absl::Status Exchange(LayerId layer, std::vector<ExpertId> held);
  absl::Status Replace(LayerId layer, std::unique_ptr<Layer> next, const WeightUploader& uploader,
                       const std::function<void()>& copied);
  absl::Status AllocateScratch();
  ExpertFfnArgs Arguments(const Layer& layer) const;

  DeviceMemory& memory_;
  const Checkpoint& checkpoint_;
  const int experts_, top_k_, hidden_, intermediate_;
  const DeviceExpertsOptions options_;
  const DType row_dtype_;
  std::vector<std::unique_ptr<Layer>> layers_;  // by layer number; those without experts have no slots
  DeviceBuffer tables_;                      // slot_of of all layers
  DeviceBuffer workspace_;                   // of RunExperts
  DeviceBuffer rows_, out_;                  // of Run: [rows_max, hidden], [pairs_max, hidden], row dtype
  DeviceBuffer pairs_;                       // of Run: [2, pairs_max] experts, rows
  std::vector<int32_t> host_pairs_;          // the same here
  PiecewiseCopy results_;                    // of Run, to the host
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_DEVICE_DEVICE_EXPERTS_H_
