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

}  // namespace conclave
