// Writes safetensors files as a stream: all tensors are declared first, then their bytes follow in that order, so
// that a file may be larger than memory.
#ifndef CONCLAVE_MOE_CHECKPOINT_SAFETENSORS_WRITER_H_
#define CONCLAVE_MOE_CHECKPOINT_SAFETENSORS_WRITER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "moe/tensor/dtype.h"

namespace conclave {

// What the header says of a tensor.
struct SafetensorsDeclaration {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
};

// One file. The bytes go to `path`.partial, which Finish renames, so that a half-written file never has the name of a
// whole one. Not thread-safe.
class SafetensorsWriter {
 public:
  // The data starts at a multiple of 64 bytes; declare tensors in descending order of element size and each of them
  // is aligned for its dtype. INVALID_ARGUMENT: a name twice, or a shape that wraps. UNAVAILABLE: cannot create.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(const std::string& path,
                                                                   const std::vector<SafetensorsDeclaration>& tensors);
  // Removes the partial file unless Finish succeeded.
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // Continues the data: any number of bytes, across tensors as it comes. RESOURCE_EXHAUSTED: the disk is full,
  // or the file beyond a limit.
  // REQUIRES: bytes <= bytes_left().
  absl::Status Append(const void* data, int64_t bytes);
  // How much of the declared data has not been appended yet.
  int64_t bytes_left() const { return bytes_left_; }
  // Writes out the rest and gives the file its name. REQUIRES: bytes_left() == 0.
  absl::Status Finish();

 private:
  SafetensorsWriter() = default;
  absl::Status WriteOut(const char* data, int64_t bytes);
  absl::Status FlushBuffer();
  absl::Status Error(const char* action) const;

  std::string path_;
  int descriptor_ = -1;
  int64_t bytes_left_ = 0;
  std::string buffer_;
};

// A small tensor that is in memory already; `data` must live during the call.
struct SafetensorsArray {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const void* data = nullptr;  // contiguous, row-major
};

// Writes a whole file at once. The errors of SafetensorsWriter.
absl::Status WriteSafetensors(const std::string& path, const std::vector<SafetensorsArray>& arrays);

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_SAFETENSORS_WRITER_H_
