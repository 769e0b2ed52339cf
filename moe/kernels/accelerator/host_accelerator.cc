#include "moe/kernels/accelerator/host_accelerator.h"

#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>

#include "absl/strings/str_cat.h"
#include "moe/kernels/accelerator/host_ops.h"

namespace conclave {
namespace {

class HostAcceleratorImpl final : public HostAccelerator {
 public:
  explicit HostAcceleratorImpl(int64_t memory_bytes) : info_{"host", "this CPU", memory_bytes, memory_bytes} {}
  ~HostAcceleratorImpl() override {
    for (const auto& [memory, bytes] : device_) std::free(memory);
  }

  const AcceleratorInfo& info() const override { return info_; }
  absl::Status Supports(Compute compute, const ExpertSlots&) const override {
    if (compute == Compute::kF32 || compute == Compute::kBF16 || compute == Compute::kF8) return absl::OkStatus();
    return absl::InvalidArgumentError("--compute: the host accelerator has f32, bf16 and fp8");
  }

  absl::StatusOr<std::unique_ptr<DeviceStream>> NewStream() override {
    return absl::UnimplementedError("the host accelerator has one queue");
  }

  absl::StatusOr<AcceleratorCeilings> MeasureCeilings() override {
    if (lost_) return Lost();
    return AcceleratorCeilings{1e9, 0, 0};  // nobody compares with this one
  }

  absl::StatusOr<void*> Allocate(int64_t bytes) override {
    if (lost_) return Lost();
    if (allocated_ + bytes > info_.memory_total_bytes) {
      return absl::ResourceExhaustedError(absl::StrCat("no room for ", bytes, " bytes on the device"));
    }
    void* memory = std::calloc(1, static_cast<size_t>(bytes > 0 ? bytes : 1));
    if (memory == nullptr) return absl::ResourceExhaustedError("no memory");
    device_[memory] = bytes;
    allocated_ += bytes;
    return memory;
  }
  void Free(void* memory) override {
    const auto entry = device_.find(memory);
    if (entry == device_.end()) return;
    allocated_ -= entry->second;
    std::free(memory);
    device_.erase(entry);
  }
  absl::StatusOr<void*> AllocateHost(int64_t bytes) override {
    return std::calloc(1, static_cast<size_t>(bytes > 0 ? bytes : 1));
  }
  void FreeHost(void* memory) override { std::free(memory); }
  void CopyIn(void* device, const void* host, int64_t bytes) override { Copy(device, host, bytes); }
  void CopyOut(void* host, const void* device, int64_t bytes) override { Copy(host, device, bytes); }
  absl::Status Synchronize() override { return lost_ ? Lost() : absl::OkStatus(); }

  bool Replay(uint64_t key) override {
    const auto graph = graphs_.find(key);
    if (graph == graphs_.end()) return false;
    for (const auto& operation : graph->second) Run(operation);
    return true;
  }
  void BeginGraph(uint64_t key) override {
    graph_keys_.push_back(key);
    recording_ = &graphs_[key];
  }
  void EndGraph() override {
    recording_ = nullptr;
    Replay(graph_keys_.back());
  }

  void Embed(const EmbedArgs& args) override { Run([args] { host_ops::Embed(args); }); }
  void RmsNorm(const NormArgs& args) override { Run([args] { host_ops::RmsNorm(args); }); }
  void Linear(const LinearArgs& args) override { Run([args] { host_ops::Linear(args); }); }
  void FillCache(const FillCacheArgs& args) override { Run([args] { host_ops::FillCache(args); }); }
  void RotateQueries(const RotateArgs& args) override { Run([args] { host_ops::RotateQueries(args); }); }
  void Attend(const AttendArgs& args) override { Run([args] { host_ops::Attend(args); }); }
  int64_t AttendWorkspaceBytes(int64_t, int, int, DType, int64_t) const override { return 1; }
  void Ffn(const FfnArgs& args) override { Run([args] { host_ops::Ffn(args); }); }
  int64_t DenseWorkspaceBytes(const DenseLimits&) const override { return 1; }
  void AddToResidual(const AddArgs& args) override { Run([args] { host_ops::AddToResidual(args); }); }
  void AddAndNormalise(const AddNormArgs& args) override { Run([args] { host_ops::AddAndNormalise(args); }); }
  void SelectExperts(const SelectArgs& args) override { Run([args] { host_ops::SelectExperts(args); }); }
  void DrawTokens(const DrawArgs& args) override { Run([args] { host_ops::DrawTokens(args); }); }
  void Combine(const CombineArgs& args) override { Run([args] { host_ops::Combine(args); }); }
  void RunExperts(const ExpertFfnArgs& args) override { Run([args] { host_ops::RunExperts(args); }); }
  int64_t ExpertWorkspaceBytes(Compute, int64_t, const ExpertSlots&) const override { return 1; }

  void Lose() override { lost_ = true; }
  int64_t allocated_bytes() const override { return allocated_; }
  const std::vector<uint64_t>& graph_keys() const override { return graph_keys_; }

 private:
  void Run(const std::function<void()>& operation) {
    if (recording_ != nullptr) {
      recording_->push_back(operation);
    } else if (!lost_) {
      operation();
    }
  }
  void Copy(void* to, const void* from, int64_t bytes) {
    if (bytes > 0) Run([=] { std::memcpy(to, from, static_cast<size_t>(bytes)); });  // nothing may come from nowhere
  }
  static absl::Status Lost() { return absl::UnavailableError("the device is lost: (host accelerator)"); }

  AcceleratorInfo info_;
  std::map<void*, int64_t> device_;
  int64_t allocated_ = 0;
  std::vector<uint64_t> graph_keys_;
  std::map<uint64_t, std::vector<std::function<void()>>> graphs_;
  std::vector<std::function<void()>>* recording_ = nullptr;  // in graphs_
  bool lost_ = false;
};

}  // namespace

std::unique_ptr<HostAccelerator> HostAccelerator::Create(int64_t memory_bytes) {
  return std::make_unique<HostAcceleratorImpl>(memory_bytes);
}

}  // namespace conclave
