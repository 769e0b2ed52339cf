#include "router_service/shard_membership.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "moe/base/log.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

constexpr absl::Duration kPauseMin = absl::Milliseconds(20);
constexpr absl::Duration kPauseMax = absl::Milliseconds(500);
constexpr absl::Duration kFullPause = absl::Seconds(5);

bool SameHoldings(const ShardDescription& a, const ShardDescription& b) {
  return std::equal(
      a.holdings.begin(), a.holdings.end(), b.holdings.begin(), b.holdings.end(),
      [](const LayerHolding& x, const LayerHolding& y) { return x.layer == y.layer && x.experts == y.experts; });
}

// Whether `after` lacks an expert that `before` held. Layers are the same ones, experts ascend.
bool LetGo(const ShardDescription& before, const ShardDescription& after) {
  if (before.holdings.size() != after.holdings.size()) return true;
  for (size_t i = 0; i < before.holdings.size(); ++i) {
    const std::vector<ExpertId>&had = before.holdings[i].experts, &has = after.holdings[i].experts;
    if (!std::includes(has.begin(), has.end(), had.begin(), had.end())) return true;
  }
  return false;
}

int64_t ExpertsOf(const ShardDescription& shard) {
  int64_t count = 0;
  for (const LayerHolding& holding : shard.holdings) count += static_cast<int64_t>(holding.experts.size());
  return count;
}

}  // namespace

absl::Status CheckShard(const ShardDescription& shard, const MembershipOptions& options) {
  const ShardDescription& expected = options.expected;
  const auto differs = [&](absl::string_view what, const auto& theirs, const auto& ours, absl::string_view remedy) {
    return absl::FailedPreconditionError(
        absl::StrCat("expert shard ", shard.name, " ", what, " ", theirs, ", this router ", ours, "; ", remedy));
  };
  if (shard.model_fingerprint != expected.model_fingerprint) {
    return differs("serves the model", shard.model_fingerprint, expected.model_fingerprint,
                   "start all with the same --model");
  }
  if (shard.hidden != expected.hidden) {
    return differs("has the hidden size", shard.hidden, expected.hidden, "start all with the same --model");
  }
  if (shard.row_dtype != expected.row_dtype) {
    return differs("takes rows of", Name(shard.row_dtype), Name(expected.row_dtype),
                   "start all with the same --compute");
  }
  if (shard.numeric_profile != expected.numeric_profile && !options.allow_mixed_numerics) {
    return differs("computes with the numeric profile", shard.numeric_profile, expected.numeric_profile,
                   "start all with the same --compute and --isa, or allow it with --allow-mixed-numerics");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ShardMembership>> ShardMembership::Create(const std::vector<ShardDescription>& shards,
                                                                         ShardControl* control,
                                                                         const MembershipOptions& options) {
  auto membership = absl::WrapUnique(new ShardMembership(control, options));
  for (const ShardDescription& shard : shards) {
    Member& member = membership->members_.emplace_back();
    member.description = shard;
    member.pause = kPauseMin;
    member.known = member.up = shard.hidden != 0;
    if (member.known) RETURN_IF_ERROR(CheckShard(shard, options));
    if (!member.known) member.ask_at = absl::InfinitePast();
    if (options.metrics != nullptr) {
      membership->epochs_.push_back(options.metrics->AddGauge(
          "conclave_router_shard_epoch", "The placement epoch that a shard announced last.", {{"shard", shard.name}}));
    }
  }
  RETURN_IF_ERROR(membership->Rebuild());
  return membership;
}

ShardMembership::ShardMembership(ShardControl* control, const MembershipOptions& options)
    : control_(control), options_(options) {
  if (options.metrics == nullptr) return;
  loads_total_ =
      options.metrics->AddCounter("conclave_router_expert_reloads_total",
                                  "Experts that a shard was asked to take over from shards that are gone.", {});
  orphans_ = options.metrics->AddGauge("conclave_router_experts_without_holder",
                                       "Experts, over all layers, that no reachable shard holds.", {});
}

// A new placement from what all shards said last.
absl::Status ShardMembership::Rebuild() {
  std::vector<ShardHoldings> holdings;
  for (const Member& member : members_) holdings.push_back({member.description.name, member.description.holdings});
  ASSIGN_OR_RETURN(current_, Placement::Create(++generation_, options_.layers, options_.experts, holdings));
  std::lock_guard<std::mutex> lock(mutex_);
  placement_ = current_;
  holdings_ = std::move(holdings);
  return absl::OkStatus();
}

std::shared_ptr<const Placement> ShardMembership::placement() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return placement_;
}

std::vector<ShardHoldings> ShardMembership::holdings() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return holdings_;
}

