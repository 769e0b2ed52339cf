// Which shards there are, what they hold and whether they can be reached: learnt from their descriptions, which are
// asked for again whenever something went wrong. It keeps the placement, and finds new holders for experts that have
// lost theirs.
#ifndef CONCLAVE_ROUTER_SERVICE_SHARD_MEMBERSHIP_H_
#define CONCLAVE_ROUTER_SERVICE_SHARD_MEMBERSHIP_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "moe/base/ids.h"
#include "moe/metrics/metrics.h"
#include "moe/placement/placement.h"
#include "moe/transport/expert_handler.h"
#include "moe/transport/shard_control.h"

namespace conclave {

// What every shard must be, and the shape of the model.
struct MembershipOptions {
  ShardDescription expected;          // fingerprint, profile, hidden and row dtype
  bool allow_mixed_numerics = false;  // profiles may differ
  std::vector<LayerId> layers;        // with experts, ascending
  int experts = 0;                    // of each of them
  Metrics* metrics = nullptr;
};

// FAILED_PRECONDITION says in a sentence how the shard does not fit and what to do.
absl::Status CheckShard(const ShardDescription& shard, const MembershipOptions& options);

// placement() and holdings() are for any thread, all else for the engine's.
class ShardMembership {
 public:
  // How long a question may take: a shard that does not answer it counts as gone.
  static constexpr absl::Duration kAskTimeout = absl::Seconds(1);
  // A shard that loads maps files and reads them later. One that takes longer may finish all the same; meanwhile
  // another is asked.
  static constexpr absl::Duration kLoadTimeout = absl::Seconds(2);

  // shards[i] is what ShardId{i} said of itself; hidden 0: nothing yet, and it counts as gone. `control` null: shards
  // that are gone are taken back after a while without being asked. It must outlive this.
  // FAILED_PRECONDITION as CheckShard; INVALID_ARGUMENT as Placement::Create.
  static absl::StatusOr<std::unique_ptr<ShardMembership>> Create(const std::vector<ShardDescription>& shards,
                                                                 ShardControl* control,
                                                                 const MembershipOptions& options);

  // Whether it answered last.
  bool Up(ShardId shard) const { return members_[Value(shard)].up; }
  // Whether calls may go there.
  bool Usable(ShardId shard) const { return members_[Value(shard)].up && !members_[Value(shard)].stale; }
  // Whether the shard cannot be reached, and a question to it has confirmed that.
  bool Gone(ShardId shard) const { return !members_[Value(shard)].up && members_[Value(shard)].failed_asks > 0; }
  uint64_t epoch(ShardId shard) const { return members_[Value(shard)].description.placement_epoch; }
  const std::string& name(ShardId shard) const { return members_[Value(shard)].description.name; }
  bool HasLayer(LayerId layer) const { return current_->HasLayer(layer); }
  // The shards that said last that they hold the expert, gone ones among them.
  absl::Span<const ShardId> Holders(LayerId layer, ExpertId expert) const { return current_->Holders(layer, expert); }

  // What calls found out.
  void OnAnswered(ShardId shard);                                      // it works
  void OnUnreachable(ShardId shard, const absl::Status& why, absl::Time now);  // it is gone
  void OnStale(ShardId shard, absl::Time now);    // it holds something else than we think
  void OnSuspect(ShardId shard, absl::Time now);  // is it still there?
  // Whatever it says, call after call fails: until one is answered, others may take over.
  void OnUseless(ShardId shard);

  // Asks what is due and takes the answers that have come. True: some shard is usable now, gone now, or holds other
  // experts than before.
  bool Poll(absl::Time now);
  // When Poll has something to ask; InfiniteFuture: nothing.
  absl::Time due() const;
  bool waiting() const { return waiting_ > 0; }
  // Asks shards that are up to hold all experts whose holders are all gone or useless. What is being loaded already is
  // not asked for again.
  void LoadOrphans(absl::Time now);

  std::shared_ptr<const Placement> placement() const;
  std::vector<ShardHoldings> holdings() const;
  uint64_t loads() const { return loads_; }  // experts asked for so far

 private:
  struct Member {
    ShardDescription description;
    bool known = false, up = false, stale = false, useless = false;
    bool asked = false;
    absl::Time ask_at = absl::InfiniteFuture();
    absl::Duration pause;                         // before the next question
    int failed_asks = 0;                          // since it was up
    bool may_have_taken = false;                  // what another one holds no more; it is being asked
    bool loading = false;                         // a LoadExperts is on its way
    absl::Time load_again_at = absl::InfinitePast();  // it refused, or failed
  };
  ShardMembership(ShardControl* control, const MembershipOptions& options);
  void Ask(ShardId shard, absl::Time now);
  bool TakeNews(ShardNews news, absl::Time now);
  bool TakeDescription(ShardId shard, ShardDescription description, absl::Time now);
  void AskWhoTookIt(ShardId from, absl::Time now);
  bool TakeFailure(ShardId shard, const absl::Status& status, absl::Time now);
  // Whether all holders are gone, or useless where those count.
  bool Orphaned(LayerId layer, ExpertId expert, bool useless_too) const;
  absl::Status Rebuild();
  void ShowGauges();

  ShardControl* const control_;
  const MembershipOptions options_;
  std::vector<Member> members_;
  std::shared_ptr<const Placement> current_;  // the engine's own handle on placement_
  uint64_t generation_ = kStaticPlacementEpoch - 1;
  int waiting_ = 0;
  uint64_t loads_ = 0;
  Counter* loads_total_ = nullptr;
  Gauge* orphans_ = nullptr;
  std::vector<Gauge*> epochs_;

  mutable std::mutex mutex_;
  std::shared_ptr<const Placement> placement_;  // guarded by mutex_
  std::vector<ShardHoldings> holdings_;         // guarded by mutex_
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_SHARD_MEMBERSHIP_H_
