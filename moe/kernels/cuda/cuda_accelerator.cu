// The Accelerator over CUDA's run-time library: what libconclave_cuda.so exports. One stream, one thread at a time.
#include <cuda_runtime.h>

#include <algorithm>
#include <memory>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "moe/kernels/accelerator/accelerator.h"
#include "moe/kernels/accelerator/device_facts.h"
#include "moe/kernels/accelerator/open_accelerator.h"
#include "moe/kernels/cuda/bf16_experts.h"
#include "moe/kernels/cuda/ceilings.h"
#include "moe/kernels/cuda/cuda_stream.h"
#include "moe/kernels/cuda/device_ops.cuh"
#include "moe/kernels/cuda/fp8_experts.h"
#include "moe/kernels/cuda/hopper_code.h"

namespace conclave::cuda {
namespace {

class CudaAccelerator final : public Accelerator {
 public:
  CudaAccelerator(int ordinal, AcceleratorInfo info, cudaStream_t stream)
      : ordinal_(ordinal), info_(std::move(info)), stream_(stream) {}
  ~CudaAccelerator() override {
    Use();
    cudaStreamSynchronize(stream_);
    for (const auto& [key, graph] : graphs_) cudaGraphExecDestroy(graph);
    cudaStreamDestroy(stream_);
  }

  const AcceleratorInfo& info() const override { return info_; }
  absl::Status Supports(Compute compute, const ExpertSlots& slots) const override {
    if (compute != Compute::kF8) return absl::OkStatus();
    if (info_.portable) {
      return absl::InvalidArgumentError(absl::StrCat("--compute fp8 needs a Hopper GPU (compute capability 9.0); ",
                                                     info_.name, " is ", info_.isa, ": use --compute bf16"));
    }
    return SupportsFp8Experts(slots);
  }
  DType AttentionDType(Compute compute, int latent, int rope) const override {
    const bool rounds = compute == Compute::kF8 || (compute == Compute::kBF16 && AttendsOnTensorCores(latent, rope));
    return rounds ? DType::kBF16 : DType::kF32;
  }

  absl::StatusOr<std::unique_ptr<DeviceStream>> NewStream() override { return NewCudaStream(ordinal_); }

  absl::StatusOr<std::unique_ptr<DeviceEvent>> NewEvent() override { return NewCudaEvent(ordinal_); }
  void Record(DeviceEvent& event) override {
    Use();
    Note(cudaEventRecord(static_cast<cudaEvent_t>(event.native()), stream_), "event");
  }

  absl::StatusOr<AcceleratorCeilings> MeasureCeilings() override {
    Use();
    AcceleratorCeilings ceilings;
    const absl::StatusOr<double> copy = CopyBytesPerSecond(), bf16 = Bf16FlopsPerSecond();
    const absl::StatusOr<double> fp8 = info_.portable ? absl::StatusOr<double>(0) : Fp8FlopsPerSecond();
    if (!copy.ok()) return copy.status();
    if (!bf16.ok() && !absl::IsNotFound(bf16.status())) return bf16.status();
    if (!fp8.ok() && !absl::IsNotFound(fp8.status())) return fp8.status();
    ceilings.copy_bytes_per_second = *copy;
    ceilings.bf16_flops_per_second = bf16.value_or(0);
    ceilings.fp8_flops_per_second = fp8.value_or(0);
    return ceilings;
  }

