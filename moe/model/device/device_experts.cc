#include "moe/model/device/device_experts.h"

#include <algorithm>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/base/status_macros.h"
#include "moe/model/device/weight_uploader.h"
#include "moe/model/expert_ffn.h"
#include "moe/model/numeric_profile.h"

namespace conclave {
namespace {

constexpr char kWeightsPart[] = "expert weights";

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceExperts>> DeviceExperts::Create(const Checkpoint& checkpoint,
                                                                     const std::vector<LayerHolding>& holdings,
                                                                     const DeviceExpertsOptions& options,
                                                                     DeviceMemory& memory,
                                                                     const std::function<void(int64_t)>& progress) {
  ASSIGN_OR_RETURN(PiecewiseCopy results, PiecewiseCopy::Create(memory.accelerator()));
  auto experts = absl::WrapUnique(new DeviceExperts(memory, checkpoint, options, std::move(results)));
  RETURN_IF_ERROR(experts->AllocateTables());
  std::vector<WeightUploader> uploaders(holdings.size());
  std::vector<std::unique_ptr<Layer>> layers;
  int64_t bytes = 0, matrices = 0;
  for (size_t i = 0; i < holdings.size(); ++i) {
    ASSIGN_OR_RETURN(layers.emplace_back(), experts->Plan(holdings[i].layer, holdings[i].experts, uploaders[i]));
    bytes += uploaders[i].bytes();
  }
  RETURN_IF_ERROR(memory.Reserve(kWeightsPart, bytes));
  const auto copied = [&progress, &matrices] {
    if (++matrices % 3 == 0 && progress) progress(matrices / 3);  // an expert is three matrices
  };
  for (size_t i = 0; i < holdings.size(); ++i) {
    RETURN_IF_ERROR(experts->Replace(holdings[i].layer, std::move(layers[i]), uploaders[i], copied));
  }
  RETURN_IF_ERROR(experts->AllocateScratch());
  return experts;
}

DeviceExperts::DeviceExperts(DeviceMemory& memory, const Checkpoint& checkpoint, const DeviceExpertsOptions& options,
                             PiecewiseCopy results)
    : memory_(memory),
      checkpoint_(checkpoint),
      experts_(checkpoint.spec().gate.experts),
      top_k_(checkpoint.spec().gate.top_k),
      hidden_(checkpoint.spec().hidden),
      intermediate_(checkpoint.spec().moe_intermediate),
      options_(options),
      row_dtype_(RowDType(options.compute)),
      layers_(checkpoint.spec().layers),
      results_(std::move(results)) {
  for (auto& layer : layers_) layer = std::make_unique<Layer>();
}

// One table of slots for each layer, where kernels find it whatever is held.
absl::Status DeviceExperts::AllocateTables() {
  const int64_t table_bytes = DeviceMemory::Rounded(experts_ * int64_t{sizeof(int32_t)});
  const int64_t bytes = static_cast<int64_t>(layers_.size()) * table_bytes;
  RETURN_IF_ERROR(memory_.Reserve("expert tables", bytes));
  ASSIGN_OR_RETURN(tables_, memory_.Allocate(bytes));
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i]->slot_of_device =
        reinterpret_cast<int32_t*>(tables_.as<std::byte>() + static_cast<int64_t>(i) * table_bytes);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<DeviceExperts::Layer>> DeviceExperts::Plan(LayerId layer,
                                                                          std::vector<ExpertId> held,
                                                                          WeightUploader& uploader) const {
  auto next = std::make_unique<Layer>();
  next->held = std::move(held);
  next->slot_of.assign(experts_, -1);
  next->slot_of_device = layers_[Value(layer)]->slot_of_device;
  next->slots.hidden = hidden_;
  next->slots.intermediate = intermediate_;
  std::vector<WeightView> gate_up, down;
  for (const ExpertId expert : next->held) {
    ASSIGN_OR_RETURN(const FfnWeights ffn, LoadFfn(checkpoint_, ExpertPrefix(layer, expert), hidden_, intermediate_));
    gate_up.push_back(ffn.gate);
    gate_up.push_back(ffn.up);
    down.push_back(ffn.down);
    next->slot_of[Value(expert)] = next->slots.slots++;
  }
  if (!down.empty()) {
    uploader.Add(&next->slots.gate_up, std::move(gate_up));
    uploader.Add(&next->slots.down, std::move(down));
  }
  return next;
}

absl::Status DeviceExperts::Replace(LayerId layer, std::unique_ptr<Layer> next, const WeightUploader& uploader,
                                    const std::function<void()>& copied) {
  Accelerator& accelerator = memory_.accelerator();
  ASSIGN_OR_RETURN(next->weights, uploader.Run(memory_, copied));
  next->weight_bytes = uploader.bytes();
  RETURN_IF_ERROR(checkpoint_.CheckStillWhole());
  if (next->slots.slots > 0) RETURN_IF_ERROR(accelerator.Supports(options_.compute, next->slots));
  accelerator.CopyIn(next->slot_of_device, next->slot_of.data(), experts_ * int64_t{sizeof(int32_t)});
  RETURN_IF_ERROR(accelerator.Synchronize());
  layers_[Value(layer)] = std::move(next);
  return absl::OkStatus();
}

absl::Status DeviceExperts::Hold(absl::Span<const LayerHolding> experts) {
  for (const LayerHolding& holding : experts) {
    std::vector<ExpertId> fresh;
    for (const ExpertId expert : holding.experts) {
      if (!Holds(holding.layer, Value(expert))) fresh.push_back(expert);
    }
    if (fresh.empty()) continue;
    std::vector<ExpertId> held = layers_[Value(holding.layer)]->held;
    held.insert(held.end(), fresh.begin(), fresh.end());
    RETURN_IF_ERROR(Exchange(holding.layer, std::move(held)));
  }
  return absl::OkStatus();
}

absl::Status DeviceExperts::Drop(absl::Span<const LayerHolding> experts) {
  for (const LayerHolding& gone : experts) {
    const std::vector<ExpertId>& before = layers_[Value(gone.layer)]->held;
    std::vector<ExpertId> held;
    for (const ExpertId expert : before) {
      if (std::find(gone.experts.begin(), gone.experts.end(), expert) == gone.experts.end()) held.push_back(expert);
    }
    if (held.size() < before.size()) RETURN_IF_ERROR(Exchange(gone.layer, std::move(held)));
  }
  return absl::OkStatus();
}

// From now on the layer holds these.
absl::Status DeviceExperts::Exchange(LayerId layer, std::vector<ExpertId> held) {
  WeightUploader uploader;
  ASSIGN_OR_RETURN(auto next, Plan(layer, std::move(held), uploader));
  const int64_t old_bytes = layers_[Value(layer)]->weight_bytes;
  RETURN_IF_ERROR(memory_.Reserve(kWeightsPart, uploader.bytes()));
  const absl::Status status = Replace(layer, std::move(next), uploader, {});
  memory_.Release(kWeightsPart, status.ok() ? old_bytes : uploader.bytes());
  return status;
}

absl::Status DeviceExperts::AllocateScratch() {
  ExpertSlots widest;  // whatever is held now, a layer may get all experts later
  widest.slots = experts_;
  widest.hidden = hidden_;
  widest.intermediate = intermediate_;
  const int64_t workspace =
      memory_.accelerator().ExpertWorkspaceBytes(options_.compute, options_.pairs_max, widest);
  const int64_t row_bytes = hidden_ * int64_t{SizeOf(row_dtype_)};
  const int64_t staging = DeviceMemory::Rounded(options_.rows_max * row_bytes) +
                          DeviceMemory::Rounded(options_.pairs_max * row_bytes) +
                          DeviceMemory::Rounded(2 * options_.pairs_max * int64_t{sizeof(int32_t)});
  RETURN_IF_ERROR(memory_.Reserve("expert workspace", DeviceMemory::Rounded(workspace) + staging));
  ASSIGN_OR_RETURN(workspace_, memory_.Allocate(workspace));
  ASSIGN_OR_RETURN(rows_, memory_.Allocate(options_.rows_max * row_bytes));
  ASSIGN_OR_RETURN(out_, memory_.Allocate(options_.pairs_max * row_bytes));
  ASSIGN_OR_RETURN(pairs_, memory_.Allocate(2 * options_.pairs_max * int64_t{sizeof(int32_t)}));
  host_pairs_.resize(2 * options_.pairs_max);
  return absl::OkStatus();
}

bool DeviceExperts::Holds(LayerId layer, int32_t expert) const {
  if (Value(layer) < 0 || Value(layer) >= static_cast<int>(layers_.size())) return false;
  const std::vector<int32_t>& slot_of = layers_[Value(layer)]->slot_of;
  return expert >= 0 && expert < static_cast<int>(slot_of.size()) && slot_of[expert] >= 0;
}

ExpertFfnArgs DeviceExperts::Arguments(const Layer& layer) const {
  ExpertFfnArgs args;
  args.compute = options_.compute;
  args.row_dtype = row_dtype_;
  args.slot_of = layer.slot_of_device;
  args.experts = experts_;
  args.top_k = top_k_;
  args.slots = layer.slots;
  args.workspace = workspace_.as<void>();
  return args;
}

void DeviceExperts::Queue(LayerId layer, const void* rows, const int32_t* pair_experts, const CombineArgs& combine,
                          void* scratch) {
  CONCLAVE_CHECK(combine.rows * combine.top_k <= options_.pairs_max) << combine.rows << " rows of " << combine.top_k;
  ExpertFfnArgs args = Arguments(*layers_[Value(layer)]);
  args.rows = rows;
  args.top_k = combine.top_k;
  args.pair_experts = pair_experts;
  args.pairs = combine.rows * combine.top_k;
  args.out = scratch;
  args.combined = true;
  args.combine = combine;
  memory_.accelerator().RunExperts(args);
}

absl::Status DeviceExperts::Run(LayerId layer, ConstMatView rows, absl::Span<const uint32_t> row_offsets,
                                absl::Span<const int32_t> experts, MatView out,
                                const std::function<void(int64_t)>& landed) {
  const int64_t pairs = static_cast<int64_t>(experts.size());
  CONCLAVE_CHECK(rows.rows <= options_.rows_max && pairs <= options_.pairs_max) << rows.rows << " rows";
  CONCLAVE_CHECK(rows.dtype == row_dtype_ && out.dtype == row_dtype_ && out.rows == pairs) << Name(rows.dtype);
  CONCLAVE_CHECK(rows.stride == hidden_ && out.stride == hidden_ && rows.device == out.device) << rows.stride;
  if (pairs == 0) return absl::OkStatus();
  std::copy(experts.begin(), experts.end(), host_pairs_.begin());
  for (size_t row = 0; row + 1 < row_offsets.size(); ++row) {
    std::fill(host_pairs_.begin() + pairs + row_offsets[row], host_pairs_.begin() + pairs + row_offsets[row + 1],
              static_cast<int32_t>(row));
  }
  Accelerator& accelerator = memory_.accelerator();
  const int64_t row_bytes = hidden_ * int64_t{SizeOf(row_dtype_)};
  accelerator.CopyIn(pairs_.as<void>(), host_pairs_.data(), 2 * pairs * int64_t{sizeof(int32_t)});
  const bool staged = rows.device == Device::kCpu;
  if (staged) accelerator.CopyIn(rows_.as<void>(), rows.data, rows.rows * row_bytes);
  ExpertFfnArgs args = Arguments(*layers_[Value(layer)]);
  args.rows = staged ? rows_.as<void>() : rows.data;
  args.pair_experts = pairs_.as<int32_t>();
  args.pair_rows = pairs_.as<int32_t>() + pairs;
  args.pairs = pairs;
  args.out = staged ? out_.as<void>() : out.data;
  accelerator.RunExperts(args);
  return staged ? results_.Out(out.data, out_.as<void>(), pairs * row_bytes, landed) : accelerator.Synchronize();
}

}  // namespace conclave
