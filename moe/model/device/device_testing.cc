#include "moe/model/device/device_testing.h"

#include <utility>

#include "gtest/gtest.h"

namespace conclave {

HostTarget MakeHostTarget(const std::string& compute, int64_t memory_bytes) {
  HostTarget made;
  auto accelerator = HostAccelerator::Create(memory_bytes);
  made.accelerator = accelerator.get();
  auto target = ComputeTarget::Create({.device = "cuda", .compute = compute}, std::move(accelerator));
  EXPECT_TRUE(target.ok()) << target.status();
  if (target.ok()) made.target = *std::move(target);
  return made;
}

std::unique_ptr<TestRunner> RunnerOn(ComputeTarget& target, const std::string& model) {
  auto runner = TestRunner::Create(model, target, 1);
  EXPECT_TRUE(runner.ok()) << runner.status();
  return runner.ok() ? *std::move(runner) : nullptr;
}

std::string Model(const ConfigOverrides& overrides, const std::string& dtype) {
  const auto model = MakeTestModel(overrides, dtype);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.value_or("");
}

}  // namespace conclave
