#include "moe/kernels/cuda/hopper_code.h"

#include <cuda_runtime.h>

#include <atomic>

namespace conclave::cuda {
namespace {

constexpr int kDevicesMax = 64;

// Compiled as everything else is: what the driver took of it, it took of all.
__global__ void Probe() {}

bool Ask() {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, Probe) == cudaSuccess && attributes.ptxVersion >= 90;
}

}  // namespace

bool RunsHopperCode() {
  static std::atomic<int> known[kDevicesMax];  // 0: not yet, 1: no, 2: yes
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device >= kDevicesMax) return false;
  int answer = known[device].load(std::memory_order_relaxed);
  if (answer == 0) {
    answer = Ask() ? 2 : 1;
    known[device].store(answer, std::memory_order_relaxed);
  }
  return answer == 2;
}

}  // namespace conclave::cuda
