// A shard for tests: its experts compute a function that is known, and it can be told to hang.
#ifndef CONCLAVE_MOE_TRANSPORT_FAKE_EXPERT_HANDLER_H_
#define CONCLAVE_MOE_TRANSPORT_FAKE_EXPERT_HANDLER_H_

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
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

  ShardDescription Describe() const override { return description_; }
  absl::Status Run(const ExpertCall& call, MatView out) override;

  // Until Resume, Run waits before it computes.
  void Hang();
  void Resume();
  // Every Run fails with `status` until it is OK again.
  void FailWith(absl::Status status);
  // How many Runs have begun.
  int runs() const { return runs_; }

 private:
  bool Holds(LayerId layer, int32_t expert) const;

  const ShardDescription description_;
  std::atomic<int> runs_{0};
  std::mutex mutex_;
  std::condition_variable resumed_;
  bool hangs_ = false;    // guarded by mutex_
  absl::Status failure_;  // guarded by mutex_
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_FAKE_EXPERT_HANDLER_H_
