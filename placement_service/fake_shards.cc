#include "placement_service/fake_shards.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace conclave {

// One shard of them, as one controller sees it.
class FakeShardControl final : public HoldingsControl {
 public:
  FakeShardControl(FakeShards& pool, int shard, FakeShards::Fates fates)
      : pool_(pool), shard_(shard), fates_(std::move(fates)) {}

  absl::StatusOr<ShardState> Describe(absl::Duration) override {
    ShardState state;
    const auto told = Do(FakeShards::Call::kDescribe, [&]() -> absl::Status {
      for (int layer = 0; layer < pool_.layers_; ++layer) {
        state.tokens.push_back({LayerId{layer + 1}, pool_.shards_[shard_].tokens[layer]});
      }
      return absl::OkStatus();
    });
    if (!told.ok()) return told.status();
    state.description = *told;
    return state;
  }

  absl::StatusOr<ShardDescription> LoadExperts(absl::Span<const LayerHolding> experts, absl::Duration) override {
    return Do(FakeShards::Call::kLoad, [&]() -> absl::Status {
      FakeShards::Shard& shard = pool_.shards_[shard_];
      std::vector<std::set<int>> held = shard.held;
      size_t count = 0;
      for (const LayerHolding& holding : experts) {
        for (const ExpertId expert : holding.experts) held[Value(holding.layer) - 1].insert(Value(expert));
      }
      for (const auto& layer : held) count += layer.size();
      if (held != shard.held && static_cast<int>(count) > shard.limit) return absl::ResourceExhaustedError("no room");
      shard.held = held;
      return absl::OkStatus();
    });
  }

  absl::StatusOr<ShardDescription> KeepExperts(absl::Span<const LayerHolding> experts, uint64_t revision,
                                               absl::Duration) override {
    return Do(FakeShards::Call::kKeep, [&]() -> absl::Status {
      if (absl::Status status = pool_.CheckHeld(shard_, experts, revision); !status.ok()) return status;
      ++pool_.shards_[shard_].revision;
      return absl::OkStatus();
    });
  }

  absl::StatusOr<ShardDescription> UnloadExperts(absl::Span<const LayerHolding> experts, uint64_t revision,
                                                 absl::Duration) override {
    return Do(FakeShards::Call::kUnload, [&]() -> absl::Status {
      if (absl::Status status = pool_.CheckHeld(shard_, experts, revision); !status.ok()) return status;
      ++pool_.shards_[shard_].revision;
      for (const LayerHolding& holding : experts) {
        for (const ExpertId expert : holding.experts) {
          pool_.shards_[shard_].held[Value(holding.layer) - 1].erase(Value(expert));
          const auto& shards = pool_.shards_;
          pool_.lost_ += std::none_of(shards.begin(), shards.end(), [&](const FakeShards::Shard& other) {
            return other.alive && other.held[Value(holding.layer) - 1].count(Value(expert)) > 0;
          });
        }
      }
      return absl::OkStatus();
    });
  }

 private:
  absl::StatusOr<ShardDescription> Do(FakeShards::Call call, const std::function<absl::Status()>& work) {
    const FakeShards::Fate fate = fates_ == nullptr ? FakeShards::Fate::kDone : fates_(call, shard_);
    if (fate == FakeShards::Fate::kRefused) return absl::UnavailableError("cannot be reached");
    std::lock_guard<std::mutex> lock(pool_.mutex_);
    if (!pool_.shards_[shard_].alive) return absl::UnavailableError("it is dead");
    ++pool_.calls_[call];
    if (fate == FakeShards::Fate::kBroken) return absl::InternalError("it is broken");
    const bool change = call == FakeShards::Call::kKeep || call == FakeShards::Call::kUnload;
    if (change && pool_.shards_[shard_].revision == 0) return absl::UnimplementedError("it knows no such call");
    if (absl::Status status = work(); !status.ok()) return status;
    if (fate == FakeShards::Fate::kUnheard) return absl::DeadlineExceededError("no answer came");
    return pool_.Describe(shard_);
  }

  FakeShards& pool_;
  const int shard_;
  const FakeShards::Fates fates_;
};

FakeShards::FakeShards(int shards, int layers, int experts, int spare, int copies)
    : layers_(layers), experts_(experts), shards_(static_cast<size_t>(shards)) {
  for (int i = 0; i < shards; ++i) {
    Shard& shard = shards_[static_cast<size_t>(i)];
    shard.initial.resize(static_cast<size_t>(layers));
    for (auto& layer : shard.initial) {
      for (const ExpertId expert : ExpertsOfShard(experts, i, shards, copies)) layer.insert(Value(expert));
      shard.limit += static_cast<int>(layer.size()) + spare;
    }
    shard.held = shard.initial;
    shard.tokens.assign(static_cast<size_t>(layers), std::vector<uint64_t>(static_cast<size_t>(experts)));
    shard.counted_from = shard.tokens;
    shard.revision = 1000 * static_cast<uint64_t>(i) + 1;
  }
}

std::vector<std::string> FakeShards::addresses() const {
  std::vector<std::string> addresses;
  for (size_t i = 0; i < shards_.size(); ++i) addresses.push_back(absl::StrCat("shard-", i));
  return addresses;
}

std::unique_ptr<HoldingsControl> FakeShards::Connect(const std::string& address, Fates fates) {
  int shard = 0;
  (void)absl::SimpleAtoi(absl::StripPrefix(address, "shard-"), &shard);
  return std::make_unique<FakeShardControl>(*this, shard, std::move(fates));
}