  absl::StatusOr<void*> Allocate(int64_t bytes) override {
    Use();
    void* memory = nullptr;
    const cudaError_t error = cudaMalloc(&memory, static_cast<size_t>(bytes > 0 ? bytes : 1));
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      return absl::ResourceExhaustedError(absl::StrCat(info_.name, " has no ", bytes >> 20, " MiB left"));
    }
    Note(error, "cudaMalloc");
    if (failure_.ok()) Note(cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes), stream_), "cudaMemset");
    if (!failure_.ok()) return failure_;
    return memory;
  }
  void Free(void* memory) override {
    Use();
    cudaFree(memory);
  }
  absl::StatusOr<void*> AllocateHost(int64_t bytes) override {
    Use();
    void* memory = nullptr;
    if (cudaMallocHost(&memory, static_cast<size_t>(bytes > 0 ? bytes : 1)) != cudaSuccess) {
      cudaGetLastError();
      return absl::ResourceExhaustedError(absl::StrCat("no ", bytes >> 20, " MiB of pinned host memory"));
    }
    return memory;
  }
  void FreeHost(void* memory) override { cudaFreeHost(memory); }

  void CopyIn(void* device, const void* host, int64_t bytes) override {
    Use();
    if (bytes > 0) {
      Note(cudaMemcpyAsync(device, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_), "copy in");
    }
  }
  void CopyOut(void* host, const void* device, int64_t bytes) override {
    Use();
    if (bytes > 0) {
      Note(cudaMemcpyAsync(host, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream_), "copy out");
    }
  }
  absl::Status Synchronize() override {
    Use();
    Note(cudaStreamSynchronize(stream_), "the device's work");
    const absl::Status status = failure_;
    if (!absl::IsUnavailable(failure_)) failure_ = absl::OkStatus();  // a lost device stays lost
    return status;
  }

  bool Replay(uint64_t key) override {
    Use();
    const auto found = graphs_.find(key);
    if (found == graphs_.end()) return false;
    Note(cudaGraphLaunch(found->second, stream_), "graph launch");
    return true;
  }
  void BeginGraph(uint64_t key) override {
    Use();
    recording_ = key;
    Note(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "begin of a graph");
  }
  void EndGraph() override {
    cudaGraph_t graph = nullptr;
    Note(cudaStreamEndCapture(stream_, &graph), "end of a graph");
    if (graph == nullptr) return;
    cudaGraphExec_t executable = nullptr;
    Note(cudaGraphInstantiate(&executable, graph, 0), "graph");
    cudaGraphDestroy(graph);
    if (!failure_.ok()) return;
    graphs_[recording_] = executable;
    Note(cudaGraphLaunch(executable, stream_), "graph launch");
  }

  void Embed(const EmbedArgs& args) override { Queue("embed", [&] { cuda::Embed(args, stream_); }); }
  void RmsNorm(const NormArgs& args) override { Queue("norm", [&] { cuda::RmsNorm(args, stream_); }); }
  void Linear(const LinearArgs& args) override { Queue("linear", [&] { return cuda::Linear(args, stream_); }); }
  void FillCache(const FillCacheArgs& args) override { Queue("cache", [&] { cuda::FillCache(args, stream_); }); }
  void RotateQueries(const RotateArgs& args) override { Queue("rope", [&] { cuda::RotateQueries(args, stream_); }); }
  void Attend(const AttendArgs& args) override { Queue("attention", [&] { return cuda::Attend(args, stream_); }); }
  int64_t AttendWorkspaceBytes(int64_t rows, int heads, int latent, DType dtype, int64_t tokens_max) const override {
    return cuda::AttendWorkspaceBytes(rows, heads, latent, dtype, tokens_max);
  }
  void Ffn(const FfnArgs& args) override { Queue("feed-forward", [&] { return cuda::Ffn(args, stream_); }); }
  int64_t DenseWorkspaceBytes(const DenseLimits& limits) const override { return cuda::DenseWorkspaceBytes(limits); }
  void AddToResidual(const AddArgs& args) override { Queue("residual", [&] { cuda::AddToResidual(args, stream_); }); }
  void AddAndNormalise(const AddNormArgs& args) override {
    Queue("residual and norm", [&] { cuda::AddAndNormalise(args, stream_); });
  }
  void SelectExperts(const SelectArgs& args) override { Queue("gate", [&] { cuda::SelectExperts(args, stream_); }); }
  void DrawTokens(const DrawArgs& args) override { Queue("draw", [&] { cuda::DrawTokens(args, stream_); }); }
  void GatherRows(const GatherRowsArgs& args) override { Queue("gather", [&] { cuda::GatherRows(args, stream_); }); }
  void Combine(const CombineArgs& args) override { Queue("combine", [&] { cuda::Combine(args, stream_); }); }
  void RunExperts(const ExpertFfnArgs& args) override {
    Queue("experts", [&] {
      if (args.compute == Compute::kF8) return RunFp8Experts(args, stream_);
      if (args.compute == Compute::kBF16 && TakesBf16Experts(args.slots)) return RunBf16Experts(args, stream_);
      RunPlainExperts(args, stream_);
      if (args.combined) cuda::Combine(CombineOf(args), stream_);
      return absl::OkStatus();
    });
  }
  int64_t ExpertWorkspaceBytes(Compute compute, int64_t pairs, const ExpertSlots& slots) const override {
    if (compute == Compute::kF8) return Fp8ExpertBytes(pairs, slots);
    // Another layer's weights may be of another dtype.
    return compute == Compute::kBF16 ? std::max(Bf16ExpertBytes(pairs, slots), PlainExpertBytes(pairs, slots))
                                     : PlainExpertBytes(pairs, slots);
  }

 private:
  // Several accelerators may live in one thread.
  void Use() const { cudaSetDevice(ordinal_); }

  // `function` returns nothing or a status.
  template <typename Function>
  void Queue(const char* what, Function function) {
    Use();
    if constexpr (std::is_void_v<decltype(function())>) {
      function();
    } else {
      const absl::Status status = function();
      if (failure_.ok()) failure_ = status;
    }
    Note(cudaGetLastError(), what);
  }

  // Keeps the first failure. One that the device does not recover from fails every later call too.
  void Note(cudaError_t error, const char* what) {
    if (error == cudaSuccess || absl::IsUnavailable(failure_)) return;
    cudaGetLastError();
    const std::string text = absl::StrCat(what, ": ", cudaGetErrorString(error));
    if (cudaStreamQuery(stream_) != cudaErrorNotReady && cudaDeviceSynchronize() != cudaSuccess) {
      failure_ = absl::UnavailableError(absl::StrCat("the device is lost (", info_.name, "): ", text));
    } else if (failure_.ok()) {
      failure_ = absl::InternalError(absl::StrCat(info_.name, ": ", text));
    }
  }

  const int ordinal_;
  const AcceleratorInfo info_;
  const cudaStream_t stream_;
  absl::Status failure_;
  uint64_t recording_ = 0;
  std::unordered_map<uint64_t, cudaGraphExec_t> graphs_;
};

