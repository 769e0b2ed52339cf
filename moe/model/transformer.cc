#include "moe/model/transformer.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "moe/base/check.h"
#include "moe/base/status_macros.h"
#include "moe/model/dense_ffn.h"
#include "moe/model/gate.h"
#include "moe/model/linears.h"
#include "moe/model/micro_batching.h"
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
  // Rows [begin, begin + rows) of the step, which go through a layer together.
  struct Part {
    Part(const ModelSpec& spec, const Kernels& gate_kernels, ThreadPool& threads, int rows_max)
        : rope(spec.attention, rows_max), gate(spec.gate, gate_kernels, threads, spec.hidden, rows_max) {}

    MatView Of(MatBuffer& buffer) const { return buffer.view().Rows(begin, rows); }
    Routing routing(int top_k) const { return {top_k, gate.experts(), gate.weights()}; }

    int64_t begin = 0, rows = 0;
    Rope rope;
    Gate gate;
    std::optional<ExpertTicket> ticket;  // while its rows are with the experts
  };

  void PlanStep(absl::Span<const SequenceSlice> slices, const KvStorage& kv);
  void Divide(bool in_two_parts);
  absl::Span<Part> parts() { return absl::MakeSpan(parts_).first(part_count_); }
  void Embed();
  absl::Status RunLayers(KvStorage& kv, ExpertPool& experts, ForwardObserver* observer);
  absl::Status BeginLayer(LayerId layer, KvStorage& kv, ExpertPool& experts, ForwardObserver* observer, Part& part);
  absl::Status StartExperts(LayerId layer, ExpertPool& experts, ForwardObserver* observer, Part& part);
  absl::Status EndExperts(ExpertPool& experts, Part& part);
  void GiveUpTickets(ExpertPool& experts);
  void ShowRouting(LayerId layer, ForwardObserver* observer, const Part& part);
  void Combine(const Part& part);
  void Normalise(const std::vector<float>& weight, const Part& part);
  void AddBranch(const Part& part);
  void Head(MatView logits);
  // Rows per piece of an element-wise loop.
  int64_t RowGrain(int64_t rows) const { return TaskGrain(rows, 4 * int64_t{spec_.hidden}, threads_.threads()); }

  const Checkpoint& checkpoint_;
  const ModelSpec& spec_;
  const TransformerWeights weights_;
  const Kernels& kernels_;
  ThreadPool& threads_;
  const TransformerOptions options_;
  std::array<Part, 2> parts_;
  size_t part_count_ = 1;
  MicroBatching micro_batching_;
  absl::Duration expert_wait_;  // for the last part's experts, where they work aside
  MlaAttention attention_;
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
  std::vector<int32_t> routed_experts_;      // [rows * top_k]: of all parts, where there are two
  std::vector<float> routed_weights_;        // [rows * top_k]
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
      parts_{Part(spec_, gate_kernels, threads, options.rows_max),
             Part(spec_, gate_kernels, threads, options.rows_max)},
      attention_(spec_, kernels, threads, options.rows_max),
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
  routed_experts_.reserve(static_cast<size_t>(options.rows_max) * spec_.gate.top_k);
  routed_weights_.reserve(routed_experts_.capacity());
}

absl::Status DecoderTransformer::Forward(absl::Span<const SequenceSlice> slices, KvStorage& kv, ExpertPool& experts,
                                         MatView logits, ForwardObserver* observer) {
  if (experts.row_dtype() != expert_rows_.view().dtype) {
    return absl::FailedPreconditionError(absl::StrCat("the expert pool returns rows of ", Name(experts.row_dtype()),
                                                      ", the model was created for ", Name(expert_rows_.view().dtype)));
  }
  PlanStep(slices, kv);
  const bool choose = experts.works_aside();
  const bool in_two_parts = choose && micro_batching_.InTwoParts(rows_);
  Divide(in_two_parts);
  if (in_two_parts && observer != nullptr) observer->OnTwoParts();
  const absl::Time begin = choose ? absl::Now() : absl::InfinitePast();
  Embed();
  const absl::Status status = RunLayers(kv, experts, observer);
  if (!status.ok()) {
    GiveUpTickets(experts);
    return status;
  }
  if (choose) micro_batching_.Observe(rows_, in_two_parts, absl::Now() - begin);
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
    CheckSlice(slice, options_.context_max, kv.block_tokens());
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
  CONCLAVE_CHECK(kv.dtype() == CacheDType(kernels_.compute) || kv.dtype() == DType::kF8E4M3) << Name(kv.dtype());
}

