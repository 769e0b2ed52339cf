#include "moe/model/device/device_memory.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

// What the driver and its library need beside us, and what fragmentation eats.
constexpr double kUsableShare = 0.95;

std::string MiB(int64_t bytes) { return absl::StrFormat("%.1f MiB", static_cast<double>(bytes) / (1 << 20)); }

}  // namespace

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  if (this != &other) {
    Reset();
    accelerator_ = other.accelerator_;
    data_ = std::exchange(other.data_, nullptr);
    on_host_ = other.on_host_;
  }
  return *this;
}

void DeviceBuffer::Reset() {
  if (data_ == nullptr) return;
  on_host_ ? accelerator_->FreeHost(data_) : accelerator_->Free(data_);
  data_ = nullptr;
}

DeviceMemory::DeviceMemory(Accelerator& accelerator, int64_t limit_bytes)
    : accelerator_(accelerator),
      limit_bytes_(limit_bytes > 0 ? limit_bytes
                                   : static_cast<int64_t>(kUsableShare *
                                                          static_cast<double>(accelerator.info().memory_free_bytes))) {}

int64_t DeviceMemory::Reserved() const {
  int64_t bytes = 0;
  for (const auto& [what, size] : parts_) bytes += size;
  return bytes;
}

std::string DeviceMemory::Plan() const {
  std::string plan;
  for (const auto& [what, bytes] : parts_) absl::StrAppend(&plan, what, " ", MiB(bytes), ", ");
  const AcceleratorInfo& info = accelerator_.info();
  return absl::StrCat(plan, "together ", MiB(Reserved()), " of ", MiB(limit_bytes_), " that may be used (", info.name,
                      " had ", MiB(info.memory_free_bytes), " of ", MiB(info.memory_total_bytes), " free)");
}

void DeviceMemory::Note(absl::string_view what, int64_t bytes) {
  auto part = std::find_if(parts_.begin(), parts_.end(), [&](const auto& each) { return each.first == what; });
  if (part == parts_.end()) part = parts_.insert(parts_.end(), {std::string(what), 0});
  part->second += bytes;
  if (part->second == 0) parts_.erase(part);
}

void DeviceMemory::Release(absl::string_view what, int64_t bytes) { Note(what, -bytes); }

absl::Status DeviceMemory::Reserve(absl::string_view what, int64_t bytes) {
  Note(what, bytes);
  if (Reserved() <= limit_bytes_) return absl::OkStatus();
  const std::string plan = Plan();
  Note(what, -bytes);
  return absl::ResourceExhaustedError(
      absl::StrCat("the model does not fit into --gpu-memory: ", plan,
                   "; use more shards, a smaller --kv-memory or --max-batch-tokens, or a larger --gpu-memory"));
}

absl::StatusOr<DeviceBuffer> DeviceMemory::Allocate(int64_t bytes) {
  absl::StatusOr<void*> data = accelerator_.Allocate(Rounded(bytes));
  if (absl::IsResourceExhausted(data.status())) {
    return absl::ResourceExhaustedError(
        absl::StrCat(data.status().message(), "; the plan: ", Plan(), "; does another process use the device?"));
  }
  RETURN_IF_ERROR(data.status());
  return DeviceBuffer(accelerator_, *data, false);
}

absl::StatusOr<DeviceBuffer> DeviceMemory::AllocateHost(int64_t bytes) {
  ASSIGN_OR_RETURN(void* data, accelerator_.AllocateHost(Rounded(bytes)));
  return DeviceBuffer(accelerator_, data, true);
}

}  // namespace conclave
