#include "moe/checkpoint/checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/model_config.h"
#include "moe/checkpoint/model_file.h"
#include "moe/checkpoint/model_format.h"
#include "moe/checkpoint/model_tensors.h"
#include "moe/checkpoint/stored_matrix.h"
#include "moe/checkpoint/weight_index.h"
#include "xxhash.h"

namespace conclave {
namespace {

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr int64_t kSampleBytesMax = 4096;

absl::Status In(const std::string& place, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(place, ": ", status.message()));
}

bool IsWeightDtype(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF8E4M3;
}

}  // namespace

// The format does not promise alignment, kernels need it: the rare tensor at an odd address is copied, once.
struct Checkpoint::AlignedCopies {
  std::mutex mutex;
  absl::flat_hash_map<const std::byte*, std::unique_ptr<std::byte[]>> of;  // guarded by mutex
};

Checkpoint::Checkpoint() : aligned_copies_(std::make_unique<AlignedCopies>()) {}
Checkpoint::~Checkpoint() = default;

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& directory) {
  RETURN_IF_ERROR(CheckModelFormat(directory));
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint);
  checkpoint->directory_ = directory;
  ASSIGN_OR_RETURN(const std::string config, ReadModelFile(directory, "config.json", limits::kConfigFileBytesMax));
  std::string generation_config;
  if (ModelFileExists(directory, "generation_config.json")) {
    ASSIGN_OR_RETURN(generation_config,
                     ReadModelFile(directory, "generation_config.json", limits::kConfigFileBytesMax));
  }
  absl::StatusOr<ModelSpec> spec = ParseModelConfig(config, generation_config);
  if (!spec.ok()) return In(directory, spec.status());
  checkpoint->spec_ = *std::move(spec);
  RETURN_IF_ERROR(checkpoint->OpenWeights());
  RETURN_IF_ERROR(checkpoint->CheckComplete());
  RETURN_IF_ERROR(checkpoint->Fingerprint(config));
  return checkpoint;
}

absl::Status Checkpoint::OpenWeights() {
  // The order of Hugging Face: a single file wins over an index.
  if (ModelFileExists(directory_, kSingleFile)) {
    ASSIGN_OR_RETURN(const std::string path, ResolveModelFile(directory_, kSingleFile));
    ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open(path, MappedFile::Extent::kOnDemand));
    tensors_ = file->tensors();
    files_.push_back(std::move(file));
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const std::string text, ReadModelFile(directory_, kIndexFile, limits::kSafetensorsHeaderBytesMax));
  return OpenIndexed(text);
}

