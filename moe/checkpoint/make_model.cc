#include "moe/checkpoint/make_model.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/model_config.h"
#include "moe/checkpoint/model_file.h"
#include "moe/checkpoint/model_tensors.h"
#include "moe/checkpoint/model_writer.h"
#include "moe/checkpoint/random_weights.h"
#include "moe/checkpoint/safetensors_writer.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;

constexpr int kByteTokens = 256;
constexpr int64_t kPieceElements = 1 << 20;
constexpr char kScaleSuffix[] = "_scale_inv";

// One stored tensor: a weight, or the block scales of one.
struct Planned {
  TensorSpec tensor;  // of the weight
  DType dtype = DType::kBF16;
  bool is_scales = false;
  std::vector<int64_t> shape;
  int64_t bytes = 0;
  std::string name() const { return is_scales ? absl::StrCat(tensor.name, kScaleSuffix) : tensor.name; }
};

struct Distribution {
  float mean = 0.0f;
  float deviation = 0.0f;
};

// Activations keep about unit size from layer to layer: matrices draw with 1/sqrt(inputs), those that write to the
// residual stream with half of that, the gate a little wider so that experts differ, the head for logits of size 2.
Distribution DistributionOf(const TensorSpec& tensor) {
  const float inverse_root = 1.0f / std::sqrt(static_cast<float>(tensor.shape.back()));
  switch (tensor.role) {
    case TensorRole::kEmbedding:
      return {0.0f, 1.0f};
    case TensorRole::kHead:
      return {0.0f, 2.0f * inverse_root};
    case TensorRole::kNorm:
      return {1.0f, 0.05f};
    case TensorRole::kBias:
    case TensorRole::kSelectionBias:
      return {0.0f, 0.02f};
    case TensorRole::kGate:
      return {0.0f, 1.5f * inverse_root};
    case TensorRole::kOutProjection:
    case TensorRole::kExpertOut:
      return {0.0f, 0.5f * inverse_root};
    case TensorRole::kProjection:
    case TensorRole::kExpert:
    case TensorRole::kMtpProjection:
      return {0.0f, inverse_root};
  }
  return {};
}

absl::StatusOr<ModelSpec> SpecOf(const MakeModelOptions& options) {
  if (options.preset.empty() == options.config_file.empty()) {
    return absl::InvalidArgumentError("make-model: give exactly one of preset and config");
  }
  ModelSpec spec;
  if (!options.preset.empty()) {
    ASSIGN_OR_RETURN(spec, PresetSpec(options.preset));
  } else {
    ASSIGN_OR_RETURN(const std::string text, ReadTextFile(options.config_file, limits::kConfigFileBytesMax));
    absl::StatusOr<ModelSpec> parsed = ParseModelConfig(text, "");
    if (!parsed.ok()) {
      return absl::Status(parsed.status().code(), absl::StrCat(options.config_file, ": ", parsed.status().message()));
    }
    spec = *std::move(parsed);
  }
  if (options.dtype == "fp8") {
    if (!spec.block_quant.present()) spec.block_quant = {.block_rows = 128, .block_cols = 128};
  } else if (options.dtype == "bf16" || options.dtype == "f32") {
    spec.block_quant = {};
  } else {
    return absl::InvalidArgumentError(absl::StrCat("dtype: \"", options.dtype, "\" is not one of bf16, fp8, f32"));
  }
  if (spec.vocab < kByteTokens + 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("vocab_size: is ", spec.vocab, "; 256 bytes, BOS and EOS need at least ", kByteTokens + 2));
  }
  // Ids of the configuration are kept where they do not collide with the tokenizer's bytes.
  if (!spec.bos_id.has_value() || *spec.bos_id < kByteTokens) spec.bos_id = kByteTokens;
  std::erase_if(spec.eos_ids, [&](int32_t id) { return id < kByteTokens || id == *spec.bos_id; });
  if (spec.eos_ids.empty()) spec.eos_ids = {*spec.bos_id == kByteTokens + 1 ? kByteTokens : kByteTokens + 1};
  return spec;
}

// All stored tensors in the order of the model.
std::vector<Planned> Plan(const ModelSpec& spec, const std::string& dtype) {
  std::vector<Planned> plan;
  ForEachTensor(spec, [&](const TensorSpec& tensor) {
    const bool f8 = dtype == "fp8" && tensor.quantised();
    const bool f32 = dtype == "f32" || tensor.role == TensorRole::kSelectionBias;
    Planned planned{tensor, f8 ? DType::kF8E4M3 : f32 ? DType::kF32 : DType::kBF16, false, tensor.shape, 0};
    planned.bytes = tensor.elements() * SizeOf(planned.dtype);
    plan.push_back(planned);
    if (!f8) return;
    const int64_t rows = spec.block_quant.block_rows, cols = spec.block_quant.block_cols;
    planned.is_scales = true;
    planned.dtype = DType::kF32;
    planned.shape = {(tensor.shape[0] + rows - 1) / rows, (tensor.shape[1] + cols - 1) / cols};
    planned.bytes = planned.shape[0] * planned.shape[1] * SizeOf(planned.dtype);
    plan.push_back(planned);
  });
  return plan;
}

