#include "moe/kernels/accelerator/piecewise_copy.h"

#include <algorithm>
#include <cstddef>

#include "moe/base/status_macros.h"

namespace conclave {

absl::StatusOr<PiecewiseCopy> PiecewiseCopy::Create(Accelerator& accelerator) {
  std::vector<std::unique_ptr<DeviceEvent>> events(kPiecesMax);
  for (auto& event : events) {
    ASSIGN_OR_RETURN(event, accelerator.NewEvent());
  }
  return PiecewiseCopy(accelerator, std::move(events));
}

absl::Status PiecewiseCopy::Out(void* host, const void* device, int64_t bytes,
                                const std::function<void(int64_t)>& landed) {
  constexpr int64_t kAligned = 4096;
  const int64_t share = (bytes + kPiecesMax - 1) / kPiecesMax;
  int64_t piece = std::max(kPieceBytesMin, (share + kAligned - 1) / kAligned * kAligned);
  if (!landed) piece = bytes;
  size_t pieces = 0;  // but the last
  for (int64_t begin = 0; begin < bytes; begin += piece) {
    accelerator_->CopyOut(static_cast<std::byte*>(host) + begin, static_cast<const std::byte*>(device) + begin,
                          std::min(piece, bytes - begin));
    if (begin + piece < bytes) accelerator_->Record(*events_[pieces++]);
  }
  for (size_t i = 0; i < pieces; ++i) {
    RETURN_IF_ERROR(events_[i]->Wait());
    landed(static_cast<int64_t>(i + 1) * piece);
  }
  return accelerator_->Synchronize();
}

}  // namespace conclave