absl::Status Checkpoint::OpenIndexed(const std::string& index_text) {
  const std::string index_path = absl::StrCat(directory_, "/", kIndexFile);
  absl::StatusOr<WeightIndex> index = ParseWeightIndex(index_text);
  if (!index.ok()) return In(index_path, index.status());
  for (const std::string& name : index->files) {
    if (!ModelFileExists(directory_, name)) {
      return absl::NotFoundError(absl::StrCat(directory_, "/", name, ": is missing, though ", kIndexFile,
                                              " lists it; the download is not complete"));
    }
    ASSIGN_OR_RETURN(const std::string path, ResolveModelFile(directory_, name));
    ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open(path, MappedFile::Extent::kOnDemand));
    files_.push_back(std::move(file));
  }
  tensors_.reserve(index->entries.size());
  for (const WeightIndex::Entry& entry : index->entries) {
    const SafetensorsFile& file = *files_[entry.file];
    const auto it = file.tensors().find(entry.tensor);
    if (it == file.tensors().end()) {
      return absl::DataLossError(absl::StrCat(index_path, ": places tensor ", entry.tensor, " in ",
                                              index->files[entry.file], ", which does not hold it"));
    }
    tensors_.emplace(entry.tensor, it->second);
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::CheckComplete() const {
  absl::Status status;
  ForEachTensor(spec_, [&](const TensorSpec& wanted) {
    if (!status.ok() || wanted.mtp) return;
    if (wanted.shape.size() == 2 && IsPacked(wanted.name)) {
      status = FindPacked(wanted.name, wanted.shape[0], wanted.shape[1]).status();
      return;
    }
    absl::StatusOr<const SafetensorsTensor*> tensor = Find(wanted.name);
    if (!tensor.ok()) {
      status = tensor.status();
    } else if ((*tensor)->shape != wanted.shape) {
      status = WrongShape(**tensor, wanted.name, wanted.shape);
    }
  });
  return status;
}

absl::Status Checkpoint::Fingerprint(absl::string_view config_text) {
  std::string text(config_text);
  for (const std::string& name : TensorNames()) {
    const SafetensorsTensor& tensor = tensors_.find(name)->second;
    absl::StrAppend(&text, "\n", name, " ", Name(tensor.dtype), " [",
                    absl::StrJoin(tensor.shape, ", "), "]");
  }
  for (const char* name : {"model.norm.weight", "model.embed_tokens.weight"}) {
    ASSIGN_OR_RETURN(const SafetensorsTensor* tensor, Find(name));
    std::string sample(static_cast<size_t>(std::min(tensor->bytes, kSampleBytesMax)), '\0');
    const MappedFile& file = tensor->file->mapped();
    RETURN_IF_ERROR(file.Read(tensor->data - file.data(), static_cast<int64_t>(sample.size()), sample.data()));
    text += sample;
  }
  const XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
  fingerprint_ = absl::StrCat(absl::Hex(hash.high64, absl::kZeroPad16), absl::Hex(hash.low64, absl::kZeroPad16));
  return absl::OkStatus();
}

std::vector<std::string> Checkpoint::TensorNames() const {
  std::vector<std::string> names;
  names.reserve(tensors_.size());
  for (const auto& [name, tensor] : tensors_) names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<const SafetensorsTensor*> Checkpoint::Find(absl::string_view name) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) return absl::NotFoundError(absl::StrCat(directory_, ": no tensor ", name));
  return &it->second;
}

absl::StatusOr<SafetensorsTensor> Checkpoint::Describe(absl::string_view name) const {
  ASSIGN_OR_RETURN(const SafetensorsTensor* tensor, Find(name));
  return *tensor;
}

absl::StatusOr<SafetensorsTensor> Checkpoint::Tensor(absl::string_view name) const {
  ASSIGN_OR_RETURN(const SafetensorsTensor* tensor, Find(name));
  RETURN_IF_ERROR(tensor->file->Map(*tensor));
  return *tensor;
}

absl::StatusOr<const std::byte*> Checkpoint::MappedBytes(const SafetensorsTensor& tensor) const {
  RETURN_IF_ERROR(tensor.file->Map(tensor));
  if (reinterpret_cast<uintptr_t>(tensor.data) % SizeOf(tensor.dtype) == 0) return tensor.data;
  const std::lock_guard<std::mutex> lock(aligned_copies_->mutex);
  std::unique_ptr<std::byte[]>& copy = aligned_copies_->of[tensor.data];
  if (copy == nullptr) {
    copy.reset(new std::byte[static_cast<size_t>(tensor.bytes)]);
    std::memcpy(copy.get(), tensor.data, static_cast<size_t>(tensor.bytes));
    RETURN_IF_ERROR(tensor.file->CheckStillWhole());
  }
  return copy.get();
}

absl::StatusOr<WeightView> Checkpoint::Weight(absl::string_view name, int64_t rows, int64_t cols) const {
  if (IsPacked(name)) return PackedWeight(name, rows, cols);
  ASSIGN_OR_RETURN(const SafetensorsTensor* tensor, Find(name));
  if (tensor->shape != std::vector<int64_t>{rows, cols}) return WrongShape(*tensor, name, {rows, cols});
  if (!IsWeightDtype(tensor->dtype)) {
    return absl::DataLossError(absl::StrCat(tensor->file->path(), ": tensor ", name, " is stored as ",
                                            Name(tensor->dtype), "; BF16, F16, F32 and F8_E4M3 are supported"));
  }
  ASSIGN_OR_RETURN(const std::byte* data, MappedBytes(*tensor));
  WeightView view;
  view.matrix = Contiguous(data, tensor->dtype, rows, cols);
  if (tensor->dtype == DType::kF8E4M3) RETURN_IF_ERROR(AddScales(name, view));
  return view;
}

