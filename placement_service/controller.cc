#include "placement_service/controller.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moe/base/log.h"
#include "moe/transport/shard_control.h"

namespace conclave {
namespace {

// A shard that refused for want of room is not asked to take more for so long, and one that failed a change for another
// reason of its own is asked for none.
constexpr absl::Duration kPause = absl::Seconds(60);

// Runs `work(i)` for all i < count at once, each on a thread of its own: each waits for a shard and does nothing else.
void OnThreads(size_t count, const std::function<void(size_t)>& work) {
  std::vector<std::thread> threads;
  for (size_t i = 0; i < count; ++i) threads.emplace_back([&work, i] { work(i); });
  for (std::thread& thread : threads) thread.join();
}

void AddTo(std::vector<LayerHolding>& batch, LayerId layer, ExpertId expert) {
  auto found = std::find_if(batch.begin(), batch.end(), [&](const LayerHolding& h) { return h.layer == layer; });
  if (found == batch.end()) found = batch.insert(batch.end(), LayerHolding{layer, {}});
  std::vector<ExpertId>& experts = found->experts;
  const auto at = std::lower_bound(experts.begin(), experts.end(), expert);
  if (at == experts.end() || *at != expert) experts.insert(at, expert);
}

int CountOf(absl::Span<const LayerHolding> batch) {
  int count = 0;
  for (const LayerHolding& holding : batch) count += static_cast<int>(holding.experts.size());
  return count;
}

std::string Format(absl::Span<const LayerHolding> batch) {
  std::string text;
  for (const LayerHolding& holding : batch) {
    absl::StrAppend(&text, text.empty() ? "" : "; ", "layer ", Value(holding.layer), ": ",
                    FormatExperts(holding.experts));
  }
  return text;
}

// What a round goes by must make sense whatever the peer sends. INVALID_ARGUMENT names the field.
absl::Status CheckState(const ShardState& state) {
  if (absl::Status status = CheckHoldings(state.description); !status.ok()) return status;
  for (const LayerTokens& counted : state.tokens) {
    const auto& holdings = state.description.holdings;
    const bool known = std::any_of(holdings.begin(), holdings.end(),
                                   [&](const LayerHolding& holding) { return holding.layer == counted.layer; });
    if (!known) return absl::InvalidArgumentError(absl::StrCat("tokens: there is no layer ", Value(counted.layer)));
  }
  return absl::OkStatus();
}

std::set<std::tuple<std::string, LayerId, ExpertId>> HeldIn(const Pool& pool) {
  std::set<std::tuple<std::string, LayerId, ExpertId>> held;
  for (const PoolShard& shard : pool.shards) {
    for (const LayerHolding& holding : shard.description.holdings) {
      for (const ExpertId expert : holding.experts) held.insert({shard.address, holding.layer, expert});
    }
  }
  return held;
}

}  // namespace

const char* Name(RoundOutcome outcome) {
  switch (outcome) {
    case RoundOutcome::kBalanced:
      return "balanced";
    case RoundOutcome::kMoved:
      return "moved";
    case RoundOutcome::kPlanned:
      return "planned";
    case RoundOutcome::kWaiting:
      return "waiting";
    case RoundOutcome::kYielded:
      return "yielded";
    case RoundOutcome::kFailed:
      return "failed";
  }
  return "";
}

Controller::Controller(ControllerOptions options, Connect connect)
    : options_(std::move(options)),
      connect_(std::move(connect)),
      meter_(options_.half_life, options_.once),
      metrics_(options_.metrics) {}

RoundReport Controller::Round(const std::vector<std::string>& addresses) {
  const absl::Time begin = options_.clock->Now();
  RoundReport report;
  if (Observe(addresses, report)) {
    PoolPlanOptions plan = options_.plan;
    if (!options_.dry_run) plan.moves_max = MovesAllowed(report.pool, begin);
    report.plan = PlanPool(report.pool, plan);
    metrics_.ShowPlan(report.plan);
    if (report.plan.moves.empty()) {
      const bool waits = report.plan.moves_left > 0 || report.pool.orphans > 0;
      report.outcome = waits ? RoundOutcome::kWaiting : RoundOutcome::kBalanced;
      if (waits) {
        report.why = report.plan.moves_left > 0
                         ? "no room, or --load-rate is used up"
                         : absl::StrCat(report.pool.orphans, " experts have no holder, and no shard has room for them");
      }
    } else if (options_.dry_run) {
      report.outcome = RoundOutcome::kPlanned;
    } else {
      CarryOut(report);
    }
  }
  const absl::Time end = options_.clock->Now();
  metrics_.EndRound(Name(report.outcome), end, end - begin);
  if (!report.why.empty()) LogInfo(absl::StrCat("round ", Name(report.outcome), ": ", report.why));
  return report;
}

bool Controller::Observe(const std::vector<std::string>& addresses, RoundReport& report) {
  for (auto it = listed_.begin(); it != listed_.end();) {
    const bool listed = std::find(addresses.begin(), addresses.end(), it->first) != addresses.end();
    it = listed ? std::next(it) : listed_.erase(it);
  }
  for (const std::string& address : addresses) {
    auto& control = listed_[address].control;
    if (control == nullptr) control = connect_(address);
  }
  std::vector<absl::StatusOr<ShardState>> states(addresses.size(), absl::UnknownError(""));
  OnThreads(addresses.size(),
            [&](size_t i) { states[i] = listed_.at(addresses[i]).control->Describe(options_.ask_timeout); });
  meter_.Keep(addresses);

  const absl::Time now = options_.clock->Now();
  std::vector<PoolShard> shards;
  std::set<std::string> answered;
  std::string silent;
  bool loading = false;
  for (size_t i = 0; i < addresses.size(); ++i) {
    if (states[i].ok()) {
      if (const absl::Status sense = CheckState(*states[i]); !sense.ok()) {
        states[i] = absl::Status(sense.code(), absl::StrCat("shard at ", addresses[i], ": ", sense.message()));
        LogWarning(absl::StrCat(states[i].status().message(), "; it is left alone"));
      }
    }
    if (!states[i].ok()) {
      silent = std::string(states[i].status().message());
      loading = loading || absl::StrContains(silent, kShardNotReady);
      continue;
    }
    meter_.Read(addresses[i], states[i]->tokens, now);
    const Listed& listed = listed_.at(addresses[i]);
    shards.push_back({addresses[i], std::move(states[i]->description), now < listed.full_until,
                      now < listed.fixed_until});
    answered.insert(addresses[i]);
  }
  report.pool = MakePool(std::move(shards));
  if (report.pool.shards.size() < answered.size()) {
    LogWarning(absl::StrCat(answered.size() - report.pool.shards.size(), " shards serve another model than the one at ",
                            report.pool.shards[0].address, " and are left alone"));
  }
  MeasureLoads(report.pool, now);
  metrics_.ShowPool(report.pool, static_cast<int>(addresses.size() - answered.size()));
  Held held = HeldIn(report.pool);
  known_ = options_.once ? held : std::move(held_);
  held_ = std::move(held);
  const bool same = std::exchange(answered_, answered) == answered;
  was_complete_ = was_complete_ || (report.pool.orphans == 0 && !report.pool.shards.empty());
  if (report.pool.shards.empty()) {
    report.outcome = RoundOutcome::kFailed;
    report.why = addresses.empty() ? "no shard is listed" : absl::StrCat("no shard answers: ", silent);
  } else if (loading && report.pool.orphans == 0) {
    report.why = silent;
  } else if (report.pool.orphans > 0 && !was_complete_) {
    report.why = absl::StrCat(report.pool.orphans, " experts have no holder yet; waiting for the shards to come");
  } else if (!same && report.pool.orphans == 0 && !options_.once) {
    report.why = absl::StrCat("shards have come or gone; ", answered.size(), " of ", addresses.size(), " answer");
  } else {
    return true;
  }
  return false;
}

void Controller::MeasureLoads(Pool& pool, absl::Time now) {
  for (PoolLayer& layer : pool.layers) {
    for (size_t shard = 0; shard < pool.shards.size(); ++shard) {
      const std::vector<double> tokens = meter_.Tokens(pool.shards[shard].address, layer.layer, now);
      for (size_t expert = 0; expert < std::min(tokens.size(), layer.tokens.size()); ++expert) {
        layer.tokens[expert] += tokens[expert];
        layer.shard_tokens[shard] += tokens[expert];
      }
    }
  }
}

// By the bytes that may be loaded in the long run; at least now and then one, however large it is.
int Controller::MovesAllowed(const Pool& pool, absl::Time now) {
  const double bytes = static_cast<double>(pool.expert_bytes());
  if (options_.bytes_per_second == 0 || bytes == 0) return options_.plan.moves_max;
  const double most = bytes * options_.plan.moves_max;
  if (credit_at_ == absl::InfinitePast()) credit_bytes_ = most;
  if (credit_at_ != absl::InfinitePast()) {
    credit_bytes_ += static_cast<double>(options_.bytes_per_second) * absl::ToDoubleSeconds(now - credit_at_);
  }
  credit_bytes_ = std::min(credit_bytes_, most);
  credit_at_ = now;
  return static_cast<int>(credit_bytes_ / bytes);
}

void Controller::CarryOut(RoundReport& report) {
  std::vector<PoolMove> moves;
  for (const PoolMove& move : report.plan.moves) {
    if (move.evict.has_value() &&
        (move.keeper < 0 || known_.count({report.pool.shards[move.keeper].address, move.layer, *move.evict}) == 0)) {
      continue;  // attention services may not have heard of that copy; in the next round they have
    }
    moves.push_back(move);
  }
  report.outcome = RoundOutcome::kWaiting;
  if (LetGo(report, moves)) Load(report, moves);
  if (report.loaded > 0) report.outcome = RoundOutcome::kMoved;
}

// What is to make room goes. False: the round is over, since what was seen is no longer so.
bool Controller::LetGo(RoundReport& report, const std::vector<PoolMove>& moves) {
  Batches keep, unload;
  for (const PoolMove& move : moves) {
    if (!move.evict.has_value()) continue;
    AddTo(keep[move.keeper], move.layer, *move.evict);
    AddTo(unload[move.to], move.layer, *move.evict);
  }
  std::vector<PoolShard>& shards = report.pool.shards;
  for (const auto& [shard, experts] : keep) {
    uint64_t& revision = shards[shard].description.revision;
    if (revision == 0) continue;  // it knows no Unload either
    Listed& keeper = Shard(report.pool, shard);
    const auto kept = keeper.control->KeepExperts(experts, revision, options_.ask_timeout);
    if (!kept.ok()) {
      Settle(report, kept.status(), &keeper.fixed_until);
      return false;
    }
    revision = kept->revision;
  }
  for (const auto& [shard, experts] : unload) {
    uint64_t& revision = shards[shard].description.revision;
    Listed& leaver = Shard(report.pool, shard);
    const auto left = leaver.control->UnloadExperts(experts, revision, options_.ask_timeout);
    if (!left.ok()) {
      Settle(report, left.status(), &leaver.fixed_until);
      return false;
    }
    revision = left->revision;
    report.unloaded += CountOf(experts);
    metrics_.CountUnloads(CountOf(experts));
    LogInfo(absl::StrCat(shards[shard].description.name, " lets go ", Format(experts)));
  }
  return true;
}

// Notes why a change failed, and until when the shard is not asked for such a one again.
void Controller::Settle(RoundReport& report, const absl::Status& failure, absl::Time* pause_until) {
  report.why = std::string(failure.message());
  const bool others = absl::IsAborted(failure) || absl::IsFailedPrecondition(failure);
  report.outcome = others ? RoundOutcome::kYielded : RoundOutcome::kFailed;
  // The next round would plan the same, and fail again where this one did: the other shards would wait for ever. One
  // that cannot be reached is silent then, or has done what it did not answer.
  const bool passes = others || absl::IsUnavailable(failure) || absl::IsDeadlineExceeded(failure);
  if (!passes) *pause_until = options_.clock->Now() + kPause;
}

void Controller::Load(RoundReport& report, const std::vector<PoolMove>& moves) {
  Batches by_shard;
  for (const PoolMove& move : moves) AddTo(by_shard[move.to], move.layer, move.expert);
  const std::vector<std::pair<int32_t, std::vector<LayerHolding>>> batches(by_shard.begin(), by_shard.end());
  std::vector<absl::StatusOr<ShardDescription>> answers(batches.size(), absl::UnknownError(""));
  OnThreads(batches.size(), [&](size_t i) {
    answers[i] =
        Shard(report.pool, batches[i].first).control->LoadExperts(batches[i].second, options_.load_timeout);
  });
  for (size_t i = 0; i < batches.size(); ++i) {
    const PoolShard& shard = report.pool.shards[batches[i].first];
    const int count = CountOf(batches[i].second);
    if (answers[i].ok()) {
      const int64_t bytes = count * report.pool.expert_bytes();
      report.loaded += count;
      credit_bytes_ -= static_cast<double>(bytes);
      metrics_.CountLoads(count, bytes);
      LogInfo(absl::StrCat(shard.description.name, " has loaded ", Format(batches[i].second)));
      continue;
    }
    Listed& taker = Shard(report.pool, batches[i].first);
    const bool full = absl::IsResourceExhausted(answers[i].status());
    // Where it is full it may still take one in the place of another.
    Settle(report, answers[i].status(), full ? &taker.full_until : &taker.fixed_until);
    // One that has not answered may be reading all the same.
    if (!full) credit_bytes_ -= static_cast<double>(count * report.pool.expert_bytes());
  }
}

}  // namespace conclave
