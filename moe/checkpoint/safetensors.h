// Reads safetensors files (https://huggingface.co/docs/safetensors) by mmap, safe against hostile input.
#ifndef CONCLAVE_MOE_CHECKPOINT_SAFETENSORS_H_
#define CONCLAVE_MOE_CHECKPOINT_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "moe/checkpoint/mapped_file.h"
#include "moe/tensor/dtype.h"

namespace conclave {

class SafetensorsFile;

// A tensor as stored; a view into its file's mapping.
struct SafetensorsTensor {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;  // as aligned as the file has it: read it with LoadAsFloat or memcpy
  int64_t bytes = 0;
  const SafetensorsFile* file = nullptr;
};

// One entry of a header before the data is looked at.
struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int64_t begin = 0, end = 0;  // bytes, relative to the end of the header
};

// Checks and parses the JSON of a header for `data_bytes` bytes of tensor data: offsets that overlap, leave holes or
// trailing bytes, shapes that wrap or disagree, duplicate names, unknown dtypes. DATA_LOSS names tensor and offset.
// The entries come in the order of their offsets.
absl::StatusOr<std::vector<SafetensorsEntry>> ParseSafetensorsHeader(absl::string_view json, int64_t data_bytes);

// The bytes of a tensor: the product of `shape` and the size of `dtype`. INVALID_ARGUMENT when it is negative,
// wraps, or has more than limits::kTensorRankMax dimensions.
absl::StatusOr<int64_t> TensorBytes(DType dtype, absl::Span<const int64_t> shape);

// An open, mapped file. Immutable, so thread-safe; views live as long as it.
class SafetensorsFile {
 public:
  // NOT_FOUND, or DATA_LOSS that names file, tensor and offset. With Extent::kOnDemand a tensor's bytes may be
  // read only after Map(tensor).
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path,
                                                               MappedFile::Extent extent = MappedFile::Extent::kWhole);

  const std::string& path() const { return map_->path(); }
  const absl::flat_hash_map<std::string, SafetensorsTensor>& tensors() const { return tensors_; }
  // The file beneath: eviction, loading and damage. Its offsets count from the start of the file.
  const MappedFile& mapped() const { return *map_; }
  // Makes the bytes of one of our own tensors readable.
  absl::Status Map(const SafetensorsTensor& tensor) const;
  // DATA_LOSS when the file on disk is no longer what was mapped.
  absl::Status CheckStillWhole() const { return map_->CheckStillWhole(); }

 private:
  SafetensorsFile() = default;
  std::unique_ptr<MappedFile> map_;
  absl::flat_hash_map<std::string, SafetensorsTensor> tensors_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_SAFETENSORS_H_
