#include "router_service/shard_gathering.h"

#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moe/base/log.h"

namespace conclave {
namespace {

constexpr absl::Duration kAskTimeout = absl::Seconds(2);
constexpr absl::Duration kAskPause = absl::Milliseconds(50);
constexpr absl::Duration kPause = absl::Milliseconds(5);
constexpr absl::Duration kLogInterval = absl::Seconds(5);

// One shard that has not described itself yet, or has.
struct Candidate {
  std::optional<ShardDescription> description;
  bool asked = false, loads = false;
  absl::Time ask_at = absl::InfinitePast();
  absl::Status last = absl::UnavailableError("has not answered yet");
};

// How things stand.
struct Count {
  size_t known = 0, loading = 0, missing_index = 0;
};

Count CountCandidates(const std::vector<Candidate>& candidates) {
  Count count;
  for (size_t i = 0; i < candidates.size(); ++i) {
    count.known += candidates[i].description.has_value();
    count.loading += candidates[i].loads;
    if (!candidates[i].description.has_value()) count.missing_index = i;
  }
  return count;
}

// What shards said of themselves; only the address of those that have not yet.
std::vector<ShardDescription> Descriptions(const std::vector<Candidate>& candidates,
                                           const std::vector<std::string>& addresses) {
  std::vector<ShardDescription> shards;
  for (size_t i = 0; i < candidates.size(); ++i) {
    ShardDescription unknown;
    unknown.name = addresses[i];
    shards.push_back(candidates[i].description.value_or(unknown));
  }
  return shards;
}

// Takes one answer. True: it is good news.
bool Take(ShardNews news, absl::Time now, Candidate& candidate) {
  candidate.asked = false;
  candidate.ask_at = now + kAskPause;
  if (news.description.ok()) {
    candidate.loads = false;
    candidate.description = *std::move(news.description);
    return true;
  }
  candidate.last = news.description.status();
  candidate.loads = absl::StrContains(candidate.last.message(), kShardNotReady);
  return candidate.loads;
}

}  // namespace

absl::StatusOr<std::vector<ShardDescription>> GatherShards(ShardControl& control,
                                                           const std::vector<std::string>& addresses,
                                                           const ShardGatheringOptions& options,
                                                           absl::FunctionRef<void(absl::Duration)> pause) {
  std::vector<Candidate> candidates(addresses.size());
  absl::Time good_news = options.clock->Now(), next_log = good_news + kLogInterval;
  while (true) {
    const absl::Time now = options.clock->Now();
    for (size_t i = 0; i < candidates.size(); ++i) {
      Candidate& candidate = candidates[i];
      if (candidate.description.has_value() || candidate.asked || now < candidate.ask_at) continue;
      candidate.asked = true;
      control.Describe(ShardId{static_cast<int32_t>(i)}, kAskTimeout);
    }
    while (std::optional<ShardNews> news = control.Next()) {
      const size_t index = Value(news->shard);
      if (absl::IsFailedPrecondition(news->description.status())) return news->description.status();
      if (Take(*std::move(news), now, candidates[index])) good_news = now;
    }
    const Count count = CountCandidates(candidates);
    const bool all_known = count.known == candidates.size();
    if (all_known && (!options.complete || options.complete(Descriptions(candidates, addresses)))) break;
    if (options.cancelled && options.cancelled()) return absl::CancelledError("there are other shards by now");
    const std::string who =
        all_known ? "these do not hold all experts"
                  : absl::StrCat("expert shard ", count.missing_index, " at ", addresses[count.missing_index], ": ",
                                 candidates[count.missing_index].last.message());
    if (count.known > 0 && count.loading == 0 && now - good_news >= options.grace) {
      LogWarning(absl::StrCat("going on with ", count.known, " of ", candidates.size(), " shards; ", who));
      break;
    }
    if (now >= options.deadline) return absl::DeadlineExceededError(who);
    if (now >= next_log) {
      LogInfo(absl::StrCat("waiting for ", candidates.size() - count.known, " of ", candidates.size(), ": ", who));
      next_log = now + kLogInterval;
    }
    pause(kPause);
  }
  return Descriptions(candidates, addresses);
}

}  // namespace conclave
