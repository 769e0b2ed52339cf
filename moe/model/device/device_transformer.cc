#include "moe/model/device/device_transformer.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/model/device/device_attention.h"
#include "moe/model/device/device_weights.h"
#include "moe/model/device/pool_exchange.h"
#include "moe/model/device/step_buffers.h"
#include "moe/model/device/step_plan.h"
#include "moe/model/numeric_profile.h"

namespace conclave {
namespace {

// Steps of up to this many rows, all of them sampled from, are recorded and replayed: launching their kernels one by
// one would take longer than they run.
constexpr int64_t kGraphRowsMax = 256;

// Names a piece of such a step, of up to two a layer, among all of the process: 20 bits, 24, 8 and 12.
uint64_t GraphKey(const StepPlan& plan, int32_t tokens_max, int piece) {
  return plan.generation() << 44 | static_cast<uint64_t>(tokens_max - 1) << 20 |
         static_cast<uint64_t>(plan.rows() - 1) << 12 | static_cast<uint64_t>(piece);
}
static_assert(kGraphRowsMax <= 1 << 8 && limits::kContextMax <= 1 << 24 && 2 * limits::kLayersMax < 1 << 12);

// Products outside the routed experts. In bf16 they stay nearly float32, as on the CPU (numeric_profile.h says why);
// fp8 rounds as DeepSeek-V3 was trained.
LinearPrecision PrecisionOf(Compute compute) {
  if (compute == Compute::kF32) return LinearPrecision::kFloat32;
  return compute == Compute::kBF16 ? LinearPrecision::kSplit : LinearPrecision::kFp8;
}

// Graphs fit contexts up to this much and its doublings; a kernel's grid holds idle blocks for what is not there.
constexpr int32_t kGraphTokens = 2048;

// The largest number of tokens that a step's graph must fit.
int32_t TokensBound(int32_t tokens, int32_t context_max) {
  int32_t bound = kGraphTokens;
  while (bound < tokens) bound *= 2;
  return std::min(bound, context_max);
}

int IntermediateMax(const ModelSpec& spec) {
  const bool dense = spec.moe_layers() < spec.layers;
  return std::max({dense ? spec.dense_intermediate : 0, spec.moe_intermediate * spec.shared_experts, 1});
}

class DeviceTransformer final : public Transformer {
 public:
  DeviceTransformer(const Checkpoint& checkpoint, const Kernels& kernels, DeviceMemory& memory,
                    DeviceExpertPool* local, const TransformerOptions& options)
      : checkpoint_(checkpoint),
        spec_(checkpoint.spec()),
        memory_(memory),
        device_(memory.accelerator()),
        local_(local),
        options_(options),
        row_dtype_(RowDType(kernels.compute)),
        head_dtype_(device_.AttentionDType(kernels.compute, spec_.attention.kv_lora_rank,
                                           spec_.attention.qk_rope_head_dim)),
        rounds_inputs_(kernels.compute == Compute::kF8),
        precision_(PrecisionOf(kernels.compute)) {}

  absl::Status Start();
  absl::StatusOr<std::unique_ptr<KvStorage>> NewCache(const ModelSpec& spec, DType dtype, int32_t blocks,
                                                      int block_tokens) override;
  absl::Status Forward(absl::Span<const SequenceSlice> slices, KvStorage& kv, ExpertPool& experts, MatView logits,
                       ForwardObserver* observer) override;
  absl::Status SliceStatus(size_t slice) const override;
  absl::Span<const int32_t> drawn_ids() const override {
    return absl::MakeConstSpan(buffers_.host_drawn.as<int32_t>(), plan_->logit_count());
  }
  DrawnLogprobs drawn_logprobs(int64_t row) const override { return buffers_.Logprobs(plan_->draw(row)); }
  MatView host_logits() override {
    return ViewF32(buffers_.host_logits.as<float>(), options_.logit_rows_max, spec_.vocab);
  }

