#include "moe/model/device/device_expert_pool.h"

#include <algorithm>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/base/status_macros.h"

namespace conclave {

absl::StatusOr<std::unique_ptr<DeviceExpertPool>> DeviceExpertPool::Create(const Checkpoint& checkpoint,
                                                                           const Kernels& kernels, int rows_max,
                                                                           DeviceMemory& memory) {
  if (rows_max < 1) return absl::InvalidArgumentError(absl::StrCat("rows_max: ", rows_max, " is not positive"));
  const ModelSpec& spec = checkpoint.spec();
  std::vector<LayerHolding> holdings;
  for (int layer = 0; layer < spec.layers; ++layer) {
    if (spec.IsMoe(LayerId{layer})) holdings.push_back({LayerId{layer}, ExpertsOfShard(spec.gate.experts, 0, 1)});
  }
  DeviceExpertsOptions options;
  options.compute = kernels.compute;
  options.rows_max = rows_max;
  options.pairs_max = int64_t{rows_max} * spec.gate.top_k;
  ASSIGN_OR_RETURN(auto experts, DeviceExperts::Create(checkpoint, holdings, options, memory, {}));
  return absl::WrapUnique(new DeviceExpertPool(kernels, rows_max, spec.hidden, std::move(experts)));
}

DeviceExpertPool::DeviceExpertPool(const Kernels& kernels, int rows_max, int hidden,
                                   std::unique_ptr<DeviceExperts> experts)
    : kernels_(kernels),
      experts_(std::move(experts)),
      rows_(experts_->row_dtype(), rows_max, hidden),
      row_offsets_(rows_max + 1) {}

absl::StatusOr<ExpertTicket> DeviceExpertPool::Start(LayerId layer, ConstMatView x, const Routing& routing) {
  if (x.rows > rows_.view().rows) {
    return absl::ResourceExhaustedError(absl::StrCat(x.rows, " rows; the pool holds ", rows_.view().rows));
  }
  CONCLAVE_CHECK(x.cols == rows_.view().cols && x.dtype == DType::kF32) << Name(x.dtype) << " of " << x.cols;
  for (const int32_t expert : routing.experts) {
    if (experts_->Holds(layer, expert)) continue;
    return absl::InvalidArgumentError(absl::StrCat("layer ", Value(layer), " has no expert ", expert));
  }
  auto call = std::find_if(calls_.begin(), calls_.end(), [](const Call& each) { return each.id == 0; });
  if (call == calls_.end()) {
    return absl::ResourceExhaustedError(absl::StrCat(kTicketsMax, " tickets are in flight already"));
  }
  *call = Call{++last_id_, layer, x, routing};
  return ExpertTicket{last_id_};
}

absl::Status DeviceExpertPool::Finish(ExpertTicket ticket, MatView out) {
  auto found = std::find_if(calls_.begin(), calls_.end(), [&](const Call& each) { return each.id == ticket.id; });
  CONCLAVE_CHECK(ticket.id != 0 && found != calls_.end()) << "ticket " << ticket.id << " is not in flight";
  const Call call = *found;
  found->id = 0;
  kernels_.convert(call.x, rows_.first(call.x.rows));
  for (int64_t row = 0; row <= call.x.rows; ++row) row_offsets_[row] = static_cast<uint32_t>(row * call.routing.top_k);
  return experts_->Run(call.layer, rows_.first(call.x.rows),
                       absl::MakeConstSpan(row_offsets_).first(call.x.rows + 1), call.routing.experts, out);
}

}  // namespace conclave