// Anywhere: rows of one sequence stand in ascending order, and a part enters a layer behind the one before it, which
// has then written its rows of the cache.
void DecoderTransformer::Divide(bool in_two_parts) {
  part_count_ = in_two_parts ? 2 : 1;
  int64_t begin = 0;
  for (size_t i = 0; i < part_count_; ++i) {
    const int64_t end = rows_ * static_cast<int64_t>(i + 1) / static_cast<int64_t>(part_count_);
    parts_[i].begin = begin;
    parts_[i].rows = end - begin;
    parts_[i].rope.SetPositions(absl::MakeConstSpan(positions_).subspan(begin, end - begin));
    begin = end;
  }
}

void DecoderTransformer::Embed() {
  threads_.ParallelFor(rows_, RowGrain(rows_), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      WidenRow(weights_.embedding, tokens_[row], residual_.view().Row<float>(row));
    }
  });
}

absl::Status DecoderTransformer::RunLayers(KvStorage& kv, ExpertPool& experts, ForwardObserver* observer) {
  for (int layer = 0; layer < spec_.layers; ++layer) {
    for (Part& part : parts()) {
      RETURN_IF_ERROR(EndExperts(experts, part));
      RETURN_IF_ERROR(BeginLayer(LayerId{layer}, kv, experts, observer, part));
    }
  }
  for (Part& part : parts()) RETURN_IF_ERROR(EndExperts(experts, part));
  return absl::OkStatus();
}

// The layer, but for what the routed experts add: that is left to EndExperts.
absl::Status DecoderTransformer::BeginLayer(LayerId layer, KvStorage& kv, ExpertPool& experts,
                                            ForwardObserver* observer, Part& part) {
  const LayerWeights& weights = weights_.layers[Value(layer)];
  const AttentionRows rows = {absl::MakeConstSpan(positions_).subspan(part.begin, part.rows),
                              absl::MakeConstSpan(first_block_).subspan(part.begin, part.rows), blocks_};
  Normalise(weights.attention_norm, part);
  attention_.Run(weights.attention, layer, part.Of(normed_), part.rope, rows, kv, part.Of(branch_));
  AddBranch(part);
  Normalise(weights.ffn_norm, part);
  if (weights.gate.has_value()) return StartExperts(layer, experts, observer, part);
  ffn_.Run(*weights.ffn, part.Of(normed_), part.Of(branch_));
  AddBranch(part);
  return absl::OkStatus();
}

// branch = shared expert, which runs while the pool's rows travel.
absl::Status DecoderTransformer::StartExperts(LayerId layer, ExpertPool& experts, ForwardObserver* observer,
                                              Part& part) {
  const LayerWeights& weights = weights_.layers[Value(layer)];
  part.gate.Route(*weights.gate, part.Of(normed_));
  ShowRouting(layer, observer, part);
  ASSIGN_OR_RETURN(part.ticket, experts.Start(layer, part.Of(normed_), part.routing(spec_.gate.top_k)));
  if (weights.ffn.has_value()) {
    ffn_.Run(*weights.ffn, part.Of(normed_), part.Of(branch_));
  } else {
    const MatView branch = part.Of(branch_);
    for (int64_t row = 0; row < branch.rows; ++row) std::fill_n(branch.Row<float>(row), spec_.hidden, 0.0f);
  }
  return absl::OkStatus();
}

// residual += branch + Σ weight · expert row, of the layer that the part is in.
absl::Status DecoderTransformer::EndExperts(ExpertPool& experts, Part& part) {
  if (!part.ticket.has_value()) return absl::OkStatus();
  const int64_t top_k = spec_.gate.top_k;
  const ExpertTicket ticket = *std::exchange(part.ticket, std::nullopt);
  const bool aside = experts.works_aside();
  // Shards on the same machine have work for the cores.
  if (aside && expert_wait_ > absl::FromChrono(ThreadPool::kSpinMax)) threads_.Rest();
  const absl::Time begin = aside ? absl::Now() : absl::InfinitePast();
  RETURN_IF_ERROR(experts.Finish(ticket, expert_rows_.view().Rows(part.begin * top_k, part.rows * top_k)));
  if (aside) expert_wait_ = absl::Now() - begin;
  Combine(part);
  AddBranch(part);
  return absl::OkStatus();
}

