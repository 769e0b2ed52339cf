// A model directory in the published Hugging Face format: config.json and safetensors files, mapped, not read.
#ifndef CONCLAVE_MOE_CHECKPOINT_CHECKPOINT_H_
#define CONCLAVE_MOE_CHECKPOINT_CHECKPOINT_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/checkpoint/safetensors.h"
#include "moe/tensor/weight_view.h"

namespace conclave {

// Owns the mappings; every view handed out lives as long as it. Only tensors that somebody asked for are mapped: a
// process that asks for no routed expert maps none. Thread-safe; what it says never changes after Open.
class Checkpoint {
 public:
  // Opens config.json, generation_config.json where present, and the one model.safetensors or the files of
  // model.safetensors.index.json. Reads headers only; pages are touched when a tensor's bytes are used. Checks that
  // every tensor of the decoder is there in its shape (the MTP layers behind it are kept aside, unchecked).
  // NOT_FOUND: no such directory, file or tensor. INVALID_ARGUMENT: config.json is contradictory or not supported,
  // weights in another format (GGUF), or a link that leads out of the directory (see model_file.h).
  // DATA_LOSS: a safetensors file or index is damaged; the message names file, tensor and offset.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& directory);
  ~Checkpoint();

  const ModelSpec& spec() const { return spec_; }
  const std::string& directory() const { return directory_; }
  // A hash of config.json, of all tensor names, dtypes and shapes, and of a small sample of the weights (final norm,
  // embedding): equal on every process that serves this model, different for another training of the same shape.
  const std::string& fingerprint() const { return fingerprint_; }
  bool Has(absl::string_view name) const { return tensors_.contains(name); }
  // The names of all tensors, sorted.
  std::vector<std::string> TensorNames() const;
  // The stored tensor, its bytes readable. NOT_FOUND names tensor and directory.
  absl::StatusOr<SafetensorsTensor> Tensor(absl::string_view name) const;
  // Dtype, shape and size only: maps nothing, and `data` must not be read. NOT_FOUND.
  absl::StatusOr<SafetensorsTensor> Describe(absl::string_view name) const;

  // The matrix `name` [rows, cols] with its block scales where it is FP8 (`name`_scale_inv beside it), or packed
  // integers (`name`_packed, _scale and _shape in its place).
  // NOT_FOUND: the tensor or its scales are missing. DATA_LOSS: another shape or dtype than the model needs.
  absl::StatusOr<WeightView> Weight(absl::string_view name, int64_t rows, int64_t cols) const;
  // A vector (norm weight or bias) as float32, copied. The same errors; DATA_LOSS too where a value is not finite.
  absl::StatusOr<std::vector<float>> Vector(absl::string_view name, int64_t size) const;
  // DATA_LOSS, naming the file, when a file is no longer what was mapped: a reader met a page that is gone (it read
  // zeros; see mapped_file.h) or a file changed its size. Costs one fstat a file: call it once a step, before the
  // step's results leave the process.
  absl::Status CheckStillWhole() const;
  // Brings the pages of `weight` into memory now, to be ready before the first token. DATA_LOSS as above.
  absl::Status Load(const WeightView& weight) const;
  // Drops the pages of `weight` from this process's resident memory; they come back from the file when touched.
  void Evict(const WeightView& weight) const;

 private:
  struct AlignedCopies;

  Checkpoint();
  absl::Status OpenWeights();
  absl::Status OpenIndexed(const std::string& index_text);
  absl::Status CheckComplete() const;
  absl::Status Fingerprint(absl::string_view config_text);
  absl::StatusOr<const SafetensorsTensor*> Find(absl::string_view name) const;
  absl::StatusOr<const std::byte*> MappedBytes(const SafetensorsTensor& tensor) const;
  absl::Status AddScales(absl::string_view name, WeightView& view) const;
  // The three tensors of a packed matrix, their shapes and dtypes checked.
  struct PackedParts {
    const SafetensorsTensor* words = nullptr;
    const SafetensorsTensor* scales = nullptr;
    const SafetensorsTensor* shape = nullptr;
    int64_t scale_cols = 0;
  };
  bool IsPacked(absl::string_view name) const;
  absl::StatusOr<PackedParts> FindPacked(absl::string_view name, int64_t rows, int64_t cols) const;
  absl::StatusOr<WeightView> PackedWeight(absl::string_view name, int64_t rows, int64_t cols) const;
  const SafetensorsFile* FileOf(const void* data) const;

  ModelSpec spec_;
  std::string directory_;
  std::string fingerprint_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  absl::flat_hash_map<std::string, SafetensorsTensor> tensors_;
  std::unique_ptr<AlignedCopies> aligned_copies_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_CHECKPOINT_H_
