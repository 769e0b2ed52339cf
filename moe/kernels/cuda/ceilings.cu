#include "moe/kernels/cuda/ceilings.h"

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <vector>

#include "absl/status/status.h"

namespace conclave::cuda {
namespace {

constexpr int kRuns = 11;

// Device memory that goes with its scope; null where there was none left.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) {
    if (cudaMalloc(&memory_, static_cast<size_t>(bytes)) != cudaSuccess) {
      cudaGetLastError();
      memory_ = nullptr;
    }
  }
  ~Scratch() { cudaFree(memory_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* get() const { return memory_; }

 private:
  void* memory_ = nullptr;
};

// Zeros would draw less power than data does, and run faster.
// Every word is noise & `mask` | `set`.
__global__ void FillNoise(uint32_t* out, int64_t count, uint32_t mask, uint32_t set) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    uint64_t x = (static_cast<uint64_t>(i) + 1) * 0x9E3779B97F4A7C15ull;
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdull;
    x ^= x >> 33;
    out[i] = (static_cast<uint32_t>(x) & mask) | set;
  }
}

// Magnitudes in [0.5, 2): two bfloat16 numbers a word, four of e4m3.
constexpr uint32_t kBf16Mask = 0x80ff80ffu, kBf16Set = 0x3f003f00u, kFp8Mask = 0x8f8f8f8fu, kFp8Set = 0x30303030u;

// The median of `work` in seconds; 0 where it failed.
double MedianSeconds(const std::function<void()>& work) {
  std::vector<float> milliseconds(kRuns);
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  work();
  for (float& each : milliseconds) {
    cudaEventRecord(begin);
    work();
    cudaEventRecord(end);
    cudaEventSynchronize(end);
    cudaEventElapsedTime(&each, begin, end);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  if (cudaGetLastError() != cudaSuccess) return 0;
  std::nth_element(milliseconds.begin(), milliseconds.begin() + kRuns / 2, milliseconds.end());
  return milliseconds[kRuns / 2] * 1e-3;
}

void* OpenFirst(std::initializer_list<const char*> names) {
  void* library = nullptr;
  for (const char* name : names) {
    if (library == nullptr) library = dlopen(name, RTLD_NOW);
  }
  return library;
}

absl::Status Failed() { return absl::InternalError("the device failed while its ceilings were measured"); }

}  // namespace

absl::StatusOr<double> CopyBytesPerSecond() {
  for (int64_t bytes = int64_t{4} << 30; bytes >= int64_t{256} << 20; bytes /= 2) {
    const Scratch from(bytes), to(bytes);
    if (from.get() == nullptr || to.get() == nullptr) continue;
    FillNoise<<<1024, 256>>>(static_cast<uint32_t*>(from.get()), bytes / 4, kBf16Mask, kBf16Set);
    const double seconds =
        MedianSeconds([&] { cudaMemcpyAsync(to.get(), from.get(), bytes, cudaMemcpyDeviceToDevice); });
    if (seconds <= 0) return Failed();
    return 2.0 * static_cast<double>(bytes) / seconds;
  }
  return absl::ResourceExhaustedError("no 512 MiB of device memory are left to measure a copy in");
}

