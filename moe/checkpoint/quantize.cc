#include "moe/checkpoint/quantize.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/checkpoint/integer_codes.h"
#include "moe/checkpoint/model_config.h"
#include "moe/checkpoint/model_file.h"
#include "moe/checkpoint/quantize_plan.h"
#include "moe/tensor/dtype.h"
#include "moe/tensor/weight_view.h"
#include "nlohmann/json.hpp"

namespace conclave {
namespace {

namespace fs = std::filesystem;
using Make = QuantizeStep::Make;

constexpr int64_t kPieceBytes = 8 << 20;
constexpr float kF8Largest = 448.0f;
constexpr const char* kCopiedFiles[] = {
    "generation_config.json", "tokenizer.json",    "tokenizer_config.json", "tokenizer.model",
    "tiktoken.model",         "vocab.json",        "merges.txt",            "special_tokens_map.json",
    "added_tokens.json",      "chat_template.json", "chat_template.jinja"};

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Makes the tensors of a plan one after the other.
class Converter {
 public:
  Converter(const Checkpoint& checkpoint, const QuantizePlan& plan, ThreadPool& threads,
            absl::FunctionRef<void(int64_t, int64_t)> progress, absl::FunctionRef<bool()> stop)
      : checkpoint_(checkpoint), plan_(plan), threads_(threads), progress_(progress), stop_(stop) {
    for (const QuantizeStep& step : plan.steps) bytes_total_ += step.planned.bytes();
  }

  absl::Status Append(const QuantizeStep& step, SafetensorsWriter& writer) {
    switch (step.make) {
      case Make::kCopy:
        return Copy(step, writer);
      case Make::kWiden:
        return Widen(step, writer);
      case Make::kCodes:
        return Codes(step, writer);
      case Make::kScales:
        return Scales(step, writer);
      case Make::kShape: {
        const int32_t shape[2] = {static_cast<int32_t>(step.rows), static_cast<int32_t>(step.cols)};
        return Write(shape, sizeof(shape), writer);
      }
    }
    return absl::InternalError("unknown step");
  }

 private:
  // Of one matrix: kept from the first of its parts that is made until the other one is.
  struct MatrixScales {
    int64_t cols = 0;  // a row of scales
    std::vector<float> values;
    int parts_left = 2;
  };

  absl::Status Write(const void* data, int64_t bytes, SafetensorsWriter& writer) {
    if (stop_()) return absl::CancelledError("interrupted; nothing was left behind");
    RETURN_IF_ERROR(writer.Append(data, bytes));
    bytes_done_ += bytes;
    progress_(bytes_done_, bytes_total_);
    return absl::OkStatus();
  }

  absl::Status Copy(const QuantizeStep& step, SafetensorsWriter& writer) {
    ASSIGN_OR_RETURN(const SafetensorsTensor tensor, checkpoint_.Tensor(step.source));
    for (int64_t offset = 0; offset < tensor.bytes; offset += kPieceBytes) {
      RETURN_IF_ERROR(Write(tensor.data + offset, std::min(kPieceBytes, tensor.bytes - offset), writer));
    }
    return checkpoint_.CheckStillWhole();
  }

  // Calls body(row, values of the row) for all rows, on all threads.
  absl::Status ForEachRow(const QuantizeStep& step, absl::FunctionRef<void(int64_t, absl::Span<const float>)> body) {
    ASSIGN_OR_RETURN(const WeightView weight, checkpoint_.Weight(step.source, step.rows, step.cols));
    std::atomic<bool> finite{true};
    constexpr int64_t kRowsAtOnce = 16;
    threads_.ParallelFor(step.rows, kRowsAtOnce, [&](int64_t begin, int64_t end) {
      std::vector<float> values(static_cast<size_t>(step.cols));
      for (int64_t row = begin; row < end; ++row) {
        for (int64_t col = 0; col < step.cols; ++col) {
          values[col] = StoredValue(weight, row, col) * ScaleOf(weight, row, col);
          if (!std::isfinite(values[col])) finite = false;
        }
        if (finite) body(row, values);
      }
    });
    RETURN_IF_ERROR(checkpoint_.CheckStillWhole());
    checkpoint_.Evict(weight);
    if (finite) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat(checkpoint_.directory(), ": tensor ", step.source,
                                            " holds values that are not finite, which no scale fits"));
  }

