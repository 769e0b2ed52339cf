// An ExpertPool over experts on the accelerator of this process: local_experts.h's twin.
#ifndef CONCLAVE_MOE_MODEL_DEVICE_DEVICE_EXPERT_POOL_H_
#define CONCLAVE_MOE_MODEL_DEVICE_DEVICE_EXPERT_POOL_H_

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "moe/kernels/kernels.h"
#include "moe/model/device/device_experts.h"
#include "moe/model/expert_pool.h"
#include "moe/tensor/buffer.h"

namespace conclave {

// A transformer on the same accelerator goes past Start and Finish, straight to experts(): its rows never leave.
class DeviceExpertPool final : public ExpertPool {
 public:
  // Holds every expert of the model; calls of up to rows_max rows. `kernels` are the target's, they round on the host.
  // Errors as DeviceExperts::Create.
  static absl::StatusOr<std::unique_ptr<DeviceExpertPool>> Create(const Checkpoint& checkpoint, const Kernels& kernels,
                                                                  int rows_max, DeviceMemory& memory);

  DType row_dtype() const override { return experts_->row_dtype(); }
  absl::StatusOr<ExpertTicket> Start(LayerId layer, ConstMatView x, const Routing& routing) override;
  // Also UNAVAILABLE: the device is lost.
  absl::Status Finish(ExpertTicket ticket, MatView out) override;
  DeviceExperts& experts() { return *experts_; }

  static constexpr int kTicketsMax = 4;

 private:
  struct Call {
    uint64_t id = 0;  // 0: free
    LayerId layer{0};
    ConstMatView x;
    Routing routing;
  };
  DeviceExpertPool(const Kernels& kernels, int rows_max, int hidden, std::unique_ptr<DeviceExperts> experts);

  const Kernels& kernels_;
  std::unique_ptr<DeviceExperts> experts_;
  MatBuffer rows_;                     // [rows_max, hidden] row dtype
  std::vector<uint32_t> row_offsets_;  // [rows_max + 1]
  std::array<Call, kTicketsMax> calls_;
  uint64_t last_id_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_DEVICE_DEVICE_EXPERT_POOL_H_
