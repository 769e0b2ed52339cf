#include <cuda_runtime.h>

#include "absl/strings/str_cat.h"
#include "moe/kernels/cuda/cuda_stream.h"

namespace conclave::cuda {
namespace {

class CudaEvent final : public DeviceEvent {
 public:
  CudaEvent(int ordinal, cudaEvent_t event) : ordinal_(ordinal), event_(event) {}
  ~CudaEvent() override {
    cudaSetDevice(ordinal_);
    cudaEventDestroy(event_);
  }
  void* native() const override { return event_; }
  absl::StatusOr<bool> Done() const override {
    const cudaError_t state = cudaEventQuery(event_);
    if (state == cudaSuccess) return true;
    if (state == cudaErrorNotReady) return false;
    return Failed(state);
  }
  absl::Status Wait() const override {
    const cudaError_t state = cudaEventSynchronize(event_);
    return state == cudaSuccess ? absl::OkStatus() : Failed(state);
  }

 private:
  static absl::Status Failed(cudaError_t error) {
    cudaGetLastError();
    return absl::UnavailableError(absl::StrCat("waiting for the device: ", cudaGetErrorString(error)));
  }

  const int ordinal_;
  const cudaEvent_t event_;
};

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
  // What is allocated in the order of a stream cannot be mapped by others.
  absl::StatusOr<void*> AllocateShared(int64_t bytes) override {
    MakeCurrent();
    void* memory = nullptr;
    const cudaError_t error = cudaMalloc(&memory, static_cast<size_t>(bytes > 0 ? bytes : 1));
    if (error == cudaSuccess) return memory;
    cudaGetLastError();
    return absl::ResourceExhaustedError(
        absl::StrCat("no ", bytes >> 20, " MiB of device memory to share: ", cudaGetErrorString(error)));
  }
  void FreeShared(void* memory) override {
    MakeCurrent();
    Note(cudaFree(memory));
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
  void CopyWithin(void* to, const void* from, int64_t bytes) override {
    MakeCurrent();
    if (bytes > 0) Note(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream_));
  }
  void WaitFor(const DeviceEvent& event) override {
    MakeCurrent();
    Note(cudaStreamWaitEvent(stream_, static_cast<cudaEvent_t>(event.native()), 0));
  }
  absl::StatusOr<std::unique_ptr<DeviceEvent>> NewEvent() override { return NewCudaEvent(ordinal_); }
  void Record(DeviceEvent& event) override {
    MakeCurrent();
    Note(cudaEventRecord(static_cast<cudaEvent_t>(event.native()), stream_));
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

absl::StatusOr<std::unique_ptr<DeviceEvent>> NewCudaEvent(int ordinal) {
  cudaEvent_t event = nullptr;
  cudaError_t error = cudaSetDevice(ordinal);
  if (error == cudaSuccess) error = cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  if (error == cudaSuccess) return std::make_unique<CudaEvent>(ordinal, event);
  cudaGetLastError();
  return absl::InternalError(absl::StrCat("no event on GPU ", ordinal, ": ", cudaGetErrorString(error)));
}

absl::StatusOr<std::unique_ptr<DeviceStream>> NewCudaStream(int ordinal) {
  cudaStream_t stream = nullptr;
  cudaError_t error = cudaSetDevice(ordinal);
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (error == cudaSuccess) return std::make_unique<CudaStream>(ordinal, stream);
  cudaGetLastError();
  return absl::InternalError(absl::StrCat("no stream on GPU ", ordinal, ": ", cudaGetErrorString(error)));
}

}  // namespace conclave::cuda
