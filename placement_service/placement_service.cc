#include "placement_service/placement_service.h"

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <iostream>
#include <memory>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "moe/base/log.h"
#include "moe/base/status_macros.h"
#include "moe/daemon/peer_list.h"
#include "moe/metrics/metrics.h"
#include "moe/transport/grpc/grpc_holdings_control.h"
#include "placement_service/controller.h"
#include "placement_service/plan_table.h"

namespace conclave {
namespace {

ControllerOptions OptionsOf(const PlacementServiceOptions& options, Metrics* metrics) {
  ControllerOptions controller;
  controller.plan.gain_min = options.gain;
  controller.plan.spare = options.spare;
  controller.plan.moves_max = options.max_moves;
  controller.half_life = options.half_life;
  controller.bytes_per_second = options.load_rate;
  controller.dry_run = options.dry_run;
  controller.once = options.once;
  controller.metrics = metrics;
  return controller;
}

// Rounds in a thread of its own, from creation until the object goes; a round under way is then finished first.
class Rounds {
 public:
  Rounds(Controller& controller, const PeerList& peers, absl::Duration interval)
      : thread_([this, &controller, &peers, interval] { Work(controller, peers, interval); }) {}
  ~Rounds() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    stopped_.notify_one();
    thread_.join();
  }

 private:
  void Work(Controller& controller, const PeerList& peers, absl::Duration interval) {
    std::unique_lock<std::mutex> lock(mutex_);
    absl::Time next = absl::Now();
    while (!stopped_.wait_until(lock, absl::ToChronoTime(next), [&] { return stop_; })) {
      lock.unlock();
      next = absl::Now() + interval;
      controller.Round(peers.Addresses());
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable stopped_;
  bool stop_ = false;  // guarded by mutex_
  std::thread thread_;  // last: it uses the others
};

}  // namespace

void PlacementServiceOptions::AddTo(Flags& flags) {
  flags.Add("shard", &shards,
            "host:port of an expert shard, or dns:///host:port or file:///path for all that are there, now and later");
  flags.Add("discovery-interval", &discovery_interval, "how often dns:/// and file:/// are looked up");
  flags.Add("interval", &interval, "how often shards are asked and experts moved");
  flags.Add("half-life", &half_life, "after this time tokens count half as much for the load of an expert");
  flags.Add("gain", &gain, "the least share by which a plan must lower a layer's busiest shard over the mean");
  flags.Add("spare", &spare,
            "copies beyond --replicas of the shards, as a share of the experts, for shards without --expert-memory");
  flags.Add("max-moves", &max_moves, "experts loaded in one round");
  flags.AddBytes("load-rate", &load_rate, "bytes of experts loaded a second, over all shards; 0: no limit");
  flags.Add("once", &once, "do one round, by what shards have run since they started, print it and end");
  flags.Add("dry-run", &dry_run, "plan and move nothing");
  shard_tls.AddTo(flags);
  daemon.AddTo(flags);
}

absl::Status PlacementServiceOptions::Validate() const {
  if (shards.empty()) {
    return absl::InvalidArgumentError("--shard: missing; give each shard's address, or dns:///NAME:PORT for all");
  }
  if (const absl::Status valid = CheckPeers(shards); !valid.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--shard: ", valid.message()));
  }
  for (const auto& [flag, value] : {std::pair("interval", interval), std::pair("half-life", half_life),
                                    std::pair("discovery-interval", discovery_interval)}) {
    if (value > absl::ZeroDuration()) continue;
    return absl::InvalidArgumentError(absl::StrCat("--", flag, ": must be positive"));
  }
  if (!(gain >= 0 && gain < 1)) return absl::InvalidArgumentError(absl::StrCat("--gain: ", gain, " is not in [0, 1)"));
  if (!(spare >= 0 && spare <= 16)) {
    return absl::InvalidArgumentError(absl::StrCat("--spare: ", spare, " is not in [0, 16]"));
  }
  if (max_moves < 1 || max_moves > 100'000) {
    return absl::InvalidArgumentError(absl::StrCat("--max-moves: ", max_moves, " is not in [1, 100000]"));
  }
  if (load_rate < 0) return absl::InvalidArgumentError("--load-rate: must not be negative");
  return CheckTls(shard_tls);
}

absl::Status RunPlacementService(const PlacementServiceOptions& options) {
  RETURN_IF_ERROR(options.Validate());
  const auto metrics = Metrics::Create();
  std::unique_ptr<Daemon> daemon;
  if (!options.once) {
    ASSIGN_OR_RETURN(daemon, Daemon::Create(options.daemon, {}, *metrics));
  }
  ASSIGN_OR_RETURN(const auto credentials, NewChannelCredentials(options.shard_tls, metrics.get()));
  Controller controller(OptionsOf(options, metrics.get()), [&](const std::string& address) {
    return NewGrpcHoldingsControl(address, credentials);
  });
  const std::unique_ptr<PeerList> peers = PeerList::Start(options.shards, options.discovery_interval);
  if (options.once) {
    const RoundReport report = controller.Round(peers->Addresses());
    std::cout << PlanTable(report) << std::flush;
    const bool failed = report.outcome == RoundOutcome::kFailed || report.outcome == RoundOutcome::kYielded;
    return failed ? absl::UnavailableError(report.why) : absl::OkStatus();
  }
  Rounds rounds(controller, *peers, options.interval);
  daemon->SetServing(true);
  LogInfo(absl::StrCat("a round every ", absl::FormatDuration(options.interval),
                       options.dry_run ? ", which moves nothing (--dry-run)" : ""));
  return daemon->Run([](absl::Time) {});
}

}  // namespace conclave
