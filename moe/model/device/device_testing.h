// For tests: compute targets over a host accelerator, so that the device half of the model runs without a GPU.
#ifndef CONCLAVE_MOE_MODEL_DEVICE_DEVICE_TESTING_H_
#define CONCLAVE_MOE_MODEL_DEVICE_DEVICE_TESTING_H_

#include <cstdint>
#include <memory>
#include <string>

#include "moe/kernels/accelerator/host_accelerator.h"
#include "moe/model/device/compute_target.h"
#include "moe/model/test_models.h"
#include "moe/model/test_runner.h"

namespace conclave {

// A target and the accelerator inside it, for provoking its loss.
struct HostTarget {
  HostAccelerator* accelerator = nullptr;
  std::unique_ptr<ComputeTarget> target;
};

// Fails the test where it cannot be made. The device has `memory_bytes` of memory.
HostTarget MakeHostTarget(const std::string& compute, int64_t memory_bytes = int64_t{1} << 32);
// A model of that directory on the target. Fails the test, and is null, where it cannot be made.
std::unique_ptr<TestRunner> RunnerOn(ComputeTarget& target, const std::string& model);
// MakeTestModel's directory. Fails the test, and is empty, where it cannot be made.
std::string Model(const ConfigOverrides& overrides, const std::string& dtype);

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_DEVICE_DEVICE_TESTING_H_
