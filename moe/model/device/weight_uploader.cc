#include "moe/model/device/weight_uploader.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

constexpr int32_t kValuesRead = 4;  // that kernels read at once, with one scale

absl::Status CheckTaken(const WeightView& view) {
  if (view.code != WeightCode::kPlain) {
    return absl::InvalidArgumentError(
        "--device cuda does not take packed INT4 or INT8 weights; use --device cpu, or the model in FP8 or BF16");
  }
  if (view.has_scales() && view.block_cols < view.cols() && view.block_cols % kValuesRead != 0) {
    return absl::InvalidArgumentError(absl::StrCat("--device cuda takes FP8 weights with a scale for every ",
                                                   kValuesRead, " columns or a multiple, not for every ",
                                                   view.block_cols, " (weight_block_size); use --device cpu"));
  }
  return absl::OkStatus();
}

int64_t ValueBytes(const WeightView& view) {
  return view.matrix.rows * view.matrix.cols * SizeOf(view.matrix.dtype);
}
int64_t ScaleCount(const WeightView& view) { return view.has_scales() ? view.scales.rows * view.scales.cols : 0; }

std::vector<float> ScalesAsFloat(const std::vector<WeightView>& views) {
  std::vector<float> scales;
  for (const WeightView& view : views) {
    for (int64_t row = 0; row < view.scales.rows; ++row) {
      for (int64_t col = 0; col < view.scales.cols; ++col) {
        scales.push_back(LoadAsFloat(view.scales.RowBytes(row), view.scales.dtype, col));
      }
    }
  }
  return scales;
}

}  // namespace

void WeightUploader::Add(DeviceWeight* target, std::vector<WeightView> views) {
  for (const WeightView& view : views) CONCLAVE_CHECK(view.rows() == views[0].rows()) << view.rows();
  Take(target, std::move(views), /*stacked=*/false);
}

void WeightUploader::AddStacked(DeviceWeight* target, std::vector<WeightView> views) {
  for (size_t i = 0; i + 1 < views.size(); ++i) {
    CONCLAVE_CHECK(!views[i].has_scales() || views[i].rows() % views[i].block_rows == 0) << views[i].rows();
  }
  Take(target, std::move(views), /*stacked=*/true);
}

void WeightUploader::Take(DeviceWeight* target, std::vector<WeightView> views, bool stacked) {
  CONCLAVE_CHECK(!views.empty());
  int64_t bytes = 0, scales = 0;
  for (const WeightView& view : views) {
    CONCLAVE_CHECK(view.cols() == views[0].cols()) << view.cols();
    CONCLAVE_CHECK(view.matrix.dtype == views[0].matrix.dtype && view.block_rows == views[0].block_rows);
    CONCLAVE_CHECK(view.matrix.stride == view.matrix.cols && view.has_scales() == views[0].has_scales());
    refusal_.Update(CheckTaken(view));
    bytes += ValueBytes(view);
    scales += ScaleCount(view);
  }
  const int64_t offset = Take(bytes);
  const int64_t scales_offset = Take(scales * int64_t{sizeof(float)});
  matrices_.push_back({offset, scales_offset, target, std::move(views), stacked});
}

void WeightUploader::Add(const float** target, std::vector<float> values) {
  vectors_.push_back({Take(static_cast<int64_t>(values.size() * sizeof(float))), target, std::move(values)});
}

// Hands out the next piece of the one allocation.
int64_t WeightUploader::Take(int64_t bytes) {
  const int64_t offset = bytes_;
  bytes_ += DeviceMemory::Rounded(bytes);
  return offset;
}

absl::StatusOr<DeviceBuffer> WeightUploader::Run(DeviceMemory& memory, const std::function<void()>& progress) const {
  RETURN_IF_ERROR(refusal_);
  ASSIGN_OR_RETURN(DeviceBuffer buffer, memory.Allocate(bytes_));
  Accelerator& accelerator = memory.accelerator();
  std::byte* const base = buffer.as<std::byte>();
  for (const Matrices& each : matrices_) {
    const WeightView& first = each.views[0];
    std::byte* data = base + each.offset;
    float* const scales = reinterpret_cast<float*>(base + each.scales_offset);
    int64_t rows = 0;
    for (const WeightView& view : each.views) rows += view.rows();
    const int64_t matrices = each.stacked ? 1 : static_cast<int64_t>(each.views.size());
    *each.target = {data,
                    first.has_scales() ? scales : nullptr,
                    first.matrix.dtype,
                    first.block_rows,
                    first.block_cols,
                    matrices,
                    rows / matrices,
                    first.cols()};
    for (const WeightView& view : each.views) {
      accelerator.CopyIn(data, view.matrix.data, ValueBytes(view));
      data += ValueBytes(view);
      if (progress) progress();
    }
    const std::vector<float> values = ScalesAsFloat(each.views);
    if (!values.empty()) accelerator.CopyIn(scales, values.data(), static_cast<int64_t>(values.size() * sizeof(float)));
    RETURN_IF_ERROR(accelerator.Synchronize());
  }
  for (const Vector& each : vectors_) {
    float* const data = reinterpret_cast<float*>(base + each.offset);
    *each.target = each.values.empty() ? nullptr : data;
    accelerator.CopyIn(data, each.values.data(), static_cast<int64_t>(each.values.size() * sizeof(float)));
  }
  RETURN_IF_ERROR(accelerator.Synchronize());
  return buffer;
}

}  // namespace conclave