 private:
  absl::Status AllocateWorkspace();
  absl::Status RunStep(KvStorage& kv, ExpertPool& experts, ForwardObserver* observer);
  template <typename Queue>
  void RunPiece(Queue queue);
  void QueueLayers(int begun, int gate, KvStorage& kv);
  void QueueEmbedding();
  void FinishLayer(LayerId layer);
  void RunFfn(const DeviceLayer& weights);
  void Route(LayerId layer);
  CombineArgs Combination(LayerId layer) const;
  void RunExperts(LayerId layer);
  absl::Status RunElsewhere(LayerId layer, ExpertPool& experts, ForwardObserver* observer);
  void Normalise(const float* weight);
  AddArgs Sum(LayerId layer) const;
  void AddAndNormalise(LayerId layer, const float* weight, bool floats, bool rounded);
  const void* input() const { return rounds_inputs_ ? buffers_.rounded.as<void>() : buffers_.normed.as<void>(); }
  // What experts take, of row_dtype_.
  void* row_input() const {
    return row_dtype_ == DType::kBF16 ? buffers_.rounded.as<void>() : buffers_.normed.as<void>();
  }
  DType input_dtype() const { return rounds_inputs_ ? DType::kBF16 : DType::kF32; }
  void Head();
  void FetchResults(absl::Span<const SequenceSlice> slices, MatView logits, bool routing);
  void ShowRouting(ForwardObserver& observer);
  void NoteFaults(absl::Span<const SequenceSlice> slices);
  bool HasSharedExpert(LayerId layer) const { return weights_->layers[Value(layer)].down.data != nullptr; }
  bool OnDevice(const ExpertPool& experts) const { return local_ == &experts; }
  int64_t PairOffset(LayerId layer) const { return moe_index_[Value(layer)] * plan_->rows() * spec_.gate.top_k; }

