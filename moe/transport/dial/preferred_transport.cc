#include "moe/transport/dial/preferred_transport.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "moe/base/check.h"
#include "moe/base/log.h"

namespace conclave {
namespace {

// Calls over both at once are rare, and waiting for two things at once is not possible: each gets a turn of this long.
constexpr absl::Duration kTurn = absl::Microseconds(100);
// How often the fast one may work on its connections while only the fallback has calls.
constexpr absl::Duration kFallbackTurn = absl::Milliseconds(5);

class PreferredTransport final : public Transport {
 public:
  PreferredTransport(std::unique_ptr<UcxTransport> fast, std::unique_ptr<Transport> fallback,
                     std::unique_ptr<StagedCalls> staged)
      : staged_(std::move(staged)),
        fast_(std::move(fast)),
        fallback_(std::move(fallback)),
        over_fast_(fast_->shards()) {
    CONCLAVE_CHECK(fast_->shards() == fallback_->shards()) << fast_->shards() << " and " << fallback_->shards();
    for (int i = 0; i < shards(); ++i) over_fast_[i] = fast_->Connected(ShardId{i});
  }

  void Call(ShardId shard, const ExpertCall& call, MatView out, ExpertCallDone done) override {
    const bool known = Value(shard) >= 0 && Value(shard) < shards();
    const bool fast = known && fast_->Connected(shard);
    if (known && over_fast_[Value(shard)] != fast) Note(shard, fast);
    ++(fast ? fast_calls_ : fallback_calls_);
    if (!fast && call.rows.device == Device::kCuda && staged_ != nullptr) {
      return staged_->Call(*fallback_, shard, call, out, std::move(done));
    }
    (fast ? *fast_ : *fallback_).Call(shard, call, out, std::move(done));
  }

  void Cancel(uint64_t call_id) override {
    fast_->Cancel(call_id);
    fallback_->Cancel(call_id);
  }

  int Progress(absl::Duration wait) override {
    if (fallback_calls_ == 0) return FastProgress(wait);
    const absl::Time until = absl::Now() + std::min(wait, absl::Hours(1));
    while (true) {
      int ran = FastProgress(absl::ZeroDuration());
      const absl::Duration left = std::max(until - absl::Now(), absl::ZeroDuration());
      const absl::Duration turn = fast_calls_ > 0 ? kTurn : kFallbackTurn;
      const int slow = fallback_->Progress(ran > 0 ? absl::ZeroDuration() : std::min(left, turn));
      fallback_calls_ -= slow;
      ran += slow;
      if (ran > 0 || absl::Now() >= until) return ran;
    }
  }

  int shards() const override { return fast_->shards(); }
  Device rows_device() const override { return fast_->rows_device(); }
  const char* Way(ShardId shard) const override {
    return Value(shard) >= 0 && Value(shard) < shards() && over_fast_[Value(shard)] ? "ucx" : "grpc";
  }

 private:
  int FastProgress(absl::Duration wait) {
    const int ran = fast_->Progress(wait);
    fast_calls_ -= ran;
    return ran;
  }

  void Note(ShardId shard, bool fast) {
    over_fast_[Value(shard)] = fast;
    LogInfo(fast ? absl::StrCat("shard ", Value(shard), ": activations over ucx (", fast_->Wires(shard), ") again")
                 : absl::StrCat("shard ", Value(shard),
                                ": activations over grpc for now: ", std::string(fast_->WhyNot(shard).message())));
  }

  // Every call ends in a Done that Progress counts, so that these tell how many are in flight.
  int fast_calls_ = 0, fallback_calls_ = 0;
  const std::unique_ptr<StagedCalls> staged_;
  const std::unique_ptr<UcxTransport> fast_;
  const std::unique_ptr<Transport> fallback_;
  std::vector<bool> over_fast_;  // by shard, at its last call
};

}  // namespace

std::unique_ptr<Transport> NewPreferredTransport(std::unique_ptr<UcxTransport> fast,
                                                 std::unique_ptr<Transport> fallback,
                                                 std::unique_ptr<StagedCalls> staged) {
  return std::make_unique<PreferredTransport>(std::move(fast), std::move(fallback), std::move(staged));
}

}  // namespace conclave
