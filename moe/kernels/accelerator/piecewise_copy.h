// Results that go from an accelerator to the host in pieces, so that the first are sent on while the last still come.
#ifndef CONCLAVE_MOE_KERNELS_ACCELERATOR_PIECEWISE_COPY_H_
#define CONCLAVE_MOE_KERNELS_ACCELERATOR_PIECEWISE_COPY_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "moe/kernels/accelerator/accelerator.h"
#include "moe/kernels/accelerator/device_event.h"

namespace conclave {

// Used by the accelerator's thread.
class PiecewiseCopy {
 public:
  static constexpr int64_t kPieceBytesMin = int64_t{256} << 10;
  static constexpr int kPiecesMax = 16;

  // Errors say what the device refused.
  static absl::StatusOr<PiecewiseCopy> Create(Accelerator& accelerator);
  // Copies `bytes` bytes behind all queued work, and waits. landed(n), where it is not empty, is called behind each
  // piece but the last: the first n bytes are there. Errors as Synchronize; what landed was told of stays good.
  absl::Status Out(void* host, const void* device, int64_t bytes, const std::function<void(int64_t)>& landed);

 private:
  PiecewiseCopy(Accelerator& accelerator, std::vector<std::unique_ptr<DeviceEvent>> events)
      : accelerator_(&accelerator), events_(std::move(events)) {}

  Accelerator* accelerator_;
  std::vector<std::unique_ptr<DeviceEvent>> events_;  // [kPiecesMax]
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_KERNELS_ACCELERATOR_PIECEWISE_COPY_H_
