// Copies a checkpoint's matrices and vectors to an accelerator: first everything is named and counted, so that its
// owner can reserve it, then copied into one allocation.
#ifndef CONCLAVE_MOE_MODEL_DEVICE_WEIGHT_UPLOADER_H_
#define CONCLAVE_MOE_MODEL_DEVICE_WEIGHT_UPLOADER_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "moe/kernels/accelerator/ops.h"
#include "moe/model/device/device_memory.h"
#include "moe/tensor/weight_view.h"

namespace conclave {

// Fill with Add, then Run once. Targets must stay where they are until then.
class WeightUploader {
 public:
  // `views` are of one shape, dtype and block size, and become the matrices of one DeviceWeight, in order.
  void Add(DeviceWeight* target, std::vector<WeightView> views);
  // `views` are of one width, dtype and block size, and become one matrix, the rows of each above those of the next.
  // REQUIRES: no scale block of a view but the last has rows missing.
  void AddStacked(DeviceWeight* target, std::vector<WeightView> views);
  // An empty vector becomes a null pointer.
  void Add(const float** target, std::vector<float> values);

  // What Run will allocate; the caller reserves it first.
  int64_t bytes() const { return bytes_; }
  // Copies, and sets every target. `progress` is called after each view; may be empty. INVALID_ARGUMENT: weights that
  // no accelerator takes. Other errors are those of DeviceMemory::Allocate and Accelerator::Synchronize.
  absl::StatusOr<DeviceBuffer> Run(DeviceMemory& memory, const std::function<void()>& progress) const;

 private:
  int64_t Take(int64_t bytes);
  struct Matrices {
    int64_t offset, scales_offset;
    DeviceWeight* target;
    std::vector<WeightView> views;
    bool stacked;
  };
  void Take(DeviceWeight* target, std::vector<WeightView> views, bool stacked);
  struct Vector {
    int64_t offset;
    const float** target;
    std::vector<float> values;
  };
  std::vector<Matrices> matrices_;
  absl::Status refusal_;  // of weights that no accelerator takes: Run says so
  std::vector<Vector> vectors_;
  int64_t bytes_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_DEVICE_WEIGHT_UPLOADER_H_
