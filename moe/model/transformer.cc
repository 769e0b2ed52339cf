#include "moe/model/transformer.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/base/status_macros.h"
#include "moe/model/dense_ffn.h"
#include "moe/model/gate.h"
#include "moe/model/linears.h"
#include "moe/model/mla_attention.h"
#include "moe/model/numeric_profile.h"
#include "moe/model/rope.h"
#include "moe/model/transformer_weights.h"

namespace conclave {
namespace {

// The width of the widest FFN that every row passes.
int IntermediateMax(const ModelSpec& spec) {
  const bool dense = spec.moe_layers() < spec.layers;
  return std::max({dense ? spec.dense_intermediate : 0, spec.moe_intermediate * spec.shared_experts, 1});
}

class DecoderTransformer final : public Transformer {
 public:
  DecoderTransformer(const Checkpoint& checkpoint, TransformerWeights weights, const Kernels& kernels,
                     const Kernels& gate_kernels, DType row_dtype, ThreadPool& threads,
                     const TransformerOptions& options);

  absl::Status Forward(absl::Span<const SequenceSlice> slices, KvStorage& kv, ExpertPool& experts, MatView logits,
                       ForwardObserver* observer) override;

 private:
  void PlanStep(absl::Span<const SequenceSlice> slices, const KvStorage& kv);
  void Embed();
  absl::Status RunLayer(LayerId layer, KvStorage& kv, ExpertPool& experts, ForwardObserver* observer);
  absl::Status RunMoe(LayerId layer, ExpertPool& experts, ForwardObserver* observer);
  void Combine(const Routing& routing);
  void Normalise(const std::vector<float>& weight);
  void AddToResidual(ConstMatView y);
  void Head(MatView logits);
  // Rows per piece of an element-wise loop.
  int64_t RowGrain() const { return TaskGrain(rows_, 4 * int64_t{spec_.hidden}, threads_.threads()); }

