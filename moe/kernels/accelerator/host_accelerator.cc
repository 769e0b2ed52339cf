#include "moe/kernels/accelerator/host_accelerator.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/kernels/accelerator/host_ops.h"

namespace conclave {
namespace {

// What the accelerator, its streams and its events share; the last of them frees it.
struct Shared {
  explicit Shared(int64_t bytes) : memory_bytes(bytes) {}
  ~Shared() {
    for (const auto& [memory, bytes] : pieces) std::free(memory);
  }

  absl::StatusOr<void*> Allocate(int64_t bytes) {
    std::lock_guard<std::mutex> lock(mutex);
    if (lost) return Lost();
    if (allocated + bytes > memory_bytes) {
      return absl::ResourceExhaustedError(absl::StrCat("no room for ", bytes, " bytes on the device"));
    }
    void* memory = std::calloc(1, static_cast<size_t>(bytes > 0 ? bytes : 1));
    if (memory == nullptr) return absl::ResourceExhaustedError("no memory");
    pieces[memory] = bytes;
    allocated += bytes;
    return memory;
  }
  void Free(void* memory) {
    std::lock_guard<std::mutex> lock(mutex);
    const auto entry = pieces.find(memory);
    if (entry == pieces.end()) return;
    allocated -= entry->second;
    std::free(memory);
    pieces.erase(entry);
  }
  // Of the piece that begins at `memory`; 0: there is none.
  int64_t BytesAt(void* memory) {
    std::lock_guard<std::mutex> lock(mutex);
    const auto entry = pieces.find(memory);
    return entry == pieces.end() ? 0 : entry->second;
  }
  // Runs the accelerator's queue up to its `place`th piece of work since the beginning. The accelerator's thread's.
  void Flush(int64_t place) {
    for (; ran < place && !queue.empty(); queue.pop_front(), ++ran) {
      if (!lost) queue.front()();
    }
  }
  void Flush() { Flush(place()); }
  int64_t place() const { return ran + static_cast<int64_t>(queue.size()); }
  static absl::Status Lost() { return absl::UnavailableError("the device is lost: (host accelerator)"); }

  const int64_t memory_bytes;
  std::atomic<bool> lost{false};
  std::mutex mutex;
  std::map<void*, int64_t> pieces;  // guarded by mutex; device memory
  int64_t allocated = 0;            // guarded by mutex
  int64_t ran = 0;
  std::deque<std::function<void()>> queue;
};

class HostEvent final : public DeviceEvent {
 public:
  explicit HostEvent(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}
  void* native() const override { return nullptr; }
  absl::StatusOr<bool> Done() const override {
    if (const absl::Status waited = Wait(); !waited.ok()) return waited;
    return true;
  }
  absl::Status Wait() const override {
    shared_->Flush(place_);
    return shared_->lost ? Shared::Lost() : absl::OkStatus();
  }
  void Record() { place_ = shared_->place(); }

 private:
  const std::shared_ptr<Shared> shared_;
  int64_t place_ = 0;
};

// Never behind: what it is asked to do is done when it returns.
class HostStream final : public DeviceStream {
 public:
  explicit HostStream(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}
  void* native() const override { return nullptr; }
  void MakeCurrent() override {}
  absl::StatusOr<void*> Allocate(int64_t bytes) override { return shared_->Allocate(bytes); }
  void Free(void* memory) override { shared_->Free(memory); }
  absl::StatusOr<void*> AllocateHost(int64_t bytes) override {
    return std::calloc(1, static_cast<size_t>(bytes > 0 ? bytes : 1));
  }
  void FreeHost(void* memory) override { std::free(memory); }
  bool Pinned(const void*) const override { return false; }
  void CopyIn(void* device, const void* host, int64_t bytes) override { CopyWithin(device, host, bytes); }
  void CopyOut(void* host, const void* device, int64_t bytes) override { CopyWithin(host, device, bytes); }
  void CopyWithin(void* to, const void* from, int64_t bytes) override {
    if (bytes > 0 && !shared_->lost) std::memcpy(to, from, static_cast<size_t>(bytes));
  }
  void WaitFor(const DeviceEvent& event) override { event.Wait().IgnoreError(); }
  absl::StatusOr<std::unique_ptr<DeviceEvent>> NewEvent() override { return std::make_unique<HostEvent>(shared_); }
  void Record(DeviceEvent&) override {}
  absl::StatusOr<bool> Idle() override {
    if (shared_->lost) return Shared::Lost();
    return true;
  }

 private:
  const std::shared_ptr<Shared> shared_;
};

int64_t FloatsBytes(int64_t rows, int64_t intermediate) { return 3 * rows * intermediate * int64_t{sizeof(float)}; }

// What CUDA's kernels need between the products of a feed-forward: fp8 ones take whole scale blocks alone.
int64_t FfnWorkspaceBytes(const FfnArgs& args) {
  const auto whole = [](const DeviceWeight& w) {
    return w.dtype == DType::kF8E4M3 && w.scales != nullptr && w.block_rows == 128 && w.block_cols == 128 &&
           w.rows % 128 == 0 && w.cols % 128 == 0;
  };
  const bool fp8 = args.precision == LinearPrecision::kFp8 && whole(args.gate_up) && whole(args.down);
  return fp8 ? 1 : FloatsBytes(args.rows, args.down.cols);
}

class HostAcceleratorImpl final : public HostAccelerator {
 public:
  explicit HostAcceleratorImpl(int64_t memory_bytes)
      : info_{"host", "this CPU", memory_bytes, memory_bytes}, shared_(std::make_shared<Shared>(memory_bytes)) {}

