// A model directory in the published Hugging Face format: config.json and safetensors files, mapped, not read.
#ifndef CONCLAVE_MOE_CHECKPOINT_CHECKPOINT_H_
#define CONCLAVE_MOE_CHECKPOINT_CHECKPOINT_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/checkpoint/safetensors.h"
#include "moe/tensor/weight_view.h"

namespace conclave {

// Owns the mappings; every view handed out lives as long as it. Immutable after Open, so thread-safe.
class Checkpoint {
 public:
  // Opens config.json, generation_config.json where present, and the one model.safetensors or the files of
  // model.safetensors.index.json. Reads headers only; pages are touched when a tensor's bytes are used.
  // NOT_FOUND: no such directory or file. INVALID_ARGUMENT: config.json is contradictory or not supported.
  // DATA_LOSS: a safetensors file or index is damaged; the message names file, tensor and offset.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& directory);
  ~Checkpoint();

  const ModelSpec& spec() const { return spec_; }
  const std::string& directory() const { return directory_; }
  // A hash of config.json and all tensor names, dtypes and shapes: equal on every process that serves this model.
  const std::string& fingerprint() const { return fingerprint_; }
  bool Has(absl::string_view name) const { return tensors_.contains(name); }
  // The names of all tensors, sorted.
  std::vector<std::string> TensorNames() const;
  // The stored tensor. NOT_FOUND names tensor and directory.
  absl::StatusOr<SafetensorsTensor> Tensor(absl::string_view name) const;

  // The matrix `name` [rows, cols] with its block scales where it is FP8 (`name`_scale_inv beside it).
  // NOT_FOUND: the tensor or its scales are missing. DATA_LOSS: another shape or dtype than the model needs.
  absl::StatusOr<WeightView> Weight(absl::string_view name, int64_t rows, int64_t cols) const;
  // A vector (norm weight or bias) as float32, copied. The same errors.
  absl::StatusOr<std::vector<float>> Vector(absl::string_view name, int64_t size) const;
  // Checks that the file's bytes behind `weight` are still there (a file truncated after mapping would end the
  // process with SIGBUS). DATA_LOSS names the file.
  absl::Status CheckStillWhole() const;
  // Drops the pages of `weight` from this process's resident memory; they come back from the file when touched.
  void Evict(const WeightView& weight) const;

 private:
  Checkpoint() = default;
  ModelSpec spec_;
  std::string directory_;
  std::string fingerprint_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  absl::flat_hash_map<std::string, SafetensorsTensor> tensors_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_CHECKPOINT_H_
