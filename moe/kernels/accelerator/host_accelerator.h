// An accelerator that is this process's own memory and plain loops, sums in double: the oracle that a real one is
// checked against, and what tests run the model's device half on where there is no GPU.
#ifndef CONCLAVE_MOE_KERNELS_ACCELERATOR_HOST_ACCELERATOR_H_
#define CONCLAVE_MOE_KERNELS_ACCELERATOR_HOST_ACCELERATOR_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "moe/kernels/accelerator/accelerator.h"

namespace conclave {

// Adds what tests need to provoke.
class HostAccelerator : public Accelerator {
 public:
  // Pretends to have that much memory.
  static std::unique_ptr<HostAccelerator> Create(int64_t memory_bytes = int64_t{1} << 32);
  // From now on everything fails as on a device that fell off its bus.
  virtual void Lose() = 0;
  virtual int64_t allocated_bytes() const = 0;
  // From now on work waits until somebody must see it: Synchronize, an event that is asked or waited for. What is taken
  // from the device without that is what was there before.
  virtual void BeLazy() = 0;
  // Under which keys graphs were recorded, in order.
  virtual const std::vector<uint64_t>& graph_keys() const = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_KERNELS_ACCELERATOR_HOST_ACCELERATOR_H_
