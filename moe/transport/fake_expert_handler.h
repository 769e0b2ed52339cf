// A shard for tests: its experts compute a function that is known, and it can be told to hang.
#ifndef CONCLAVE_MOE_TRANSPORT_FAKE_EXPERT_HANDLER_H_
#define CONCLAVE_MOE_TRANSPORT_FAKE_EXPERT_HANDLER_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moe/transport/expert_handler.h"
#include "moe/transport/transport.h"

namespace conclave {

// What expert `expert` of layer `layer` makes of `value`: value * (expert + 1) + layer.
float FakeExpertValue(float value, LayerId layer, int32_t expert);

// Thread-safe.
class FakeExpertHandler final : public ExpertHandler {
 public:
  explicit FakeExpertHandler(ShardDescription description) : description_(std::move(description)) {}
  // Holds experts [0, experts) of layer 0, takes rows of `hidden` F32 columns, where `hidden` is 0: of any dtype and
  // width.
  FakeExpertHandler(std::string name, int hidden, int experts);

  ShardDescription Describe() const override;
  absl::Status Run(const ExpertCall& call, MatView out) override;
  absl::StatusOr<ShardDescription> LoadExperts(absl::Span<const LayerHolding> experts) override;
  // Whatever the revision.
  absl::StatusOr<ShardDescription> UnloadExperts(absl::Span<const LayerHolding> experts, uint64_t revision) override;

  // From now on calls of another placement epoch than the description's are refused.
  void CheckEpochs() { checks_epochs_ = true; }
  // Until Resume, Run waits before it computes.
  void Hang();
  void Resume();
  // Every Run fails with `status` until it is OK again.
  void FailWith(absl::Status status);
  // How many Runs have begun.
  int runs() const { return runs_; }
  // How many rows of successful Runs went to the expert.
  int64_t tokens(LayerId layer, int32_t expert) const;

 private:
  bool Holds(LayerId layer, int32_t expert) const;

  std::atomic<int> runs_{0};
  std::atomic<bool> checks_epochs_{false};
  mutable std::mutex mutex_;
  ShardDescription description_;  // guarded by mutex_
  std::condition_variable resumed_;
  bool hangs_ = false;    // guarded by mutex_
  std::map<std::pair<LayerId, int32_t>, int64_t> tokens_;  // guarded by mutex_
  absl::Status failure_;  // guarded by mutex_
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_FAKE_EXPERT_HANDLER_H_
