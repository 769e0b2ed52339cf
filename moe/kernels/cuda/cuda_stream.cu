#include <cuda_runtime.h>

#include "absl/strings/str_cat.h"
#include "moe/kernels/cuda/cuda_stream.h"

namespace conclave::cuda {
namespace {

class CudaStream final : public DeviceStream {
 public:
  CudaStream(int ordinal, cudaStream_t stream) : ordinal_(ordinal), stream_(stream) {}
  ~CudaStream() override {
    MakeCurrent();
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }

  void* native() const override { return stream_; }
  void MakeCurrent() override { cudaSetDevice(ordinal_); }

  // Stream-ordered: a plain cudaFree would wait for kernels of other queues, such as one that waits for a peer.
  absl::StatusOr<void*> Allocate(int64_t bytes) override {
    MakeCurrent();
    void* memory = nullptr;
    const cudaError_t error = cudaMallocAsync(&memory, static_cast<size_t>(bytes > 0 ? bytes : 1), stream_);
    if (error == cudaSuccess) return memory;
    cudaGetLastError();
    return absl::ResourceExhaustedError(
        absl::StrCat("no ", bytes >> 20, " MiB of device memory for a transport: ", cudaGetErrorString(error)));
  }
  void Free(void* memory) override {
    MakeCurrent();
    Note(cudaFreeAsync(memory, stream_));
  }
  absl::StatusOr<void*> AllocateHost(int64_t bytes) override {
    MakeCurrent();
    void* memory = nullptr;
    if (cudaMallocHost(&memory, static_cast<size_t>(bytes > 0 ? bytes : 1)) == cudaSuccess) return memory;
    cudaGetLastError();
    return absl::ResourceExhaustedError(absl::StrCat("no ", bytes >> 20, " MiB of pinned host memory"));
  }
  void FreeHost(void* memory) override {
    MakeCurrent();
    Note(cudaFreeHost(memory));
  }

  bool Pinned(const void* host) const override {
    cudaPointerAttributes attributes{};
    if (cudaPointerGetAttributes(&attributes, host) == cudaSuccess) return attributes.type == cudaMemoryTypeHost;
    cudaGetLastError();
    return false;
  }

  void CopyIn(void* device, const void* host, int64_t bytes) override {
    MakeCurrent();
    if (bytes > 0) Note(cudaMemcpyAsync(device, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_));
  }
  void CopyOut(void* host, const void* device, int64_t bytes) override {
    MakeCurrent();
    if (bytes > 0) Note(cudaMemcpyAsync(host, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream_));
  }
  absl::StatusOr<bool> Idle() override {
    MakeCurrent();
    const cudaError_t state = cudaStreamQuery(stream_);
    if (state != cudaErrorNotReady) Note(state);
    if (!failure_.ok()) return failure_;
    return state == cudaSuccess;
  }

 private:
  void Note(cudaError_t error) {
    if (error == cudaSuccess) return;
    cudaGetLastError();
    if (failure_.ok()) failure_ = absl::InternalError(absl::StrCat("moving rows: ", cudaGetErrorString(error)));
  }

  const int ordinal_;
  const cudaStream_t stream_;
  absl::Status failure_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceStream>> NewCudaStream(int ordinal) {
  cudaStream_t stream = nullptr;
  cudaError_t error = cudaSetDevice(ordinal);
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (error == cudaSuccess) return std::make_unique<CudaStream>(ordinal, stream);
  cudaGetLastError();
  return absl::InternalError(absl::StrCat("no stream on GPU ", ordinal, ": ", cudaGetErrorString(error)));
}

}  // namespace conclave::cuda