void DecoderTransformer::GiveUpTickets(ExpertPool& experts) {
  const int64_t top_k = spec_.gate.top_k;
  for (Part& part : parts()) {
    if (!part.ticket.has_value()) continue;
    const ExpertTicket ticket = *std::exchange(part.ticket, std::nullopt);
    experts.Finish(ticket, expert_rows_.view().Rows(part.begin * top_k, part.rows * top_k)).IgnoreError();
  }
}

// Once all parts have been routed.
void DecoderTransformer::ShowRouting(LayerId layer, ForwardObserver* observer, const Part& part) {
  if (observer == nullptr) return;
  const Routing routing = part.routing(spec_.gate.top_k);
  if (part_count_ == 1) return observer->OnRouting(layer, routing);
  if (part.begin == 0) {
    routed_experts_.clear();
    routed_weights_.clear();
  }
  routed_experts_.insert(routed_experts_.end(), routing.experts.begin(), routing.experts.end());
  routed_weights_.insert(routed_weights_.end(), routing.weights.begin(), routing.weights.end());
  if (part.begin + part.rows == rows_) {
    observer->OnRouting(layer, {spec_.gate.top_k, routed_experts_, routed_weights_});
  }
}

// Float32, in ascending order of expert ids, so that nothing but the model decides the order of the sum.
void DecoderTransformer::Combine(const Part& part) {
  const Routing routing = part.routing(spec_.gate.top_k);
  const ConstMatView rows = expert_rows_.view().Rows(part.begin * routing.top_k, part.rows * routing.top_k);
  const MatView branch = part.Of(branch_);
  threads_.ParallelFor(part.rows, RowGrain(part.rows), [&](int64_t begin, int64_t end) {
    for (int64_t pair = begin * routing.top_k; pair < end * routing.top_k; ++pair) {
      kernels_.axpy(routing.weights[pair], rows.RowBytes(pair), rows.dtype, spec_.hidden,
                    branch.Row<float>(pair / routing.top_k));
    }
  });
}

// normed = rms_norm(residual).
void DecoderTransformer::Normalise(const std::vector<float>& weight, const Part& part) {
  const MatView residual = part.Of(residual_), normed = part.Of(normed_);
  threads_.ParallelFor(part.rows, RowGrain(part.rows), [&](int64_t begin, int64_t end) {
    kernels_.rms_norm(residual.Rows(begin, end - begin), weight, spec_.rms_norm_eps, normed.Rows(begin, end - begin));
  });
}

// residual += branch.
void DecoderTransformer::AddBranch(const Part& part) {
  const MatView residual = part.Of(residual_);
  const ConstMatView branch = part.Of(branch_);
  threads_.ParallelFor(part.rows, RowGrain(part.rows), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      kernels_.axpy(1.0f, branch.RowBytes(row), branch.dtype, spec_.hidden, residual.Row<float>(row));
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
  RunLinears(kernels_, threads_, head_packer_.Pack(normed_.first(count), {&weights_.head}),
             {{&weights_.head, logits}});
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

void CheckSlice(const SequenceSlice& slice, int context_max, int block_tokens) {
  const int64_t count = static_cast<int64_t>(slice.token_ids.size());
  const int64_t end = slice.first_position + count;
  CONCLAVE_CHECK(slice.first_position >= 0 && end <= context_max) << "positions up to " << end;
  CONCLAVE_CHECK(static_cast<int64_t>(slice.blocks.size()) * block_tokens >= end) << slice.blocks.size();
  CONCLAVE_CHECK(slice.logit_rows >= 0 && slice.logit_rows <= count) << slice.logit_rows;
  const int64_t told = static_cast<int64_t>(slice.given.size()) + (slice.draw.has_value() ? 1 : 0);
  CONCLAVE_CHECK(told == 0 || told == slice.logit_rows) << told << " of " << slice.logit_rows;
}

absl::StatusOr<std::unique_ptr<KvStorage>> Transformer::NewCache(const ModelSpec& spec, DType dtype, int32_t blocks,
                                                                 int block_tokens) {
  return std::make_unique<KvStorage>(spec, dtype, blocks, block_tokens);
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
