#include "moe/model/expert_weights.h"

#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"

namespace conclave {
int64_t StoredBytes(const FfnWeights& ffn) {
  return StoredBytes(ffn.gate) + StoredBytes(ffn.up) + StoredBytes(ffn.down);
}

ExpertWeightTable::ExpertWeightTable(const Checkpoint& checkpoint)
    : checkpoint_(checkpoint), experts_(int64_t{checkpoint.spec().layers} * checkpoint.spec().gate.experts) {}

bool ExpertWeightTable::Exists(LayerId layer, ExpertId expert) const {
  const ModelSpec& spec = checkpoint_.spec();
  return Value(layer) >= 0 && Value(layer) < spec.layers && spec.IsMoe(layer) && Value(expert) >= 0 &&
         Value(expert) < spec.gate.experts;
}

int64_t ExpertWeightTable::Index(LayerId layer, ExpertId expert) const {
  return int64_t{Value(layer)} * checkpoint_.spec().gate.experts + Value(expert);
}

absl::Status ExpertWeightTable::Add(LayerId layer, ExpertId expert) {
  const ModelSpec& spec = checkpoint_.spec();
  if (!Exists(layer, expert)) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer ", Value(layer), " has no routed expert ", Value(expert), " in ", checkpoint_.directory()));
  }
  std::optional<FfnWeights>& slot = experts_[Index(layer, expert)];
  if (slot.has_value()) return absl::OkStatus();
  ASSIGN_OR_RETURN(slot, LoadFfn(checkpoint_, ExpertPrefix(layer, expert), spec.hidden, spec.moe_intermediate));
  stored_bytes_ += StoredBytes(*slot);
  return absl::OkStatus();
}

absl::Status ExpertWeightTable::AddAll() {
  const ModelSpec& spec = checkpoint_.spec();
  for (int layer = 0; layer < spec.layers; ++layer) {
    if (!spec.IsMoe(LayerId{layer})) continue;
    for (int expert = 0; expert < spec.gate.experts; ++expert) {
      RETURN_IF_ERROR(Add(LayerId{layer}, ExpertId{expert}));
    }
  }
  return absl::OkStatus();
}

void ExpertWeightTable::Remove(LayerId layer, ExpertId expert) {
  if (!Exists(layer, expert)) return;
  std::optional<FfnWeights>& slot = experts_[Index(layer, expert)];
  if (slot.has_value()) stored_bytes_ -= StoredBytes(*slot);
  slot.reset();
}

const FfnWeights* ExpertWeightTable::Find(LayerId layer, ExpertId expert) const {
  if (!Exists(layer, expert)) return nullptr;
  const std::optional<FfnWeights>& slot = experts_[Index(layer, expert)];
  return slot.has_value() ? &*slot : nullptr;
}

}  // namespace conclave
