// Reads model.safetensors.index.json, which says in which file each tensor of a large checkpoint lies.
#ifndef CONCLAVE_MOE_CHECKPOINT_WEIGHT_INDEX_H_
#define CONCLAVE_MOE_CHECKPOINT_WEIGHT_INDEX_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave {

// The index as read: which tensors, in which files.
struct WeightIndex {
  struct Entry {
    std::string tensor;
    int file = 0;  // an index into `files`
  };
  std::vector<std::string> files;      // plain names, sorted, no duplicates
  std::vector<Entry> entries;          // sorted by tensor
  std::optional<int64_t> total_bytes;  // metadata.total_size, where it is there
};

// Parses the text. DATA_LOSS says what is wrong: not JSON, a tensor twice, a file name with '/' or "..", or one that
// does not end in .safetensors.
absl::StatusOr<WeightIndex> ParseWeightIndex(absl::string_view json);

// The reverse; entries may be in any order. Names must need no escaping in JSON, as those of model_tensors.h do not.
std::string FormatWeightIndex(const WeightIndex& index);

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_WEIGHT_INDEX_H_
