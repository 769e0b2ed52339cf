// A gather of rows on an accelerator that is asked for again and again: the table of addresses that it reads, and the
// event behind it.
#ifndef CONCLAVE_MOE_KERNELS_ACCELERATOR_ROW_GATHER_H_
#define CONCLAVE_MOE_KERNELS_ACCELERATOR_ROW_GATHER_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moe/kernels/accelerator/accelerator.h"
#include "moe/kernels/accelerator/device_event.h"
#include "moe/kernels/accelerator/device_stream.h"

namespace conclave {

// Any thread may create and destroy; used by the accelerator's.
class RowGather {
 public:
  // For up to `rows_max` rows. RESOURCE_EXHAUSTED, or what the device refused.
  static absl::StatusOr<std::unique_ptr<RowGather>> Create(Accelerator& accelerator, int64_t rows_max);
  // Waits for what was queued.
  ~RowGather();
  RowGather(const RowGather&) = delete;
  RowGather& operator=(const RowGather&) = delete;

  // Where the rows of the next Queue lie, to be filled. Waits until the last one's have been read.
  absl::Span<const void*> Addresses();
  // to[i] = the `row_bytes` bytes at Addresses()[i], in the accelerator's queue.
  void Queue(void* to, int64_t rows, int64_t row_bytes);
  // Comes about with the last Queue.
  const DeviceEvent& done() const { return *done_; }

 private:
  RowGather(Accelerator& accelerator, std::unique_ptr<DeviceStream> memory, const void** addresses, int64_t rows_max,
            std::unique_ptr<DeviceEvent> done)
      : accelerator_(accelerator),
        memory_(std::move(memory)),
        addresses_(addresses),
        rows_max_(rows_max),
        done_(std::move(done)) {}

  Accelerator& accelerator_;
  const std::unique_ptr<DeviceStream> memory_;  // of the table
  const void** const addresses_;                // [rows_max], pinned
  const int64_t rows_max_;
  const std::unique_ptr<DeviceEvent> done_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_KERNELS_ACCELERATOR_ROW_GATHER_H_