  const Checkpoint& checkpoint_;
  const ModelSpec& spec_;
  const TransformerWeights weights_;
  const Kernels& kernels_;
  ThreadPool& threads_;
  const TransformerOptions options_;
  Rope rope_;
  MlaAttention attention_;
  Gate gate_;
  DenseFfn ffn_;
  RowPacker head_packer_;
  MatBuffer residual_;     // [rows_max, hidden] F32
  MatBuffer normed_;       // [rows_max, hidden] F32
  MatBuffer branch_;       // [rows_max, hidden] F32: what attention or the FFN adds to the residual
  MatBuffer expert_rows_;  // [rows_max * top_k, hidden] row dtype
  // The rows of the current step.
  int64_t rows_ = 0;
  std::vector<int32_t> tokens_, positions_;  // [rows]
  std::vector<int64_t> first_block_;         // [rows]
  std::vector<int32_t> blocks_;              // of all slices
  std::vector<int64_t> logit_rows_;          // rows whose logits are wanted, ascending
};

DecoderTransformer::DecoderTransformer(const Checkpoint& checkpoint, TransformerWeights weights, const Kernels& kernels,
                                       const Kernels& gate_kernels, DType row_dtype, ThreadPool& threads,
                                       const TransformerOptions& options)
    : checkpoint_(checkpoint),
      spec_(checkpoint.spec()),
      weights_(std::move(weights)),
      kernels_(kernels),
      threads_(threads),
      options_(options),
      rope_(spec_.attention, options.rows_max),
      attention_(spec_, kernels, threads, options.rows_max),
      gate_(spec_.gate, gate_kernels, threads, spec_.hidden, options.rows_max),
      ffn_(kernels, threads, spec_.hidden, IntermediateMax(spec_), options.rows_max),
      head_packer_(kernels, threads, options.logit_rows_max, spec_.hidden),
      residual_(DType::kF32, options.rows_max, spec_.hidden),
      normed_(DType::kF32, options.rows_max, spec_.hidden),
      branch_(DType::kF32, options.rows_max, spec_.hidden),
      expert_rows_(row_dtype, int64_t{options.rows_max} * spec_.gate.top_k, spec_.hidden) {
  tokens_.reserve(options.rows_max);
  positions_.reserve(options.rows_max);
  first_block_.reserve(options.rows_max);
  logit_rows_.reserve(options.logit_rows_max);
}

absl::Status DecoderTransformer::Forward(absl::Span<const SequenceSlice> slices, KvStorage& kv, ExpertPool& experts,
                                         MatView logits, ForwardObserver* observer) {
  if (experts.row_dtype() != expert_rows_.view().dtype) {
    return absl::FailedPreconditionError(absl::StrCat("the expert pool returns rows of ", Name(experts.row_dtype()),
                                                      ", the model was created for ", Name(expert_rows_.view().dtype)));
  }
  PlanStep(slices, kv);
  Embed();
  for (int layer = 0; layer < spec_.layers; ++layer) {
    RETURN_IF_ERROR(RunLayer(LayerId{layer}, kv, experts, observer));
  }
  Head(logits);
  return checkpoint_.CheckStillWhole();
}

// Lists every row's token, position and blocks.
void DecoderTransformer::PlanStep(absl::Span<const SequenceSlice> slices, const KvStorage& kv) {
  tokens_.clear();
  positions_.clear();
  first_block_.clear();
  blocks_.clear();
  logit_rows_.clear();
  for (const SequenceSlice& slice : slices) {
    const int64_t count = static_cast<int64_t>(slice.token_ids.size());
    CheckSlice(slice, options_.context_max);
    for (int64_t i = 0; i < count; ++i) {
      CONCLAVE_CHECK(slice.token_ids[i] >= 0 && slice.token_ids[i] < spec_.vocab) << slice.token_ids[i];
      if (i >= count - slice.logit_rows) logit_rows_.push_back(static_cast<int64_t>(tokens_.size()));
      tokens_.push_back(slice.token_ids[i]);
      positions_.push_back(static_cast<int32_t>(slice.first_position + i));
      first_block_.push_back(static_cast<int64_t>(blocks_.size()));
    }
    blocks_.insert(blocks_.end(), slice.blocks.begin(), slice.blocks.end());
  }
  rows_ = static_cast<int64_t>(tokens_.size());
  CONCLAVE_CHECK(rows_ >= 1 && rows_ <= options_.rows_max) << rows_ << " rows";
  CONCLAVE_CHECK(static_cast<int>(logit_rows_.size()) <= options_.logit_rows_max) << logit_rows_.size();
  CONCLAVE_CHECK(kv.dtype() == CacheDType(kernels_.compute)) << Name(kv.dtype());
  rope_.SetPositions(positions_);
}

void DecoderTransformer::Embed() {
  threads_.ParallelFor(rows_, RowGrain(), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      WidenRow(weights_.embedding, tokens_[row], residual_.view().Row<float>(row));
    }
  });
}

absl::Status DecoderTransformer::RunLayer(LayerId layer, KvStorage& kv, ExpertPool& experts,
                                          ForwardObserver* observer) {
  const LayerWeights& weights = weights_.layers[Value(layer)];
  const MatView branch = branch_.first(rows_);
  Normalise(weights.attention_norm);
  attention_.Run(weights.attention, layer, normed_.first(rows_), rope_,
                 AttentionRows{positions_, first_block_, blocks_}, kv, branch);
  AddToResidual(branch);
  Normalise(weights.ffn_norm);
  if (weights.gate.has_value()) {
    RETURN_IF_ERROR(RunMoe(layer, experts, observer));
  } else {
    ffn_.Run(*weights.ffn, normed_.first(rows_), branch);
  }
  AddToResidual(branch);
  return absl::OkStatus();
}

// branch = shared expert + Σ weight · expert row. The shared expert runs while the pool's rows travel.
absl::Status DecoderTransformer::RunMoe(LayerId layer, ExpertPool& experts, ForwardObserver* observer) {
  const LayerWeights& weights = weights_.layers[Value(layer)];
  gate_.Route(*weights.gate, normed_.first(rows_));
  const Routing routing{spec_.gate.top_k, gate_.experts(), gate_.weights()};
  if (observer != nullptr) observer->OnRouting(layer, routing);
  ASSIGN_OR_RETURN(const ExpertTicket ticket, experts.Start(layer, normed_.first(rows_), routing));
  if (weights.ffn.has_value()) {
    ffn_.Run(*weights.ffn, normed_.first(rows_), branch_.first(rows_));
  } else {
    for (int64_t row = 0; row < rows_; ++row) std::fill_n(branch_.view().Row<float>(row), spec_.hidden, 0.0f);
  }
  RETURN_IF_ERROR(experts.Finish(ticket, expert_rows_.first(rows_ * routing.top_k)));
  Combine(routing);
  return absl::OkStatus();
}