  const Checkpoint& checkpoint_;
  const ModelSpec& spec_;
  DeviceMemory& memory_;
  Accelerator& device_;
  DeviceExpertPool* const local_;
  const TransformerOptions options_;
  const DType row_dtype_, head_dtype_;
  const bool rounds_inputs_;  // of attention and feed-forwards, to bfloat16
  const LinearPrecision precision_;
  std::unique_ptr<DeviceWeights> weights_;
  std::unique_ptr<DeviceAttention> attention_;
  std::optional<StepPlan> plan_;
  StepBuffers buffers_;
  int32_t tokens_max_ = 0;          // of the step, see TokensBound
  bool recorded_ = false;           // the step at hand …
  int pieces_ = 0;                  // … of which so many have begun
  std::vector<int64_t> moe_index_;  // by layer: how many MoE layers stand before it
  std::vector<DeviceBuffer> caches_;
  std::vector<int32_t> slice_faults_;  // of the last Forward
};

absl::Status DeviceTransformer::Start() {
  int64_t moe_layers = 0;
  for (int layer = 0; layer < spec_.layers; ++layer) {
    moe_index_.push_back(moe_layers);
    moe_layers += spec_.IsMoe(LayerId{layer});
  }
  ASSIGN_OR_RETURN(weights_, LoadDeviceWeights(checkpoint_, options_.context_max, memory_));
  RETURN_IF_ERROR(AllocateWorkspace());
  ASSIGN_OR_RETURN(attention_,
                   DeviceAttention::Create(spec_, weights_->rope,
                                           {.precision = precision_,
                                            .head_dtype = head_dtype_,
                                            .rows_max = options_.rows_max,
                                            .context_max = options_.context_max,
                                            .workspace = buffers_.workspace.as<void>()},
                                           memory_));
  ASSIGN_OR_RETURN(StepPlan plan, StepPlan::Create(options_, memory_));
  plan_.emplace(std::move(plan));
  return buffers_.Allocate(spec_, options_, row_dtype_,
                           /*rows_on_host=*/local_ == nullptr && options_.rows_elsewhere == Device::kCpu, memory_);
}

absl::Status DeviceTransformer::AllocateWorkspace() {
  DenseLimits limits;
  limits.precision = precision_;
  limits.rows = options_.rows_max;
  limits.hidden = spec_.hidden;
  limits.intermediate = IntermediateMax(spec_);
  limits.weight_dtype = FfnWeightDType(weights_->layers);
  for (const DeviceLayer& layer : weights_->layers) {
    limits.cols = std::max({limits.cols, layer.qkv_a.cols, layer.kv_a.cols, layer.q.cols, layer.o.cols});
  }
  const int64_t bytes = DeviceMemory::Rounded(device_.DenseWorkspaceBytes(limits));
  RETURN_IF_ERROR(memory_.Reserve("workspace of products", bytes));
  ASSIGN_OR_RETURN(buffers_.workspace, memory_.Allocate(bytes));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<KvStorage>> DeviceTransformer::NewCache(const ModelSpec&, DType dtype,
                                                                       int32_t blocks, int block_tokens) {
  const int64_t bytes = blocks * KvBlockBytes(spec_, dtype, block_tokens);
  RETURN_IF_ERROR(memory_.Reserve("KV cache", DeviceMemory::Rounded(bytes)));
  ASSIGN_OR_RETURN(DeviceBuffer memory, memory_.Allocate(bytes));
  caches_.push_back(std::move(memory));
  return std::make_unique<KvStorage>(spec_, dtype, blocks, block_tokens, caches_.back().as<void>(), Device::kCuda);
}

absl::Status DeviceTransformer::Forward(absl::Span<const SequenceSlice> slices, KvStorage& kv, ExpertPool& experts,
                                        MatView logits, ForwardObserver* observer) {
  if (experts.row_dtype() != row_dtype_) {
    return absl::FailedPreconditionError(absl::StrCat("the expert pool returns rows of ", Name(experts.row_dtype()),
                                                      ", the model was created for ", Name(row_dtype_)));
  }
  if (!OnDevice(experts) && (local_ != nullptr || experts.row_device() != options_.rows_elsewhere)) {
    return absl::FailedPreconditionError("the model was not created for this expert pool");
  }
  RETURN_IF_ERROR(plan_->Set(slices, spec_, kv.block_tokens()));
  plan_->SetCache(kv.Block(LayerId{0}, 0).data);
  const int64_t rows = plan_->rows();
  CONCLAVE_CHECK(logits.rows == plan_->logit_count() && (logits.rows == 0 || logits.cols == spec_.vocab));
  recorded_ = rows <= kGraphRowsMax && plan_->logit_count() == rows;
  tokens_max_ = recorded_ ? TokensBound(plan_->tokens_max(), options_.context_max) : plan_->tokens_max();
  pieces_ = 0;
  RETURN_IF_ERROR(RunStep(kv, experts, observer));
  FetchResults(slices, logits, OnDevice(experts) && observer != nullptr);
  RETURN_IF_ERROR(device_.Synchronize());
  NoteFaults(slices);
  if (OnDevice(experts) && observer != nullptr) ShowRouting(*observer);
  return absl::OkStatus();
}

// Queues what `queue` queues, as a graph where the step is recorded.
template <typename Queue>
void DeviceTransformer::RunPiece(Queue queue) {
  if (!recorded_) return queue();
  const uint64_t key = GraphKey(*plan_, tokens_max_, pieces_++);
  if (device_.Replay(key)) return;
  device_.BeginGraph(key);
  queue();
  device_.EndGraph();
}

// Where experts are on the device, the step is one piece; else pieces end at each gate.
absl::Status DeviceTransformer::RunStep(KvStorage& kv, ExpertPool& experts, ForwardObserver* observer) {
  int layer = -1;  // whose experts' rows have come
  while (true) {
    int gate = layer + 1;
    while (gate < spec_.layers && (OnDevice(experts) || !spec_.IsMoe(LayerId{gate}))) ++gate;
    RunPiece([&] { QueueLayers(layer, gate, kv); });
    if (gate == spec_.layers) return absl::OkStatus();
    RETURN_IF_ERROR(RunElsewhere(LayerId{gate}, experts, observer));
    layer = gate;
  }
}

// From the combination of layer `begun`, or the step's beginning (-1), to the gate of layer `gate`, or the step's end.
void DeviceTransformer::QueueLayers(int begun, int gate, KvStorage& kv) {
  if (begun < 0) {
    QueueEmbedding();
  } else {
    device_.Combine(Combination(LayerId{begun}));
    FinishLayer(LayerId{begun});
  }
  for (int number = begun + 1; number < spec_.layers; ++number) {
    const LayerId layer{number};
    const DeviceLayer& weights = weights_->layers[number];
    attention_->Run(weights, input(), input_dtype(), *plan_, tokens_max_, layer, kv, buffers_.branch.as<float>());
    const bool moe = spec_.IsMoe(layer);  // its gate takes floats, its experts rows of their dtype
    AddAndNormalise(layer, weights.ffn_norm, moe || !rounds_inputs_, moe || rounds_inputs_);
    if (moe) Route(layer);
    if (number == gate) return;
    if (!moe || HasSharedExpert(layer)) RunFfn(weights);
    if (moe) RunExperts(layer);
    FinishLayer(layer);
  }
  Head();
}

void DeviceTransformer::QueueEmbedding() {
  EmbedArgs embed;
  embed.tokens = plan_->tokens();
  embed.rows = plan_->rows();
  embed.table = weights_->embedding;
  embed.out = buffers_.residual.as<float>();
  embed.fault_layer = buffers_.fault_layer.as<int32_t>();
  device_.Embed(embed);
  Normalise(weights_->layers[0].attention_norm);
}

// The sum of a layer, and the normalised input of the next; the last one leaves the residual alone.
void DeviceTransformer::FinishLayer(LayerId layer) {
  if (Value(layer) + 1 == spec_.layers) {
    device_.AddToResidual(Sum(layer));
  } else {
    AddAndNormalise(layer, weights_->layers[Value(layer) + 1].attention_norm, !rounds_inputs_, rounds_inputs_);
  }
}

// branch = the layer's dense feed-forward, or its shared expert, of its normalised input.
void DeviceTransformer::RunFfn(const DeviceLayer& weights) {
  FfnArgs ffn;
  ffn.x = input();
  ffn.x_dtype = input_dtype();
  ffn.gate_up = weights.gate_up;
  ffn.down = weights.down;
  ffn.out = buffers_.branch.as<float>();
  ffn.rows = plan_->rows();
  ffn.precision = precision_;
  ffn.workspace = buffers_.workspace.as<void>();
  device_.Ffn(ffn);
}

void DeviceTransformer::Route(LayerId layer) {
  const DeviceLayer& weights = weights_->layers[Value(layer)];
  const GateSpec& gate = spec_.gate;
  LinearArgs linear;
  // A router logit decides between experts: it is never rounded to bfloat16.
  linear.precision = std::min(precision_, LinearPrecision::kSplit);
  linear.rows = plan_->rows();
  linear.x = buffers_.normed.as<float>();
  linear.x_stride = spec_.hidden;
  linear.w = weights.gate;
  linear.features = gate.experts;
  linear.out = buffers_.gate_logits.as<float>();
  linear.out_stride = gate.experts;
  linear.workspace = buffers_.workspace.as<void>();
  device_.Linear(linear);
  SelectArgs select;
  select.logits = buffers_.gate_logits.as<float>();
  select.bias = weights.gate_bias;
  select.experts_out = buffers_.experts.as<int32_t>() + PairOffset(layer);
  select.weights_out = buffers_.expert_weights.as<float>() + PairOffset(layer);
  select.rows = plan_->rows();
  select.experts = gate.experts;
  select.top_k = gate.top_k;
  select.groups = gate.groups;
  select.groups_kept = gate.groups_kept;
  select.softmax = gate.score_function == ScoreFunction::kSoftmax;
  select.by_groups = gate.method != TopKMethod::kGreedy;
  select.group_sum_of_two = gate.method == TopKMethod::kNoAuxTc;
  select.normalise = gate.normalise_top_k;
  select.scaling = gate.routed_scaling_factor;
  device_.SelectExperts(select);
}

// branch = shared expert + Σ weight · expert row.
CombineArgs DeviceTransformer::Combination(LayerId layer) const {
  CombineArgs combine;
  combine.expert_rows = buffers_.expert_rows.as<void>();
  combine.row_dtype = row_dtype_;
  combine.weights = buffers_.expert_weights.as<float>() + PairOffset(layer);
  combine.acc = buffers_.branch.as<float>();
  combine.from_zero = !HasSharedExpert(layer);
  combine.rows = plan_->rows();
  combine.cols = spec_.hidden;
  combine.top_k = spec_.gate.top_k;
  return combine;
}

void DeviceTransformer::RunExperts(LayerId layer) {
  local_->experts().Queue(layer, row_input(), buffers_.experts.as<int32_t>() + PairOffset(layer),
                          Combination(layer), buffers_.expert_rows.as<void>());
}

// The shared expert computes while the pool's rows travel.
absl::Status DeviceTransformer::RunElsewhere(LayerId layer, ExpertPool& experts, ForwardObserver* observer) {
  const PoolExchange exchange{device_, buffers_, spec_, row_dtype_, row_input(), plan_->rows()};
  ASSIGN_OR_RETURN(const ExpertTicket ticket, exchange.Send(layer, PairOffset(layer), experts, observer));
  if (HasSharedExpert(layer)) RunPiece([&] { RunFfn(weights_->layers[Value(layer)]); });
  return exchange.Take(ticket, experts);
}

// input() = rms_norm(residual).
void DeviceTransformer::Normalise(const float* weight) {
  NormArgs norm;
  norm.x = buffers_.residual.as<float>();
  norm.weight = weight;
  norm.out = rounds_inputs_ ? buffers_.rounded.as<void>() : buffers_.normed.as<void>();
  norm.out_dtype = input_dtype();
  norm.rows = plan_->rows();
  norm.cols = norm.x_stride = norm.out_stride = spec_.hidden;
  norm.eps = spec_.rms_norm_eps;
  device_.RmsNorm(norm);
}

// residual += branch.
AddArgs DeviceTransformer::Sum(LayerId layer) const {
  AddArgs add;
  add.y = buffers_.branch.as<float>();
  add.acc = buffers_.residual.as<float>();
  add.fault_layer = buffers_.fault_layer.as<int32_t>();
  add.rows = plan_->rows();
  add.cols = spec_.hidden;
  add.layer = Value(layer);
  return add;
}

// residual += branch; its norm as floats into normed, and rounded into rounded where rows are.
void DeviceTransformer::AddAndNormalise(LayerId layer, const float* weight, bool floats, bool rounded) {
  AddNormArgs args;
  args.add = Sum(layer);
  args.weight = weight;
  args.out = floats ? buffers_.normed.as<float>() : nullptr;
  args.rounded = rounded && row_dtype_ == DType::kBF16 ? buffers_.rounded.as<void>() : nullptr;
  args.eps = spec_.rms_norm_eps;
  device_.AddAndNormalise(args);
}

void DeviceTransformer::Head() {
  if (plan_->logit_count() == 0) return;
  NormArgs norm;
  norm.x = buffers_.residual.as<float>();
  norm.row_index = plan_->logit_rows();
  norm.weight = weights_->norm;
  norm.out = buffers_.normed.as<float>();
  norm.rows = plan_->logit_count();
  norm.cols = norm.x_stride = norm.out_stride = spec_.hidden;
  norm.eps = spec_.rms_norm_eps;
  device_.RmsNorm(norm);
  LinearArgs linear;
  linear.precision = precision_;
  linear.rows = plan_->logit_count();
  linear.x = buffers_.normed.as<float>();
  linear.x_stride = spec_.hidden;
  linear.w = weights_->head;
  linear.features = spec_.vocab;
  linear.out = buffers_.logits.as<float>();
  linear.out_stride = spec_.vocab;
  linear.workspace = buffers_.workspace.as<void>();
  device_.Linear(linear);
  DrawArgs draw;
  draw.x = buffers_.logits.as<float>();
  draw.draws = plan_->draws();
  draw.tables = plan_->tables();
  draw.ids = buffers_.drawn.as<int32_t>();
  draw.words = buffers_.logprobs.as<uint64_t>();
  draw.rows = plan_->logit_count();
  draw.cols = spec_.vocab;
  device_.DrawTokens(draw);
}

void DeviceTransformer::FetchResults(absl::Span<const SequenceSlice> slices, MatView logits, bool routing) {
  const int64_t routed = plan_->rows() * spec_.gate.top_k * spec_.moe_layers();
  device_.CopyOut(buffers_.host_fault_layer.as<void>(), buffers_.fault_layer.as<void>(),
                  plan_->rows() * int64_t{sizeof(int32_t)});
  if (routing && routed > 0) {
    device_.CopyOut(buffers_.host_experts.as<void>(), buffers_.experts.as<void>(), routed * int64_t{sizeof(int32_t)});
    device_.CopyOut(buffers_.host_expert_weights.as<void>(), buffers_.expert_weights.as<void>(),
                    routed * int64_t{sizeof(float)});
  }
  if (logits.rows == 0) return;
  CONCLAVE_CHECK(logits.stride == spec_.vocab) << logits.stride;
  device_.CopyOut(buffers_.host_drawn.as<void>(), buffers_.drawn.as<void>(), logits.rows * int64_t{sizeof(int32_t)});
  buffers_.FetchLogprobs(plan_->logprob_words(), device_);
  // Runs of rows that somebody looks at.
  for (size_t i = 0, row = 0; i < slices.size();) {
    size_t rows = 0;
    for (; i < slices.size() && !slices[i].is_told(); ++i) rows += slices[i].logit_rows;
    device_.CopyOut(logits.RowBytes(row), buffers_.logits.as<float>() + row * spec_.vocab,
                    static_cast<int64_t>(rows) * spec_.vocab * int64_t{sizeof(float)});
    row += rows;
    for (; i < slices.size() && slices[i].is_told(); ++i) row += slices[i].logit_rows;
  }
}

void DeviceTransformer::ShowRouting(ForwardObserver& observer) {
  const int64_t pairs = plan_->rows() * spec_.gate.top_k;
  for (int number = 0; number < spec_.layers; ++number) {
    const LayerId layer{number};
    if (!spec_.IsMoe(layer)) continue;
    const int32_t* experts = buffers_.host_experts.as<int32_t>() + PairOffset(layer);
    const float* weights = buffers_.host_expert_weights.as<float>() + PairOffset(layer);
    observer.OnRouting(
        layer, Routing{spec_.gate.top_k, absl::MakeConstSpan(experts, pairs), absl::MakeConstSpan(weights, pairs)});
  }
}

void DeviceTransformer::NoteFaults(absl::Span<const SequenceSlice> slices) {
  const int32_t* fault = buffers_.host_fault_layer.as<int32_t>();
  slice_faults_.clear();
  for (const SequenceSlice& slice : slices) {
    const int32_t* const end = fault + slice.token_ids.size();
    slice_faults_.push_back(*std::min_element(fault, end));
    fault = end;
  }
}

absl::Status DeviceTransformer::SliceStatus(size_t slice) const {
  if (slice >= slice_faults_.size() || slice_faults_[slice] == kNoFault) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("layer ", slice_faults_[slice],
                                          ": a hidden state of this sequence is not a finite number; other sequences "
                                          "are not affected"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Transformer>> CreateDeviceTransformer(const Checkpoint& checkpoint,
                                                                     const Kernels& kernels, DeviceMemory& memory,
                                                                     DeviceExpertPool* local,
                                                                     const TransformerOptions& options) {
  ASSIGN_OR_RETURN(const TransformerOptions sized, ResolveLimits(checkpoint.spec(), options));
  auto transformer = std::make_unique<DeviceTransformer>(checkpoint, kernels, memory, local, sized);
  RETURN_IF_ERROR(transformer->Start());
  return transformer;
}

}  // namespace conclave
