// Reads safetensors files (https://huggingface.co/docs/safetensors) by mmap, safe against hostile input.
#ifndef CONCLAVE_MOE_CHECKPOINT_SAFETENSORS_H_
#define CONCLAVE_MOE_CHECKPOINT_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "moe/tensor/dtype.h"

namespace conclave {

class SafetensorsFile;

// A tensor as stored; a view into its file's mapping.
struct SafetensorsTensor {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
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
absl::StatusOr<std::vector<SafetensorsEntry>> ParseSafetensorsHeader(absl::string_view json, int64_t data_bytes);

// An open, mapped file. Immutable, so thread-safe; views live as long as it.
class SafetensorsFile {
 public:
  // NOT_FOUND, or DATA_LOSS that names file, tensor and offset.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  ~SafetensorsFile();
  const std::string& path() const { return path_; }
  const absl::flat_hash_map<std::string, SafetensorsTensor>& tensors() const { return tensors_; }
  // DATA_LOSS when the file on disk has become shorter than its mapping.
  absl::Status CheckStillWhole() const;

 private:
  SafetensorsFile() = default;
  std::string path_;
  int fd_ = -1;
  const std::byte* map_ = nullptr;
  int64_t map_bytes_ = 0;
  absl::flat_hash_map<std::string, SafetensorsTensor> tensors_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_SAFETENSORS_H_
