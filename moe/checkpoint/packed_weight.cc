// The half of checkpoint.h that reads compressed-tensors' "pack-quantized" matrices (github.com/vllm-project/
// compressed-tensors): for a matrix M.weight [rows, cols] of b-bit integers
//   M.weight_packed  I32 [rows, ceil(cols / (32 / b))]: element k is in word k / (32 / b), at bit b * (k % (32 / b)),
//                    as value + 2^(b - 1)
//   M.weight_scale   BF16 or F32 [rows, ceil(cols / group)]
//   M.weight_shape   I32 or I64 [2]: rows, cols
#include <array>
#include <bit>

#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/checkpoint/stored_matrix.h"

namespace conclave {
namespace {

static_assert(std::endian::native == std::endian::little, "words are read as the bytes that they are stored as");

constexpr int kWordBits = 32;

absl::Status WrongDtype(const SafetensorsTensor& tensor, absl::string_view name, absl::string_view wanted) {
  return absl::DataLossError(absl::StrCat(tensor.file->path(), ": tensor ", name, " is stored as ",
                                          Name(tensor.dtype), "; it must be ", wanted));
}

}  // namespace

bool Checkpoint::IsPacked(absl::string_view name) const {
  return !tensors_.contains(name) && tensors_.contains(absl::StrCat(name, "_packed"));
}

absl::StatusOr<Checkpoint::PackedParts> Checkpoint::FindPacked(absl::string_view name, int64_t rows,
                                                               int64_t cols) const {
  const PackedQuantSpec& quant = spec_.packed_quant;
  if (!quant.present()) {
    return absl::DataLossError(absl::StrCat(directory_, ": tensor ", name,
                                            " is packed, but config.json has no quantization_config that says how"));
  }
  const int64_t word_cols = kWordBits / quant.bits;
  if (cols % word_cols != 0) {
    return absl::DataLossError(absl::StrCat(directory_, ": tensor ", name, " has ", cols, " columns; packed to ",
                                            quant.bits, " bits they must be a multiple of ", word_cols));
  }
  PackedParts parts;
  ASSIGN_OR_RETURN(parts.words, Find(absl::StrCat(name, "_packed")));
  ASSIGN_OR_RETURN(parts.scales, Find(absl::StrCat(name, "_scale")));
  ASSIGN_OR_RETURN(parts.shape, Find(absl::StrCat(name, "_shape")));
  parts.scale_cols = quant.group_cols == 0 ? 1 : CeilDivide(cols, quant.group_cols);
  const std::vector<int64_t> words_shape = {rows, cols / word_cols}, scales_shape = {rows, parts.scale_cols};
  if (parts.words->shape != words_shape) return WrongShape(*parts.words, absl::StrCat(name, "_packed"), words_shape);
  if (parts.scales->shape != scales_shape) return WrongShape(*parts.scales, absl::StrCat(name, "_scale"), scales_shape);
  if (parts.shape->shape != std::vector<int64_t>{2}) return WrongShape(*parts.shape, absl::StrCat(name, "_shape"), {2});
  if (parts.words->dtype != DType::kI32) return WrongDtype(*parts.words, absl::StrCat(name, "_packed"), "I32");
  if (parts.scales->dtype != DType::kBF16 && parts.scales->dtype != DType::kF32) {
    return WrongDtype(*parts.scales, absl::StrCat(name, "_scale"), "BF16 or F32");
  }
  if (parts.shape->dtype != DType::kI64 && parts.shape->dtype != DType::kI32) {
    return WrongDtype(*parts.shape, absl::StrCat(name, "_shape"), "I64 or I32");
  }
  return parts;
}

absl::StatusOr<WeightView> Checkpoint::PackedWeight(absl::string_view name, int64_t rows, int64_t cols) const {
  ASSIGN_OR_RETURN(const PackedParts parts, FindPacked(name, rows, cols));
  std::array<int64_t, 2> said = {};
  const MappedFile& file = parts.shape->file->mapped();
  RETURN_IF_ERROR(file.Read(parts.shape->data - file.data(), parts.shape->bytes, said.data()));
  if (parts.shape->dtype == DType::kI32) {
    const auto halves = std::bit_cast<std::array<int32_t, 4>>(said);
    said[0] = halves[0];
    said[1] = halves[1];
  }
  if (said[0] != rows || said[1] != cols) {
    return absl::DataLossError(absl::StrCat(parts.shape->file->path(), ": tensor ", name, "_shape says [", said[0],
                                            ", ", said[1], "]; config.json needs [", rows, ", ", cols, "]"));
  }
  ASSIGN_OR_RETURN(const std::byte* words, MappedBytes(*parts.words));
  ASSIGN_OR_RETURN(const std::byte* scales, MappedBytes(*parts.scales));
  WeightView view;
  view.code = spec_.packed_quant.bits == 8 ? WeightCode::kInt8 : WeightCode::kInt4;
  view.matrix = Contiguous(words, DType::kU8, rows, cols * spec_.packed_quant.bits / 8);
  view.scales = Contiguous(scales, parts.scales->dtype, rows, parts.scale_cols);
  view.block_rows = 1;
  view.block_cols = static_cast<int32_t>(spec_.packed_quant.group_cols == 0 ? cols : spec_.packed_quant.group_cols);
  return view;
}

}  // namespace conclave
