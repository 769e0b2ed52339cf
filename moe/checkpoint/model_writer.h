// Writes the weights of a model directory: tensors cut into files, and the index over them. Shared by those who make
// checkpoints.
#ifndef CONCLAVE_MOE_CHECKPOINT_MODEL_WRITER_H_
#define CONCLAVE_MOE_CHECKPOINT_MODEL_WRITER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "moe/checkpoint/safetensors_writer.h"

namespace conclave {

// Called from time to time with the bytes done so far and in all.
using WriteProgress = absl::FunctionRef<void(int64_t bytes_done, int64_t bytes_total)>;

// One tensor to store.
struct PlannedTensor {
  SafetensorsDeclaration declaration;
  bool joins_previous = false;  // goes to the file of the tensor before it: scales stay with their weights
  int64_t bytes() const;
};

// Appends all bytes of tensor `index` of the plan.
using AppendTensor = absl::FunctionRef<absl::Status(size_t index, SafetensorsWriter& writer)>;

// RESOURCE_EXHAUSTED, saying how much is needed, where the disk that the directory `out` is on, or would be, has less
// than the plan takes.
absl::Status CheckRoom(const std::string& out, const std::vector<PlannedTensor>& plan);
// Writes model.safetensors, or files of up to about `file_bytes_max` and their index, into the directory `out`. Within
// a file wider elements come first, so that all are aligned. Errors of SafetensorsWriter and of `append`.
absl::Status WriteModelFiles(const std::string& out, const std::vector<PlannedTensor>& plan, int64_t file_bytes_max,
                             AppendTensor append);
// Runs `write` on a new folder, and moves what it wrote to the directory `out`, which may exist. Where that fails
// nothing of what was created stays behind. UNAVAILABLE: the folder cannot be created or moved; ALREADY_EXISTS: `out`
// is no directory; else what `write` says.
absl::Status WriteModelDirectory(const std::string& out,
                                 absl::FunctionRef<absl::Status(const std::string& folder)> write);
// A small file at once. RESOURCE_EXHAUSTED or UNAVAILABLE, naming it.
absl::Status WriteTextFile(const std::string& path, absl::string_view text);

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_MODEL_WRITER_H_