absl::Status Checkpoint::AddScales(absl::string_view name, WeightView& view) const {
  const BlockQuantSpec& quant = spec_.block_quant;
  if (!quant.present()) {
    return absl::DataLossError(absl::StrCat(directory_, ": tensor ", name,
                                            " is stored as F8_E4M3, but config.json has no quantization_config"));
  }
  const std::string scales_name = absl::StrCat(name, "_scale_inv");
  ASSIGN_OR_RETURN(const SafetensorsTensor* scales, Find(scales_name));
  const int64_t rows = CeilDivide(view.rows(), quant.block_rows);
  const int64_t cols = CeilDivide(view.cols(), quant.block_cols);
  if (scales->shape != std::vector<int64_t>{rows, cols}) return WrongShape(*scales, scales_name, {rows, cols});
  const bool exponents = scales->dtype == DType::kF8E8M0 || (scales->dtype == DType::kU8 && quant.ue8m0_scales);
  if (!exponents && scales->dtype != DType::kF32) {
    return absl::DataLossError(absl::StrCat(scales->file->path(), ": tensor ", scales_name, " is stored as ",
                                            Name(scales->dtype), "; block scales must be F32 or F8_E8M0"));
  }
  ASSIGN_OR_RETURN(const std::byte* data, MappedBytes(*scales));
  view.scales = Contiguous(data, exponents ? DType::kF8E8M0 : DType::kF32, rows, cols);
  view.block_rows = quant.block_rows;
  view.block_cols = quant.block_cols;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> Checkpoint::Vector(absl::string_view name, int64_t size) const {
  ASSIGN_OR_RETURN(const SafetensorsTensor* tensor, Find(name));
  if (tensor->shape != std::vector<int64_t>{size}) return WrongShape(*tensor, name, {size});
  if (!IsWeightDtype(tensor->dtype) || tensor->dtype == DType::kF8E4M3) {
    return absl::DataLossError(absl::StrCat(tensor->file->path(), ": tensor ", name, " is stored as ",
                                            Name(tensor->dtype), "; vectors must be BF16, F16 or F32"));
  }
  RETURN_IF_ERROR(tensor->file->Map(*tensor));
  std::vector<float> values(static_cast<size_t>(size));
  for (int64_t i = 0; i < size; ++i) values[i] = LoadAsFloat(tensor->data, tensor->dtype, i);
  RETURN_IF_ERROR(tensor->file->CheckStillWhole());
  for (int64_t i = 0; i < size; ++i) {
    if (std::isfinite(values[i])) continue;
    return absl::DataLossError(absl::StrCat(tensor->file->path(), ": tensor ", name, " holds ", values[i], " at [", i,
                                            "]; get the file anew"));
  }
  return values;
}

absl::Status Checkpoint::CheckStillWhole() const {
  for (const auto& file : files_) RETURN_IF_ERROR(file->CheckStillWhole());
  return absl::OkStatus();
}

const SafetensorsFile* Checkpoint::FileOf(const void* data) const {
  for (const auto& file : files_) {
    if (file->mapped().Contains(data)) return file.get();
  }
  return nullptr;
}

absl::Status Checkpoint::Load(const WeightView& weight) const {
  for (const ConstMatView& part : {weight.matrix, weight.scales}) {
    const SafetensorsFile* file = FileOf(part.data);
    if (file == nullptr) continue;
    const int64_t offset = static_cast<const std::byte*>(part.data) - file->mapped().data();
    RETURN_IF_ERROR(file->mapped().Load(offset, part.rows * part.cols * SizeOf(part.dtype)));
  }
  return absl::OkStatus();
}

void Checkpoint::Evict(const WeightView& weight) const {
  for (const ConstMatView& part : {weight.matrix, weight.scales}) {
    const SafetensorsFile* file = FileOf(part.data);
    if (file == nullptr) continue;
    const int64_t offset = static_cast<const std::byte*>(part.data) - file->mapped().data();
    file->mapped().Evict(offset, part.rows * part.cols * SizeOf(part.dtype));
  }
}

}  // namespace conclave