  const AcceleratorInfo& info() const override { return info_; }
  absl::Status Supports(Compute compute, const ExpertSlots&) const override {
    if (compute == Compute::kF32 || compute == Compute::kBF16 || compute == Compute::kF8) return absl::OkStatus();
    return absl::InvalidArgumentError("--compute: the host accelerator has f32, bf16 and fp8");
  }
  // As a Hopper GPU has it, so that tests run either way of the model.
  DType AttentionDType(Compute compute, int latent, int rope) const override {
    const bool tensor_cores = compute == Compute::kBF16 && latent == 512 && rope == 64;
    return compute == Compute::kF8 || tensor_cores ? DType::kBF16 : DType::kF32;
  }

  absl::StatusOr<std::unique_ptr<DeviceStream>> NewStream() override {
    return std::make_unique<HostStream>(shared_);
  }

  absl::StatusOr<std::unique_ptr<DeviceEvent>> NewEvent() override { return std::make_unique<HostEvent>(shared_); }
  void Record(DeviceEvent& event) override { static_cast<HostEvent&>(event).Record(); }

  absl::StatusOr<AcceleratorCeilings> MeasureCeilings() override {
    if (shared_->lost) return Shared::Lost();
    return AcceleratorCeilings{1e9, 0, 0};  // nobody compares with this one
  }

  absl::StatusOr<void*> Allocate(int64_t bytes) override { return shared_->Allocate(bytes); }
  void Free(void* memory) override {
    shared_->Flush();
    shared_->Free(memory);
  }
  absl::StatusOr<void*> AllocateHost(int64_t bytes) override {
    return std::calloc(1, static_cast<size_t>(bytes > 0 ? bytes : 1));
  }
  void FreeHost(void* memory) override { std::free(memory); }
  void CopyIn(void* device, const void* host, int64_t bytes) override { Copy(device, host, bytes); }
  void CopyOut(void* host, const void* device, int64_t bytes) override { Copy(host, device, bytes); }
  absl::Status Synchronize() override {
    shared_->Flush();
    return shared_->lost ? Shared::Lost() : absl::OkStatus();
  }

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
  void Ffn(const FfnArgs& args) override {
    const int64_t bytes = FfnWorkspaceBytes(args);
    CONCLAVE_CHECK(shared_->BytesAt(args.workspace) >= bytes) << "a workspace of " << bytes << " bytes";
    Run([args] { host_ops::Ffn(args); });
  }
  // As on a GPU, gate, up and their product stand there, unless fp8 kernels take every layer.
  int64_t DenseWorkspaceBytes(const DenseLimits& limits) const override {
    const bool fp8 = limits.precision == LinearPrecision::kFp8 && limits.weight_dtype == DType::kF8E4M3;
    return fp8 ? 1 : FloatsBytes(limits.rows, limits.intermediate);
  }
  void AddToResidual(const AddArgs& args) override { Run([args] { host_ops::AddToResidual(args); }); }
  void AddAndNormalise(const AddNormArgs& args) override { Run([args] { host_ops::AddAndNormalise(args); }); }
  void SelectExperts(const SelectArgs& args) override { Run([args] { host_ops::SelectExperts(args); }); }
  void DrawTokens(const DrawArgs& args) override { Run([args] { host_ops::DrawTokens(args); }); }
  void GatherRows(const GatherRowsArgs& args) override { Run([args] { host_ops::GatherRows(args); }); }
  void Combine(const CombineArgs& args) override { Run([args] { host_ops::Combine(args); }); }
  void RunExperts(const ExpertFfnArgs& args) override {
    const int64_t workspace_bytes = ExpertWorkspaceBytes(args.compute, args.pairs, args.slots);
    CONCLAVE_CHECK(shared_->BytesAt(args.workspace) >= workspace_bytes)
        << "a workspace of " << workspace_bytes << " bytes";
    Run([args] { host_ops::RunExperts(args); });
  }
  int64_t ExpertWorkspaceBytes(Compute, int64_t, const ExpertSlots& slots) const override {
    return slots.intermediate * int64_t{sizeof(float)};
  }

  void Lose() override { shared_->lost = true; }
  int64_t allocated_bytes() const override {
    std::lock_guard<std::mutex> lock(shared_->mutex);
    return shared_->allocated;
  }
  void BeLazy() override { lazy_ = true; }
  const std::vector<uint64_t>& graph_keys() const override { return graph_keys_; }

 private:
  void Run(const std::function<void()>& operation) {
    if (recording_ != nullptr) {
      recording_->push_back(operation);
    } else if (lazy_) {
      shared_->queue.push_back(operation);
    } else if (!shared_->lost) {
      operation();
    }
  }
  void Copy(void* to, const void* from, int64_t bytes) {
    if (bytes > 0) Run([=] { std::memcpy(to, from, static_cast<size_t>(bytes)); });  // nothing may come from nowhere
  }

  AcceleratorInfo info_;
  const std::shared_ptr<Shared> shared_;
  std::vector<uint64_t> graph_keys_;
  std::map<uint64_t, std::vector<std::function<void()>>> graphs_;
  std::vector<std::function<void()>>* recording_ = nullptr;  // in graphs_
  bool lazy_ = false;
};

}  // namespace

std::unique_ptr<HostAccelerator> HostAccelerator::Create(int64_t memory_bytes) {
  return std::make_unique<HostAcceleratorImpl>(memory_bytes);
}

}  // namespace conclave