ShardDescription FakeShards::Describe(int index) const {
  const Shard& shard = shards_[static_cast<size_t>(index)];
  ShardDescription description;
  description.name = absl::StrCat("expert-", index);
  description.model_fingerprint = "model";
  description.revision = shard.revision;
  description.experts_per_layer = experts_;
  int count = 0;
  for (int layer = 0; layer < layers_; ++layer) {
    LayerHolding holding{LayerId{layer + 1}, {}};
    for (const int expert : shard.held[static_cast<size_t>(layer)]) holding.experts.push_back(ExpertId{expert});
    count += static_cast<int>(holding.experts.size());
    description.holdings.push_back(holding);
  }
  description.expert_bytes = static_cast<uint64_t>(count * kExpertBytes);
  description.expert_bytes_max = static_cast<uint64_t>(shard.limit * kExpertBytes);
  return description;
}

absl::Status FakeShards::CheckHeld(int index, absl::Span<const LayerHolding> experts, uint64_t revision) const {
  const Shard& shard = shards_[static_cast<size_t>(index)];
  for (const LayerHolding& holding : experts) {
    for (const ExpertId expert : holding.experts) {
      if (shard.held[static_cast<size_t>(Value(holding.layer) - 1)].count(Value(expert)) == 0) {
        return absl::FailedPreconditionError("an expert is not held");
      }
    }
  }
  return revision == shard.revision ? absl::OkStatus() : absl::AbortedError("another revision");
}

void FakeShards::Serve(int layer, absl::Span<const double> tokens) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<double> loads(shards_.size());
  // Experts with one holder first, as attention services do it; the others in portions, each where there is least.
  for (const bool has_choice : {false, true}) {
    for (int expert = 0; expert < experts_; ++expert) {
      std::vector<size_t> holders;
      for (size_t i = 0; i < shards_.size(); ++i) {
        if (shards_[i].alive && shards_[i].held[layer - 1].count(expert) > 0) holders.push_back(i);
      }
      if (holders.empty() || (holders.size() > 1) != has_choice) continue;
      const double all = tokens[expert], portion = has_choice ? std::max(1.0, std::floor(all / 64)) : all;
      for (double left = all; left > 0; left -= portion) {
        const size_t to =
            *std::min_element(holders.begin(), holders.end(), [&](size_t a, size_t b) { return loads[a] < loads[b]; });
        shards_[to].tokens[layer - 1][expert] += static_cast<uint64_t>(std::min(left, portion));
        loads[to] += std::min(left, portion);
      }
    }
  }
}

void FakeShards::Die(int shard) {
  std::lock_guard<std::mutex> lock(mutex_);
  shards_[static_cast<size_t>(shard)].alive = false;
}

void FakeShards::ComeBack(int index) {
  std::lock_guard<std::mutex> lock(mutex_);
  Shard& shard = shards_[static_cast<size_t>(index)];
  shard.alive = true;
  shard.held = shard.initial;
  shard.revision += 1'000'000;
  shard.tokens.assign(static_cast<size_t>(layers_), std::vector<uint64_t>(static_cast<size_t>(experts_)));
  shard.counted_from = shard.tokens;
}

void FakeShards::MakeOld(int shard) {
  std::lock_guard<std::mutex> lock(mutex_);
  shards_[static_cast<size_t>(shard)].revision = 0;
}

void FakeShards::SetLimit(int shard, int experts) {
  std::lock_guard<std::mutex> lock(mutex_);
  shards_[static_cast<size_t>(shard)].limit = experts;
}

void FakeShards::Hold(int shard, int layer, int expert) {
  std::lock_guard<std::mutex> lock(mutex_);
  shards_[static_cast<size_t>(shard)].held[static_cast<size_t>(layer - 1)].insert(expert);
}

std::vector<int> FakeShards::HoldersOf(int layer, int expert) const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<int> holders;
  for (size_t i = 0; i < shards_.size(); ++i) {
    if (shards_[i].alive && shards_[i].held[static_cast<size_t>(layer - 1)].count(expert) > 0) {
      holders.push_back(static_cast<int>(i));
    }
  }
  return holders;
}

int FakeShards::Held(int shard) const {
  std::lock_guard<std::mutex> lock(mutex_);
  int count = 0;
  for (const auto& layer : shards_[static_cast<size_t>(shard)].held) count += static_cast<int>(layer.size());
  return count;
}

int FakeShards::lost() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return lost_;
}

double FakeShards::Imbalance() const {
  std::lock_guard<std::mutex> lock(mutex_);
  double sum = 0;
  for (int layer = 0; layer < layers_; ++layer) {
    std::vector<double> loads;
    for (const Shard& shard : shards_) {
      double& load = loads.emplace_back();
      for (int expert = 0; expert < experts_; ++expert) {
        load += static_cast<double>(shard.tokens[layer][expert] - shard.counted_from[layer][expert]);
      }
    }
    sum += MaxOverMean(loads);
  }
  return sum / layers_;
}

void FakeShards::Reset() {
  std::lock_guard<std::mutex> lock(mutex_);
  for (Shard& shard : shards_) shard.counted_from = shard.tokens;
}

int FakeShards::calls(Call call) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = calls_.find(call);
  return found == calls_.end() ? 0 : found->second;
}

}  // namespace conclave