// The scale of one block: near the tensor's, different from block to block, as in trained checkpoints.
float BlockScale(const Planned& planned, uint64_t seed, int64_t block, bool power_of_two) {
  const float scale = RandomTensor::F8Scale(DistributionOf(planned.tensor).deviation);
  const auto spread = static_cast<float>(0.75 + 0.5 * RandomUnit(seed, planned.name(), block));
  return power_of_two ? std::exp2(std::round(std::log2(scale * spread))) : scale * spread;
}

// Appends tensors to writers and tells how far it is.
class TensorStream {
 public:
  TensorStream(const MakeModelOptions& options, bool power_of_two_scales, int64_t bytes_total,
               MakeModelProgress progress)
      : options_(options), power_of_two_scales_(power_of_two_scales), bytes_total_(bytes_total), progress_(progress) {}

  absl::Status Append(const Planned& planned, SafetensorsWriter& writer) {
    return planned.is_scales ? AppendScales(planned, writer) : AppendWeights(planned, writer);
  }

 private:
  absl::Status AppendWeights(const Planned& planned, SafetensorsWriter& writer) {
    const Distribution distribution = DistributionOf(planned.tensor);
    const RandomTensor random(options_.seed, planned.name(), planned.dtype, distribution.mean, distribution.deviation);
    const int64_t elements = planned.tensor.elements();
    piece_.resize(static_cast<size_t>(kPieceElements * SizeOf(DType::kF32)));
    for (int64_t begin = 0; begin < elements; begin += kPieceElements) {
      const int64_t count = std::min(kPieceElements, elements - begin);
      random.Fill(begin, count, piece_.data());
      RETURN_IF_ERROR(Append(piece_.data(), count * SizeOf(planned.dtype), writer));
    }
    return absl::OkStatus();
  }

  absl::Status AppendScales(const Planned& planned, SafetensorsWriter& writer) {
    std::vector<float> scales(static_cast<size_t>(planned.shape[0] * planned.shape[1]));
    for (size_t block = 0; block < scales.size(); ++block) {
      scales[block] = BlockScale(planned, options_.seed, static_cast<int64_t>(block), power_of_two_scales_);
    }
    return Append(scales.data(), planned.bytes, writer);
  }

  absl::Status Append(const void* data, int64_t bytes, SafetensorsWriter& writer) {
    if (options_.stop && options_.stop()) return absl::CancelledError("interrupted; nothing was left behind");
    RETURN_IF_ERROR(writer.Append(data, bytes));
    bytes_done_ += bytes;
    progress_(bytes_done_, bytes_total_);
    return absl::OkStatus();
  }

  const MakeModelOptions& options_;
  const bool power_of_two_scales_;
  const int64_t bytes_total_;
  MakeModelProgress progress_;
  int64_t bytes_done_ = 0;
  std::vector<std::byte> piece_;
};

absl::Status CheckFree(const std::string& out) {
  if (out.empty()) return absl::InvalidArgumentError("out: must name a directory");
  std::error_code error;
  for (fs::directory_iterator it(out, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name == "config.json" || absl::StrContains(name, ".safetensors")) {
      return absl::AlreadyExistsError(
          absl::StrCat(out, ": holds a model already (", name, "); give another directory"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status MakeModel(const MakeModelOptions& options, MakeModelProgress progress) {
  ASSIGN_OR_RETURN(const ModelSpec spec, SpecOf(options));
  if (options.file_bytes_max < 1) return absl::InvalidArgumentError("file_bytes_max: must be positive");
  const std::vector<Planned> plan = Plan(spec, options.dtype);
  std::vector<PlannedTensor> stored;
  int64_t bytes_total = 0;
  for (const Planned& planned : plan) {
    stored.push_back({{planned.name(), planned.dtype, planned.shape}, planned.is_scales});
    bytes_total += planned.bytes;
  }
  RETURN_IF_ERROR(CheckFree(options.out));
  RETURN_IF_ERROR(CheckRoom(options.out, stored));
  TensorStream stream(options, spec.block_quant.ue8m0_scales, bytes_total, progress);
  return WriteModelDirectory(options.out, [&](const std::string& folder) -> absl::Status {
    RETURN_IF_ERROR(
        WriteModelFiles(folder, stored, options.file_bytes_max,
                        [&](size_t index, SafetensorsWriter& writer) { return stream.Append(plan[index], writer); }));
    if (options.write_tokenizer) {
      RETURN_IF_ERROR(options.write_tokenizer(folder, spec.vocab, *spec.bos_id, spec.eos_ids[0]));
    }
    RETURN_IF_ERROR(WriteTextFile(
        absl::StrCat(folder, "/generation_config.json"),
        absl::StrCat("{\n  \"bos_token_id\": ", *spec.bos_id, ",\n  \"eos_token_id\": ", spec.eos_ids[0], "\n}\n")));
    return WriteTextFile(absl::StrCat(folder, "/config.json"),
                         WriteModelConfig(spec, options.dtype == "f32" ? "float32" : "bfloat16"));
  });
}

}  // namespace conclave