// Float32, in ascending order of expert ids, so that nothing but the model decides the order of the sum.
void DecoderTransformer::Combine(const Routing& routing) {
  const ConstMatView rows = expert_rows_.view();
  threads_.ParallelFor(rows_, RowGrain(), [&](int64_t begin, int64_t end) {
    for (int64_t pair = begin * routing.top_k; pair < end * routing.top_k; ++pair) {
      kernels_.axpy(routing.weights[pair], rows.RowBytes(pair), rows.dtype, spec_.hidden,
                    branch_.view().Row<float>(pair / routing.top_k));
    }
  });
}

// normed = rms_norm(residual).
void DecoderTransformer::Normalise(const std::vector<float>& weight) {
  threads_.ParallelFor(rows_, RowGrain(), [&](int64_t begin, int64_t end) {
    kernels_.rms_norm(residual_.view().Rows(begin, end - begin), weight, spec_.rms_norm_eps,
                      normed_.view().Rows(begin, end - begin));
  });
}

void DecoderTransformer::AddToResidual(ConstMatView y) {
  threads_.ParallelFor(rows_, RowGrain(), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      kernels_.axpy(1.0f, y.RowBytes(row), y.dtype, spec_.hidden, residual_.view().Row<float>(row));
    }
  });
}

void DecoderTransformer::Head(MatView logits) {
  const int64_t count = static_cast<int64_t>(logit_rows_.size());
  if (count == 0) return;
  CONCLAVE_CHECK(logits.rows == count && logits.cols == spec_.vocab) << logits.rows << "x" << logits.cols;
  for (int64_t i = 0; i < count; ++i) {
    kernels_.rms_norm(residual_.view().Rows(logit_rows_[i], 1), weights_.norm, spec_.rms_norm_eps,
                      normed_.view().Rows(i, 1));
  }
  RunLinears(kernels_, threads_, head_packer_.Pack(normed_.first(count)), {{&weights_.head, logits}});
}

}  // namespace

absl::StatusOr<TransformerOptions> ResolveLimits(const ModelSpec& spec, const TransformerOptions& options) {
  if (options.rows_max < 1 || options.logit_rows_max < 1) {
    return absl::InvalidArgumentError(absl::StrCat("rows_max ", options.rows_max, ", logit_rows_max ",
                                                   options.logit_rows_max, ": both must be positive"));
  }
  TransformerOptions sized = options;
  sized.context_max = options.context_max > 0 ? std::min(options.context_max, spec.context_max) : spec.context_max;
  return sized;
}

void CheckSlice(const SequenceSlice& slice, int context_max) {
  const int64_t count = static_cast<int64_t>(slice.token_ids.size());
  const int64_t end = slice.first_position + count;
  CONCLAVE_CHECK(slice.first_position >= 0 && end <= context_max) << "positions up to " << end;
  CONCLAVE_CHECK(static_cast<int64_t>(slice.blocks.size()) * kKvBlockTokens >= end) << slice.blocks.size();
  CONCLAVE_CHECK(slice.logit_rows >= 0 && slice.logit_rows <= count) << slice.logit_rows;
}

absl::StatusOr<std::unique_ptr<KvStorage>> Transformer::NewCache(const ModelSpec& spec, DType dtype, int32_t blocks) {
  return std::make_unique<KvStorage>(spec, dtype, blocks);
}

absl::StatusOr<std::unique_ptr<Transformer>> Transformer::Create(const Checkpoint& checkpoint, const Kernels& kernels,
                                                                 ThreadPool& threads,
                                                                 const TransformerOptions& options) {
  ASSIGN_OR_RETURN(const TransformerOptions sized, ResolveLimits(checkpoint.spec(), options));
  ASSIGN_OR_RETURN(const Kernels* dense_kernels, DenseKernels(kernels));
  ASSIGN_OR_RETURN(const Kernels* gate_kernels, GateKernels(kernels));
  ASSIGN_OR_RETURN(TransformerWeights weights, LoadTransformer(checkpoint));
  RETURN_IF_ERROR(checkpoint.CheckStillWhole());
  return std::unique_ptr<Transformer>(new DecoderTransformer(checkpoint, std::move(weights), *dense_kernels,
                                                             *gate_kernels, RowDType(kernels.compute), threads, sized));
}

}  // namespace conclave