  absl::Status Widen(const QuantizeStep& step, SafetensorsWriter& writer) {
    std::vector<uint16_t> halves(static_cast<size_t>(step.rows * step.cols));
    RETURN_IF_ERROR(ForEachRow(step, [&](int64_t row, absl::Span<const float> values) {
      std::transform(values.begin(), values.end(), halves.begin() + row * step.cols, FloatToBf16);
    }));
    return Write(halves.data(), step.planned.bytes(), writer);
  }

  absl::StatusOr<MatrixScales*> ScalesOf(const QuantizeStep& step) {
    MatrixScales& scales = scales_[step.source];
    if (!scales.values.empty()) return &scales;
    RETURN_IF_ERROR(plan_.block_quant.present() ? FindF8Scales(step, scales) : FindIntegerScales(step, scales));
    return &scales;
  }

  int64_t GroupCols(const QuantizeStep& step) const {
    return plan_.packed_quant.group_cols == 0 ? step.cols : plan_.packed_quant.group_cols;
  }

  absl::Status FindIntegerScales(const QuantizeStep& step, MatrixScales& scales) {
    const int64_t group = GroupCols(step);
    scales.cols = CeilDiv(step.cols, group);
    scales.values.resize(static_cast<size_t>(step.rows * scales.cols));
    return ForEachRow(step, [&](int64_t row, absl::Span<const float> values) {
      for (int64_t i = 0; i < scales.cols; ++i) {
        scales.values[row * scales.cols + i] =
            IntegerScale(values.subspan(i * group, group), plan_.packed_quant.bits);
      }
    });
  }

  // The largest magnitude of a block becomes e4m3's largest (DeepSeek-V3, section 3.3.2).
  absl::Status FindF8Scales(const QuantizeStep& step, MatrixScales& scales) {
    const int64_t block_rows = plan_.block_quant.block_rows, block_cols = plan_.block_quant.block_cols;
    scales.cols = CeilDiv(step.cols, block_cols);
    std::vector<float> largest(static_cast<size_t>(step.rows * scales.cols), 0.0f);
    RETURN_IF_ERROR(ForEachRow(step, [&](int64_t row, absl::Span<const float> values) {
      for (int64_t col = 0; col < step.cols; ++col) {
        float& magnitude = largest[row * scales.cols + col / block_cols];
        magnitude = std::max(magnitude, std::fabs(values[col]));
      }
    }));
    scales.values.assign(static_cast<size_t>(CeilDiv(step.rows, block_rows) * scales.cols), 0.0f);
    for (int64_t row = 0; row < step.rows; ++row) {
      for (int64_t i = 0; i < scales.cols; ++i) {
        float& scale = scales.values[row / block_rows * scales.cols + i];
        scale = std::max(scale, largest[row * scales.cols + i]);
      }
    }
    for (float& scale : scales.values) {
      scale = scale > 0 ? scale / kF8Largest : 1.0f;
      if (plan_.block_quant.ue8m0_scales) scale = std::exp2(std::ceil(std::log2(scale)));
    }
    return absl::OkStatus();
  }

  absl::Status Scales(const QuantizeStep& step, SafetensorsWriter& writer) {
    ASSIGN_OR_RETURN(MatrixScales * scales, ScalesOf(step));
    if (plan_.block_quant.present()) {
      RETURN_IF_ERROR(Write(scales->values.data(), step.planned.bytes(), writer));
    } else {
      std::vector<uint16_t> halves(scales->values.size());
      std::transform(scales->values.begin(), scales->values.end(), halves.begin(), FloatToBf16);
      RETURN_IF_ERROR(Write(halves.data(), step.planned.bytes(), writer));
    }
    Forget(step);
    return absl::OkStatus();
  }

  absl::Status Codes(const QuantizeStep& step, SafetensorsWriter& writer) {
    ASSIGN_OR_RETURN(const MatrixScales* scales, ScalesOf(step));
    std::vector<uint8_t> codes(static_cast<size_t>(step.planned.bytes()));
    const int64_t row_bytes = step.planned.bytes() / step.rows;
    RETURN_IF_ERROR(ForEachRow(step, [&](int64_t row, absl::Span<const float> values) {
      uint8_t* out = codes.data() + row * row_bytes;
      if (plan_.block_quant.present()) {
        const float* row_scales = &scales->values[row / plan_.block_quant.block_rows * scales->cols];
        for (int64_t col = 0; col < step.cols; ++col) {
          out[col] = FloatToF8E4M3(values[col] / row_scales[col / plan_.block_quant.block_cols]);
        }
        return;
      }
      const absl::Span<const float> row_scales(&scales->values[row * scales->cols], scales->cols);
      EncodeIntegers(values, row_scales, static_cast<int>(GroupCols(step)), plan_.packed_quant.bits, out);
    }));
    for (int64_t offset = 0; offset < step.planned.bytes(); offset += kPieceBytes) {
      RETURN_IF_ERROR(Write(codes.data() + offset, std::min(kPieceBytes, step.planned.bytes() - offset), writer));
    }
    Forget(step);
    return absl::OkStatus();
  }