absl::StatusOr<double> Bf16FlopsPerSecond() {
  void* const library = OpenFirst({"libcublas.so.13", "libcublas.so.12", "libcublas.so"});
  if (library == nullptr) return absl::NotFoundError("cuBLAS is not installed");
  using Create = int (*)(void**);
  using Gemm = int (*)(void*, int, int, int, int, int, const void*, const void*, int, int, const void*, int, int,
                       const void*, void*, int, int, int, int);
  const auto create = reinterpret_cast<Create>(dlsym(library, "cublasCreate_v2"));
  const auto gemm = reinterpret_cast<Gemm>(dlsym(library, "cublasGemmEx"));
  void* handle = nullptr;
  if (create == nullptr || gemm == nullptr || create(&handle) != 0) return absl::NotFoundError("cuBLAS does not start");
  constexpr int kSize = 8192, kTransposed = 1, kAsIs = 0, kTypeBf16 = 14, kComputeF32 = 68, kDefaultAlgorithm = -1;
  constexpr int64_t kCount = int64_t{kSize} * kSize;
  const Scratch memory(3 * kCount * 2);
  if (memory.get() == nullptr) return absl::ResourceExhaustedError("no 384 MiB of device memory are left");
  auto* a = static_cast<__nv_bfloat16*>(memory.get());
  FillNoise<<<1024, 256>>>(static_cast<uint32_t*>(memory.get()), kCount, kBf16Mask, kBf16Set);
  const float one = 1, zero = 0;
  bool worked = true;
  const double seconds = MedianSeconds([&] {
    worked &= gemm(handle, kTransposed, kAsIs, kSize, kSize, kSize, &one, a, kTypeBf16, kSize, a + kCount, kTypeBf16,
                   kSize, &zero, a + 2 * kCount, kTypeBf16, kSize, kComputeF32, kDefaultAlgorithm) == 0;
  });
  if (seconds <= 0 || !worked) return Failed();
  return 2.0 * kSize * static_cast<double>(kCount) / seconds;
}

absl::StatusOr<double> Fp8FlopsPerSecond() {
  void* const library = OpenFirst({"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"});
  if (library == nullptr) return absl::NotFoundError("cuBLASLt is not installed");
  const auto create = reinterpret_cast<decltype(&cublasLtCreate)>(dlsym(library, "cublasLtCreate"));
  const auto describe =
      reinterpret_cast<decltype(&cublasLtMatmulDescCreate)>(dlsym(library, "cublasLtMatmulDescCreate"));
  const auto set =
      reinterpret_cast<decltype(&cublasLtMatmulDescSetAttribute)>(dlsym(library, "cublasLtMatmulDescSetAttribute"));
  const auto lay =
      reinterpret_cast<decltype(&cublasLtMatrixLayoutCreate)>(dlsym(library, "cublasLtMatrixLayoutCreate"));
  const auto multiply = reinterpret_cast<decltype(&cublasLtMatmul)>(dlsym(library, "cublasLtMatmul"));
  cublasLtHandle_t handle = nullptr;
  if (create == nullptr || describe == nullptr || set == nullptr || lay == nullptr || multiply == nullptr ||
      create(&handle) != CUBLAS_STATUS_SUCCESS) {
    return absl::NotFoundError("cuBLASLt does not start");
  }
  constexpr int kSize = 8192;
  constexpr int64_t kCount = int64_t{kSize} * kSize;
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t in = nullptr, out = nullptr;
  const cublasOperation_t transposed = CUBLAS_OP_T;
  describe(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  set(product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed));
  lay(&in, CUDA_R_8F_E4M3, kSize, kSize, kSize);
  lay(&out, CUDA_R_16BF, kSize, kSize, kSize);
  const Scratch memory(4 * kCount);
  if (memory.get() == nullptr) return absl::ResourceExhaustedError("no 256 MiB of device memory are left");
  auto* const bytes = static_cast<uint8_t*>(memory.get());
  FillNoise<<<1024, 256>>>(static_cast<uint32_t*>(memory.get()), kCount / 2, kFp8Mask, kFp8Set);
  const float one = 1, zero = 0;
  bool worked = true;
  // Without an algorithm named, the library takes its own first choice, without a workspace.
  const double seconds = MedianSeconds([&] {
    worked &= multiply(handle, product, &one, bytes, in, bytes + kCount, in, &zero, bytes + 2 * kCount, out,
                       bytes + 2 * kCount, out, nullptr, nullptr, 0, nullptr) == CUBLAS_STATUS_SUCCESS;
  });
  if (seconds <= 0 || !worked) return Failed();
  return 2.0 * kSize * static_cast<double>(kCount) / seconds;
}

}  // namespace conclave::cuda
