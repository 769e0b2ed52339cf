// Keeps the experts of a pool of shards where the load is: asks the shards what they hold and ran, plans, and has them
// load and unload, round after round.
//
// It keeps no state that matters: what is held is what shards say, and all that a round knows beyond that is what the
// round before saw. So it may die at any moment, and two may run at once; whatever they do, an expert that has a holder
// keeps one:
// - A shard lets an expert go only to make room for another one, and only where a second shard was seen to hold it in
//   this round and in the one before, so that attention services have had time to hear of that one.
// - That second shard must confirm it, and then the first must let it go, both at the revision at which this round
//   described them; each of the two changes the revision (ExpertService in protos/conclave/v1/expert.proto). A shard of
//   a release that lets nothing go is not asked.
// Attention services need not be told anything: a shard that holds something else than they think says so to the next
// call.
#ifndef CONCLAVE_PLACEMENT_SERVICE_CONTROLLER_H_
#define CONCLAVE_PLACEMENT_SERVICE_CONTROLLER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "moe/base/clock.h"
#include "moe/base/ids.h"
#include "moe/metrics/metrics.h"
#include "moe/placement/placement.h"
#include "moe/transport/holdings_control.h"
#include "placement_service/controller_metrics.h"
#include "placement_service/load_meter.h"
#include "placement_service/pool_plan.h"

namespace conclave {

struct ControllerOptions {
  PoolPlanOptions plan;                           // its moves_max: of one round
  absl::Duration half_life = absl::Seconds(60);   // of what experts had to do
  int64_t bytes_per_second = int64_t{256} << 20;  // of experts loaded, over all shards and in the long run; 0: any
  bool dry_run = false;                           // changes nothing
  // One round and no more: plans by what shards have counted since their start, and takes them to be known to others.
  bool once = false;
  absl::Duration ask_timeout = absl::Seconds(2);    // of a question
  absl::Duration load_timeout = absl::Seconds(60);  // of the loads of one shard in one round
  Clock* clock = Clock::Real();
  Metrics* metrics = nullptr;
};

// What became of a round.
enum class RoundOutcome {
  kBalanced,  // nothing is worth a move
  kMoved,     // something was loaded
  kPlanned,   // something would have been: a dry run
  kWaiting,   // shards come and go, or have yet to say what they hold
  kYielded,   // somebody else moves experts too; nothing of that was done
  kFailed,    // no shard answered, or what was planned failed
};
const char* Name(RoundOutcome outcome);

// All that a round saw and did.
struct RoundReport {
  RoundOutcome outcome = RoundOutcome::kWaiting;
  std::string why;  // of kWaiting, kYielded and kFailed
  Pool pool;
  PoolPlan plan;
  int loaded = 0, unloaded = 0;
};

// Used by one thread. No shard can keep a round for longer than ask_timeout with each question, or load_timeout while
// it loads; the first change that fails ends the round.
class Controller {
 public:
  using Connect = std::function<std::unique_ptr<HoldingsControl>(const std::string& address)>;
  Controller(ControllerOptions options, Connect connect);

  // Asks the shards at `addresses`, and has them do what is planned.
  RoundReport Round(const std::vector<std::string>& addresses);

 private:
  using Held = std::set<std::tuple<std::string, LayerId, ExpertId>>;  // address, layer, expert
  using Batches = std::map<int32_t, std::vector<LayerHolding>>;       // by place in the list of shards

  // A shard at an address of the last round's.
  struct Listed {
    std::unique_ptr<HoldingsControl> control;
    absl::Time full_until = absl::InfinitePast();   // it refused to load for want of room
    absl::Time fixed_until = absl::InfinitePast();  // it failed a change for another reason of its own
  };

  // Fills in `report`; false: the round ends here, and why.
  bool Observe(const std::vector<std::string>& addresses, RoundReport& report);
  void MeasureLoads(Pool& pool, absl::Time now);
  int MovesAllowed(const Pool& pool, absl::Time now);
  void CarryOut(RoundReport& report);
  bool LetGo(RoundReport& report, const std::vector<PoolMove>& moves);
  void Load(RoundReport& report, const std::vector<PoolMove>& moves);
  void Settle(RoundReport& report, const absl::Status& failure, absl::Time* pause_until);
  Listed& Shard(const Pool& pool, int32_t shard) { return listed_.at(pool.shards[shard].address); }

  const ControllerOptions options_;
  const Connect connect_;
  LoadMeter meter_;
  ControllerMetrics metrics_;
  std::map<std::string, Listed> listed_;
  std::set<std::string> answered_;                // in the round before
  Held held_;                                     // in this round
  Held known_;                                    // in the round before
  bool was_complete_ = false;                     // every expert has had a holder
  double credit_bytes_ = 0;                       // may be loaded now
  absl::Time credit_at_ = absl::InfinitePast();
};

}  // namespace conclave

#endif  // CONCLAVE_PLACEMENT_SERVICE_CONTROLLER_H_