void ShardMembership::OnAnswered(ShardId shard) {
  members_[Value(shard)].pause = kPauseMin;
  members_[Value(shard)].useless = false;
}

void ShardMembership::OnUseless(ShardId shard) {
  Member& member = members_[Value(shard)];
  if (!std::exchange(member.useless, true)) {
    LogWarning(absl::StrCat("expert shard ", member.description.name,
                            " answers questions, but no call: others are asked to take its experts over"));
  }
}

void ShardMembership::OnUnreachable(ShardId shard, const absl::Status& why, absl::Time now) {
  Member& member = members_[Value(shard)];
  if (member.up) LogWarning(absl::StrCat("expert shard ", member.description.name, " is gone: ", why.message()));
  member.up = false;
  // Where its calls failed though it had answered our last question, it is not asked again at once, but after a pause.
  const bool at_once = control_ != nullptr && member.pause == kPauseMin;
  member.ask_at = std::min(member.ask_at, at_once ? now : now + member.pause);
  member.pause = std::min(member.pause * 2, kPauseMax);
}

void ShardMembership::OnStale(ShardId shard, absl::Time now) {
  members_[Value(shard)].stale = true;
  members_[Value(shard)].ask_at = now;
}

void ShardMembership::OnSuspect(ShardId shard, absl::Time now) {
  Member& member = members_[Value(shard)];
  if (!member.asked) member.ask_at = std::min(member.ask_at, now);
}

absl::Time ShardMembership::due() const {
  absl::Time due = absl::InfiniteFuture();
  for (const Member& member : members_) {
    if (!member.asked) due = std::min(due, member.ask_at);
  }
  return due;
}

void ShardMembership::Ask(ShardId shard, absl::Time now) {
  Member& member = members_[Value(shard)];
  member.ask_at = absl::InfiniteFuture();
  if (control_ == nullptr) {
    // Nobody to ask: calls will tell.
    member.up = member.known;
    member.stale = false;
    return;
  }
  member.asked = true;
  ++waiting_;
  control_->Describe(shard, kAskTimeout);
}

bool ShardMembership::Poll(absl::Time now) {
  bool changed = false;
  for (size_t i = 0; i < members_.size(); ++i) {
    if (members_[i].asked || members_[i].ask_at > now) continue;
    Ask(ShardId{static_cast<int32_t>(i)}, now);
    changed = changed || control_ == nullptr;
  }
  if (control_ == nullptr) return changed;
  while (std::optional<ShardNews> news = control_->Next()) changed = TakeNews(*std::move(news), now) || changed;
  if (changed) ShowGauges();
  return changed;
}

bool ShardMembership::TakeNews(ShardNews news, absl::Time now) {
  --waiting_;
  Member& member = members_[Value(news.shard)];
  (news.of_load ? member.loading : member.asked) = false;
  if (!news.of_load) member.may_have_taken = false;
  absl::Status status = news.description.status();
  if (status.ok()) status = CheckShard(*news.description, options_);
  if (status.ok()) return TakeDescription(news.shard, *std::move(news.description), now);
  if (news.of_load) {
    LogWarning(absl::StrCat("expert shard ", member.description.name, " takes no further experts: ", status.message()));
    const bool full = absl::IsResourceExhausted(status);
    member.load_again_at = now + (full ? kFullPause : kPauseMax);
    if (!full) OnSuspect(news.shard, now);
    return true;
  }
  return TakeFailure(news.shard, status, now);
}

// A shard lets an expert go where another one holds it, of which we may not have heard: better to ask than to have it
// loaded a second time.
void ShardMembership::AskWhoTookIt(ShardId from, absl::Time now) {
  for (size_t i = 0; i < members_.size(); ++i) {
    const ShardId other{static_cast<int32_t>(i)};
    if (other == from || !members_[i].up) continue;
    OnSuspect(other, now);
    members_[i].may_have_taken = true;
  }
}

bool ShardMembership::TakeDescription(ShardId shard, ShardDescription description, absl::Time now) {
  Member& member = members_[Value(shard)];
  // What was asked for after this question left will be newer.
  const bool outdated = member.stale && member.ask_at != absl::InfiniteFuture();
  const bool same = member.known && description.placement_epoch == member.description.placement_epoch &&
                    SameHoldings(description, member.description);
  if (!same) {
    ShardDescription before = std::exchange(member.description, std::move(description));
    if (member.description.name.empty()) member.description.name = before.name;
    if (const absl::Status status = Rebuild(); !status.ok()) {
      LogWarning(absl::StrCat("a description is refused: ", status.message()));
      member.description = std::move(before);
      return false;
    }
    if (member.known && LetGo(before, member.description)) AskWhoTookIt(shard, now);
  }
  const bool back = !member.up;
  if (back || !same) {
    LogInfo(absl::StrCat("expert shard ", member.description.name, back ? " is there" : " has changed", ": epoch ",
                         member.description.placement_epoch, ", ", ExpertsOf(member.description), " experts"));
  }
  member.known = member.up = true;
  member.useless = member.useless && !back;
  member.failed_asks = 0;
  if (!outdated) member.stale = false;
  return back || !same || !member.stale;
}

