// An ExpertPool over experts on the accelerator of this process: local_experts.h's twin.
#ifndef CONCLAVE_MOE_MODEL_DEVICE_DEVICE_EXPERT_POOL_H_
#define CONCLAVE_MOE_MODEL_DEVICE_DEVICE_EXPERT_POOL_H_

#include <memory>

#include "moe/kernels/kernels.h"
#include "moe/model/device/device_experts.h"
#include "moe/model/expert_pool.h"
#include "moe/model/pending_calls.h"

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

  static constexpr int kTicketsMax = PendingCalls::kTicketsMax;

 private:
  DeviceExpertPool(const Kernels& kernels, int rows_max, int hidden, std::unique_ptr<DeviceExperts> experts);

  std::unique_ptr<DeviceExperts> experts_;
  PendingCalls calls_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_DEVICE_DEVICE_EXPERT_POOL_H_
