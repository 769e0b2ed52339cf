#include "moe/checkpoint/quantize_plan.h"

#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/model_tensors.h"

namespace conclave {
namespace {

using Make = QuantizeStep::Make;

constexpr int kInt4GroupCols = 32;
constexpr int kF8Block = 128;
constexpr const char* kParts[] = {"", "_packed", "_scale", "_shape", "_scale_inv"};  // of a matrix

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool SameFormat(const ModelSpec& spec, const QuantizePlan& plan) {
  return spec.packed_quant == plan.packed_quant && spec.block_quant.present() == plan.block_quant.present();
}

class Planner {
 public:
  Planner(const Checkpoint& checkpoint, bool head, QuantizePlan& plan)
      : checkpoint_(checkpoint), head_(head), plan_(plan) {}

  void Run() {
    if (!head_) plan_.kept.emplace_back("lm_head");
    plan_.kept.emplace_back(R"(re:.*\\.mlp\\.gate$)");
    ForEachTensor(checkpoint_.spec(), [&](const TensorSpec& tensor) { Add(tensor); });
    for (const std::string& name : checkpoint_.TensorNames()) {
      if (!done_.contains(name)) Copy(name);
    }
  }

 private:
  void Add(const TensorSpec& tensor) {
    const bool packed = checkpoint_.Has(tensor.name + "_packed");
    if (!packed && !checkpoint_.Has(tensor.name)) return;  // of an MTP layer that the checkpoint does not have
    for (const char* part : kParts) done_.insert(tensor.name + part);
    const bool quantised = packed || checkpoint_.Has(tensor.name + "_scale_inv");
    if (tensor.shape.size() != 2) return Copy(tensor.name);
    if (quantised && SameFormat(checkpoint_.spec(), plan_)) return CopyParts(tensor.name);
    const bool wanted = tensor.quantised() || (head_ && tensor.role == TensorRole::kHead);
    if (wanted && Fits(tensor.shape[1])) return Quantise(tensor);
    if (wanted) plan_.kept.emplace_back(absl::StripSuffix(tensor.name, ".weight"));
    if (!quantised) return Copy(tensor.name);
    Matrix(Make::kWiden, tensor, {tensor.name, DType::kBF16, tensor.shape}, false);
  }

  bool Fits(int64_t cols) const {
    const PackedQuantSpec& packed = plan_.packed_quant;
    if (!packed.present()) return true;
    return cols % (32 / packed.bits) == 0 && (packed.group_cols == 0 || cols % packed.group_cols == 0);
  }

  void Quantise(const TensorSpec& tensor) {
    const int64_t rows = tensor.shape[0], cols = tensor.shape[1];
    done_.insert(tensor.name);
    if (plan_.block_quant.present()) {
      Matrix(Make::kCodes, tensor, {tensor.name, DType::kF8E4M3, tensor.shape}, false);
      const std::vector<int64_t> blocks = {CeilDiv(rows, plan_.block_quant.block_rows),
                                           CeilDiv(cols, plan_.block_quant.block_cols)};
      Matrix(Make::kScales, tensor, {tensor.name + "_scale_inv", DType::kF32, blocks}, true);
      return;
    }
    const PackedQuantSpec& packed = plan_.packed_quant;
    const int64_t groups = packed.group_cols == 0 ? 1 : cols / packed.group_cols;
    Matrix(Make::kCodes, tensor, {tensor.name + "_packed", DType::kI32, {rows, cols * packed.bits / 32}}, false);
    Matrix(Make::kScales, tensor, {tensor.name + "_scale", DType::kBF16, {rows, groups}}, true);
    Matrix(Make::kShape, tensor, {tensor.name + "_shape", DType::kI32, {2}}, true);
  }

  void Matrix(Make make, const TensorSpec& tensor, SafetensorsDeclaration declaration, bool joins_previous) {
    done_.insert(tensor.name);
    plan_.steps.push_back(
        {make, tensor.name, tensor.shape[0], tensor.shape[1], {std::move(declaration), joins_previous}});
  }

  // A matrix that has the result's format already.
  void CopyParts(const std::string& name) {
    bool first = true;
    for (const char* part : kParts) {
      if (!checkpoint_.Has(name + part)) continue;
      Copy(name + part, !first);
      first = false;
    }
  }

  void Copy(const std::string& name, bool joins_previous = false) {
    done_.insert(name);
    const auto tensor = checkpoint_.Describe(name);
    plan_.steps.push_back({Make::kCopy, name, 0, 0, {{name, tensor->dtype, tensor->shape}, joins_previous}});
  }

  const Checkpoint& checkpoint_;
  const bool head_;
  QuantizePlan& plan_;
  absl::flat_hash_set<std::string> done_;
};

}  // namespace

absl::StatusOr<QuantizePlan> PlanQuantization(const Checkpoint& checkpoint, absl::string_view to, bool head) {
  QuantizePlan plan;
  if (to == "int8") {
    plan.packed_quant = {8, 0};
  } else if (to == "int4") {
    plan.packed_quant = {4, kInt4GroupCols};
  } else if (to == "fp8") {
    plan.block_quant = {kF8Block, kF8Block, false};
  } else {
    return absl::InvalidArgumentError(absl::StrCat("to: \"", to.substr(0, 60), "\" is not one of int8, int4, fp8"));
  }
  const ModelSpec& spec = checkpoint.spec();
  if (head && spec.tie_word_embeddings) {
    return absl::InvalidArgumentError(
        absl::StrCat("head: ", checkpoint.directory(), " has none of its own; it uses the embedding"));
  }
  if (SameFormat(spec, plan)) {
    const bool head_too = checkpoint.Has("lm_head.weight_packed") || checkpoint.Has("lm_head.weight_scale_inv");
    if (!head || head_too) {
      return absl::InvalidArgumentError(absl::StrCat(checkpoint.directory(), ": is in ", to, " already"));
    }
    plan.block_quant = spec.block_quant;  // one size of blocks for all
  }
  Planner(checkpoint, head, plan).Run();
  return plan;
}

}  // namespace conclave
