#include "moe/model/device/device_expert_pool.h"

#include <utility>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/tensor/row_format.h"

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
    : experts_(std::move(experts)), calls_(kernels, experts_->row_dtype(), RowFormat::kCompute, rows_max, hidden) {}

absl::StatusOr<ExpertTicket> DeviceExpertPool::Start(LayerId layer, ConstMatView x, const Routing& routing) {
  if (x.rows > calls_.rows_max()) {
    return absl::ResourceExhaustedError(absl::StrCat(x.rows, " rows; the pool holds ", calls_.rows_max()));
  }
  for (const int32_t expert : routing.experts) {
    if (experts_->Holds(layer, expert)) continue;
    return absl::InvalidArgumentError(absl::StrCat("layer ", Value(layer), " has no expert ", expert));
  }
  return calls_.Add(layer, x, routing);
}

absl::Status DeviceExpertPool::Finish(ExpertTicket ticket, MatView out) {
  const PendingCall call = calls_.Take(ticket);
  return experts_->Run(call.layer, calls_.RoundedRows(call), calls_.RowOffsets(call), call.routing.experts, out);
}

}  // namespace conclave
