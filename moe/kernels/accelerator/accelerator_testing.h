// Where tests of an accelerator's operations run.
#ifndef CONCLAVE_MOE_KERNELS_ACCELERATOR_ACCELERATOR_TESTING_H_
#define CONCLAVE_MOE_KERNELS_ACCELERATOR_ACCELERATOR_TESTING_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "gtest/gtest.h"
#include "moe/kernels/accelerator/accelerator.h"
#include "moe/kernels/accelerator/host_accelerator.h"
#include "moe/kernels/accelerator/open_accelerator.h"

namespace conclave {

// The device of that name (CONCLAVE_TEST_DEVICE in the environment: "cuda"), where it is not null, else the host
// accelerator, which is lazy where asked for. Null, and a failure, where the device cannot be opened.
inline std::unique_ptr<Accelerator> TestAccelerator(const char* device, bool lazy = false) {
  if (device != nullptr) {
    auto opened = OpenAccelerator(device);
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened.ok() ? *std::move(opened) : nullptr;
  }
  auto host = HostAccelerator::Create(int64_t{1} << 30);
  if (lazy) host->BeLazy();
  return host;
}

}  // namespace conclave

#endif  // CONCLAVE_MOE_KERNELS_ACCELERATOR_ACCELERATOR_TESTING_H_
