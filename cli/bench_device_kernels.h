// `conclave bench-kernels --device cuda`: what a GPU makes of the operations of a model, beside what it can do at most.
#ifndef CONCLAVE_CLI_BENCH_DEVICE_KERNELS_H_
#define CONCLAVE_CLI_BENCH_DEVICE_KERNELS_H_

#include <string>

#include "absl/status/status.h"
#include "cli/command.h"

namespace conclave {

struct DeviceBenchFlags {
  std::string device = "cpu";         // else cuda or cuda:N
  std::string rows = "1,16,64,128";
  int experts = 32;
  int context = 4096;

  void Declare(CommandFlags& flags);
};

// Prints a table, or JSON. UsageError names the flag; other errors are those of the device.
absl::Status BenchDeviceKernels(const DeviceBenchFlags& flags, const std::string& output);

}  // namespace conclave

#endif  // CONCLAVE_CLI_BENCH_DEVICE_KERNELS_H_