absl::StatusOr<AcceleratorInfo> Examine(int ordinal) {
  DeviceFacts facts;
  cudaDeviceProp properties{};
  size_t free_bytes = 0, total_bytes = 0;
  if (cudaDriverGetVersion(&facts.driver) != cudaSuccess) facts.driver = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&facts.devices); error != cudaSuccess) {
    facts.devices = 0;
    facts.devices_error = cudaGetErrorString(error);
  }
  if (facts.driver >= kCudaDriverMin && ordinal < facts.devices) {
    cudaError_t error = cudaSetDevice(ordinal);
    if (error == cudaSuccess) error = cudaGetDeviceProperties(&properties, ordinal);
    if (error == cudaSuccess) error = cudaMemGetInfo(&free_bytes, &total_bytes);
    if (error != cudaSuccess) facts.answer_error = cudaGetErrorString(error);
    facts.name = properties.name;
    facts.major = properties.major;
    facts.minor = properties.minor;
  }
  if (absl::Status usable = CheckDevice(facts, ordinal); !usable.ok()) return usable;
  AcceleratorInfo info;
  info.portable = !RunsHopperCode();
  // The driver compiles the same PTX anew for each kind of GPU; sums may then be made in another order.
  info.isa = absl::StrCat("sm", properties.major, properties.minor, info.portable ? "-portable" : "");
  info.name = properties.name;
  info.memory_total_bytes = static_cast<int64_t>(total_bytes);
  info.memory_free_bytes = static_cast<int64_t>(free_bytes);
  info.uuid = absl::BytesToHexString(absl::string_view(properties.uuid.bytes, sizeof(properties.uuid.bytes)));
  return info;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Accelerator>> Open(int revision, int ordinal) {
  if (revision != kAcceleratorRevision) {
    return CannotUseDevice(absl::StrCat(kCudaLibrary, " is of another build (interface ", kAcceleratorRevision,
                                ", the program has ", revision, "): install both from one build"));
  }
  absl::StatusOr<AcceleratorInfo> info = Examine(ordinal);
  if (!info.ok()) return info.status();
  cudaStream_t stream = nullptr;
  const cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (error != cudaSuccess) return CannotUseDevice(absl::StrCat("no stream: ", cudaGetErrorString(error)));
  return std::make_unique<CudaAccelerator>(ordinal, *std::move(info), stream);
}

}  // namespace conclave::cuda

extern "C" absl::StatusOr<std::unique_ptr<conclave::Accelerator>> conclave_open_cuda_accelerator(int revision,
                                                                                               int ordinal) {
  return conclave::cuda::Open(revision, ordinal);
}
