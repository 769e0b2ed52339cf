#include "moe/transport/fake_expert_handler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/placement/placement.h"
#include "moe/transport/validate_call.h"

namespace conclave {
namespace {

ShardDescription Simple(std::string name, int hidden, int experts) {
  ShardDescription description;
  description.name = std::move(name);
  description.model_fingerprint = "fake-model";
  description.numeric_profile = "fake-profile";
  description.placement_epoch = kStaticPlacementEpoch;
  description.hidden = hidden;
  description.row_dtype = DType::kF32;
  description.holdings.push_back({LayerId{0}, ExpertsOfShard(experts, 0, 1)});
  return description;
}

}  // namespace

float FakeExpertValue(float value, LayerId layer, int32_t expert) {
  return value * static_cast<float>(expert + 1) + static_cast<float>(Value(layer));
}

FakeExpertHandler::FakeExpertHandler(std::string name, int hidden, int experts)
    : FakeExpertHandler(Simple(std::move(name), hidden, experts)) {}

ShardDescription FakeExpertHandler::Describe() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return description_;
}

absl::StatusOr<ShardDescription> FakeExpertHandler::LoadExperts(absl::Span<const LayerHolding> experts) {
  std::lock_guard<std::mutex> lock(mutex_);
  ++description_.placement_epoch;
  for (const LayerHolding& asked : experts) {
    for (LayerHolding& held : description_.holdings) {
      if (held.layer != asked.layer) continue;
      held.experts.insert(held.experts.end(), asked.experts.begin(), asked.experts.end());
      std::sort(held.experts.begin(), held.experts.end());
      held.experts.erase(std::unique(held.experts.begin(), held.experts.end()), held.experts.end());
    }
  }
  return description_;
}

absl::StatusOr<ShardDescription> FakeExpertHandler::UnloadExperts(absl::Span<const LayerHolding> experts, uint64_t) {
  std::lock_guard<std::mutex> lock(mutex_);
  ++description_.placement_epoch;
  for (const LayerHolding& gone : experts) {
    for (LayerHolding& held : description_.holdings) {
      if (held.layer != gone.layer) continue;
      const auto goes = [&](ExpertId expert) {
        return std::find(gone.experts.begin(), gone.experts.end(), expert) != gone.experts.end();
      };
      held.experts.erase(std::remove_if(held.experts.begin(), held.experts.end(), goes), held.experts.end());
    }
  }
  return description_;
}

bool FakeExpertHandler::Holds(LayerId layer, int32_t expert) const {
  for (const LayerHolding& holding : description_.holdings) {
    if (holding.layer != layer) continue;
    for (const ExpertId held : holding.experts) {
      if (Value(held) == expert) return true;
    }
  }
  return false;
}

absl::Status FakeExpertHandler::Run(const ExpertCall& call, MatView out) {
  ++runs_;
  std::unique_lock<std::mutex> lock(mutex_);
  resumed_.wait(lock, [&] { return !hangs_; });
  if (!failure_.ok()) return failure_;
  CallLimits limits;
  limits.hidden = description_.hidden;
  RETURN_IF_ERROR(ValidateExpertCall(call, limits));
  RETURN_IF_ERROR(ValidateReplyView(call, out));
  RETURN_IF_ERROR(ValidateRowValues(call.rows));
  if (checks_epochs_ && call.placement_epoch != description_.placement_epoch) {
    return absl::FailedPreconditionError("placement_epoch: another");
  }
  for (const int32_t expert : call.experts) {
    if (!Holds(call.layer, expert)) {
      return absl::FailedPreconditionError(
          absl::StrCat(description_.name, ": layer ", Value(call.layer), " expert ", expert, " is not held here"));
    }
  }
  for (const int32_t expert : call.experts) ++tokens_[{call.layer, expert}];
  for (int64_t row = 0; row < call.rows.rows; ++row) {
    for (uint32_t p = call.row_offsets[row]; p < call.row_offsets[row + 1]; ++p) {
      for (int64_t c = 0; c < out.cols; ++c) {
        const float value = LoadAsFloat(call.rows.RowBytes(row), call.rows.dtype, c);
        const float result = FakeExpertValue(value, call.layer, call.experts[p]);
        if (out.dtype == DType::kF32) {
          out.Row<float>(p)[c] = result;
        } else {
          out.Row<uint16_t>(p)[c] = FloatToBf16(result);
        }
      }
    }
  }
  return absl::OkStatus();
}

int64_t FakeExpertHandler::tokens(LayerId layer, int32_t expert) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = tokens_.find({layer, expert});
  return found == tokens_.end() ? 0 : found->second;
}

void FakeExpertHandler::Hang() {
  std::lock_guard<std::mutex> lock(mutex_);
  hangs_ = true;
}

void FakeExpertHandler::Resume() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    hangs_ = false;
  }
  resumed_.notify_all();
}

void FakeExpertHandler::FailWith(absl::Status status) {
  std::lock_guard<std::mutex> lock(mutex_);
  failure_ = std::move(status);
}

}  // namespace conclave