bool ShardMembership::TakeFailure(ShardId shard, const absl::Status& status, absl::Time now) {
  Member& member = members_[Value(shard)];
  const bool news = member.up || member.failed_asks == 0;
  if (member.up || absl::IsFailedPrecondition(status)) {
    if (news) LogWarning(absl::StrCat("expert shard ", member.description.name, " is out: ", status.message()));
  }
  member.up = false;
  ++member.failed_asks;
  member.ask_at = now + member.pause;
  member.pause = std::min(member.pause * 2, kPauseMax);
  return news;
}

bool ShardMembership::Orphaned(LayerId layer, ExpertId expert, bool useless_too) const {
  const absl::Span<const ShardId> holders = Holders(layer, expert);
  return std::all_of(holders.begin(), holders.end(), [&](ShardId shard) {
    return Gone(shard) || (useless_too && members_[Value(shard)].useless);
  });
}

void ShardMembership::LoadOrphans(absl::Time now) {
  if (control_ == nullptr) return;
  // Nothing is planned on top of loads and questions that are under way: their answers change the picture.
  const auto loads = [](const Member& member) { return (member.loading || member.may_have_taken) && member.up; };
  if (std::any_of(members_.begin(), members_.end(), loads)) return;
  std::vector<ShardId> takers;
  std::vector<int64_t> load(members_.size());
  for (size_t i = 0; i < members_.size(); ++i) {
    const ShardId shard{static_cast<int32_t>(i)};
    load[i] = ExpertsOf(members_[i].description);
    const bool asked_already = members_[i].loading || now < members_[i].load_again_at;
    if (Usable(shard) && !members_[i].useless && !asked_already) takers.push_back(shard);
  }
  if (takers.empty()) return;
  const auto has_room = [&](ShardId shard) {
    const ShardDescription& description = members_[Value(shard)].description;
    const int64_t held = ExpertsOf(description);
    if (description.expert_bytes_max == 0 || held == 0) return true;  // the shard itself knows what it can take
    const int64_t fit = static_cast<int64_t>(description.expert_bytes_max / (description.expert_bytes / held + 1));
    return load[Value(shard)] < std::max(fit, held);
  };
  std::map<ShardId, std::vector<LayerHolding>> plan;
  for (const LayerId layer : options_.layers) {
    for (int expert = 0; expert < options_.experts; ++expert) {
      if (!Orphaned(layer, ExpertId{expert}, /*useless_too=*/true)) continue;
      takers.erase(std::remove_if(takers.begin(), takers.end(), [&](ShardId s) { return !has_room(s); }), takers.end());
      if (takers.empty()) break;
      const ShardId taker = *std::min_element(takers.begin(), takers.end(), [&](ShardId a, ShardId b) {
        return load[Value(a)] < load[Value(b)];
      });
      ++load[Value(taker)];
      std::vector<LayerHolding>& wanted = plan[taker];
      if (wanted.empty() || wanted.back().layer != layer) wanted.push_back({layer, {}});
      wanted.back().experts.push_back(ExpertId{expert});
    }
  }
  for (const auto& [taker, wanted] : plan) {
    Member& member = members_[Value(taker)];
    int64_t count = 0;
    for (const LayerHolding& holding : wanted) count += static_cast<int64_t>(holding.experts.size());
    LogInfo(absl::StrCat("expert shard ", member.description.name, " is asked to take over ", count, " experts"));
    loads_ += count;
    if (loads_total_ != nullptr) loads_total_->Add(static_cast<double>(count));
    member.loading = true;
    ++waiting_;
    control_->LoadExperts(taker, wanted, kLoadTimeout);
  }
}

void ShardMembership::ShowGauges() {
  if (orphans_ == nullptr) return;
  int64_t orphans = 0;
  for (const LayerId layer : options_.layers) {
    for (int expert = 0; expert < options_.experts; ++expert) {
      orphans += Orphaned(layer, ExpertId{expert}, /*useless_too=*/false);
    }
  }
  orphans_->Set(static_cast<double>(orphans));
  for (size_t i = 0; i < members_.size(); ++i) {
    epochs_[i]->Set(static_cast<double>(members_[i].description.placement_epoch));
  }
}

}  // namespace conclave