  void Forget(const QuantizeStep& step) {
    const auto it = scales_.find(step.source);
    if (--it->second.parts_left == 0) scales_.erase(it);
  }

  const Checkpoint& checkpoint_;
  const QuantizePlan& plan_;
  ThreadPool& threads_;
  absl::FunctionRef<void(int64_t, int64_t)> progress_;
  absl::FunctionRef<bool()> stop_;
  std::map<std::string, MatrixScales> scales_;
  int64_t bytes_total_ = 0, bytes_done_ = 0;
};

// The source's config.json with the new quantization_config.
absl::StatusOr<std::string> NewConfig(const Checkpoint& checkpoint, const QuantizePlan& plan) {
  ASSIGN_OR_RETURN(const std::string text,
                   ReadModelFile(checkpoint.directory(), "config.json", limits::kConfigFileBytesMax));
  ModelSpec spec = checkpoint.spec();
  spec.block_quant = plan.block_quant;
  spec.packed_quant = plan.packed_quant;
  nlohmann::ordered_json config = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return absl::DataLossError(checkpoint.directory() + "/config.json: changed meanwhile");
  config.erase("compression_config");
  config["quantization_config"] = nlohmann::ordered_json::parse(WriteQuantizationConfig(spec, plan.kept));
  return config.dump(2) + "\n";
}

absl::Status WriteAll(const Checkpoint& checkpoint, const QuantizePlan& plan, const std::vector<PlannedTensor>& stored,
                      Converter& converter, const std::string& directory, int64_t file_bytes_max) {
  RETURN_IF_ERROR(WriteModelFiles(
      directory, stored, file_bytes_max,
      [&](size_t index, SafetensorsWriter& writer) { return converter.Append(plan.steps[index], writer); }));
  for (const char* name : kCopiedFiles) {
    if (!ModelFileExists(checkpoint.directory(), name)) continue;
    ASSIGN_OR_RETURN(const std::string text,
                     ReadModelFile(checkpoint.directory(), name, limits::kSafetensorsHeaderBytesMax));
    RETURN_IF_ERROR(WriteTextFile(absl::StrCat(directory, "/", name), text));
  }
  ASSIGN_OR_RETURN(const std::string config, NewConfig(checkpoint, plan));
  return WriteTextFile(absl::StrCat(directory, "/config.json"), config);
}

absl::Status CheckFree(const std::string& out) {
  std::error_code error;
  if (!fs::exists(fs::symlink_status(out, error))) return absl::OkStatus();
  if (fs::is_directory(out, error) && fs::is_empty(out, error)) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat(out, ": exists already; give another directory"));
}

}  // namespace

absl::Status QuantizeModel(const QuantizeOptions& options, ThreadPool& threads,
                           absl::FunctionRef<void(int64_t, int64_t)> progress, absl::FunctionRef<bool()> stop) {
  if (options.out.empty()) return absl::InvalidArgumentError("out: must name a directory");
  if (options.file_bytes_max < 1) return absl::InvalidArgumentError("file_bytes_max: must be positive");
  ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::Open(options.model));
  ASSIGN_OR_RETURN(const QuantizePlan plan, PlanQuantization(*checkpoint, options.to, options.head));
  RETURN_IF_ERROR(CheckFree(options.out));
  std::vector<PlannedTensor> stored;
  for (const QuantizeStep& step : plan.steps) stored.push_back(step.planned);
  RETURN_IF_ERROR(CheckRoom(options.out, stored));
  Converter converter(*checkpoint, plan, threads, progress, stop);
  return WriteModelDirectory(options.out, [&](const std::string& folder) {
    return WriteAll(*checkpoint, plan, stored, converter, folder, options.file_bytes_max);
  });
}

}  // namespace conclave
