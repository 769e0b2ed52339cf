// What the benchmarks of this folder share: device memory, random fills, checks that count their failures, event
// timing, and the two ceilings of a device, measured in the run.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_BENCH_SUPPORT_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_BENCH_SUPPORT_CUH_

#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "moe/kernels/cuda/ceilings.h"

namespace conclave::cuda {

inline void Must(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    std::printf("FAILED: %s: %s\n", what, cudaGetErrorString(error));
    std::exit(1);
  }
}
inline void Must(const absl::Status& status, const char* what) {
  if (!status.ok()) {
    std::printf("FAILED: %s: %s\n", what, std::string(status.message()).c_str());
    std::exit(1);
  }
}

template <typename T>
T* Allocate(int64_t count) {
  T* pointer = nullptr;
  Must(cudaMalloc(&pointer, count * sizeof(T)), "cudaMalloc");
  return pointer;
}

__device__ inline uint32_t Mix(uint64_t x) {
  x ^= x >> 33; x *= 0xff51afd7ed558ccdull; x ^= x >> 33; x *= 0xc4ceb9fe1a85ec53ull; x ^= x >> 33;
  return static_cast<uint32_t>(x);
}
// e4m3 values that are roughly normal with deviation 64: sums of uniform bytes.
static __global__ void FillFp8(uint8_t* out, int64_t count, uint64_t seed) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    const uint32_t r = Mix(seed * 0x9E3779B97F4A7C15ull + i);
    const float sum = static_cast<float>((r & 255) + ((r >> 8) & 255) + ((r >> 16) & 255) + (r >> 24)) - 510.0f;
    out[i] = __nv_cvt_float_to_fp8(sum * 0.43f, __NV_SATFINITE, __NV_E4M3);
  }
}
static __global__ void FillScales(float* out, int64_t count, float around, uint64_t seed) {
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (i < count) out[i] = around * (0.5f + Mix(seed * 0x9E3779B97F4A7C15ull + i) * 2.3283064e-10f);
}

// bfloat16 values spread evenly over [-around, around).
static __global__ void FillBf16(__nv_bfloat16* out, int64_t count, float around, uint64_t seed) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    out[i] = __float2bfloat16_rn(around * (Mix(seed * 0x9E3779B97F4A7C15ull + i) * 4.656613e-10f - 1.0f));
  }
}

inline int g_failures = 0;
inline void Report(bool ok, const std::string& text) {
  std::printf("%s %s\n", ok ? "ok    " : "FAILED", text.c_str());
  g_failures += !ok;
}

template <typename T>
std::vector<T> ToHost(const void* device, int64_t count) {
  std::vector<T> host(count);
  Must(cudaMemcpy(host.data(), device, count * sizeof(T), cudaMemcpyDeviceToHost), "copy back");
  return host;
}

inline float Bf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

// Median microseconds of `launch` over `runs`. Before each, `between` runs untimed: filling a few gigabytes empties the
// L2 cache and lets the chip's power settle, as DeepGEMM's own benchmark does; nothing measures sustained load instead.
inline double Median(int runs, const std::function<void()>& launch, const std::function<void()>& between = [] {}) {
  std::vector<cudaEvent_t> events(2 * runs);
  for (auto& event : events) Must(cudaEventCreate(&event), "event");
  for (int i = 0; i < 3; ++i) launch();
  for (int i = 0; i < runs; ++i) {
    between();
    Must(cudaEventRecord(events[2 * i]), "event");
    launch();
    Must(cudaEventRecord(events[2 * i + 1]), "event");
  }
  Must(cudaDeviceSynchronize(), "timing");
  std::vector<float> times(runs);
  for (int i = 0; i < runs; ++i) Must(cudaEventElapsedTime(&times[i], events[2 * i], events[2 * i + 1]), "event");
  for (auto& event : events) cudaEventDestroy(event);
  std::sort(times.begin(), times.end());
  return times[runs / 2] * 1e3;
}

// TB/s, read and written.
inline double CopyBandwidth() {
  const auto bytes = CopyBytesPerSecond();
  Must(bytes.status(), "copy");
  return *bytes * 1e-12;
}

// TFLOP/s of an 8192³ bfloat16 product by cuBLAS on random data; 0 where the library is not found.
inline double Bf16Ceiling() {
  const auto flops = Bf16FlopsPerSecond();
  return flops.ok() ? *flops * 1e-12 : 0;
}

}  // namespace conclave::cuda

#endif  // CONCLAVE_MOE_KERNELS_CUDA_BENCH_SUPPORT_CUH_
