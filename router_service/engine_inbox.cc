#include "router_service/engine_inbox.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/check.h"

namespace conclave {

absl::StatusOr<SequenceId> EngineInbox::Submit(std::unique_ptr<LiveSequence> sequence) {
  SequenceId id{0};
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (draining_ || stop_) {
      return absl::UnavailableError("this attention service is draining; send the request to another one");
    }
    if (static_cast<int>(live_.size()) >= live_max_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the queue is full: ", live_.size(), " sequences run or wait; try again later"));
    }
    id = SequenceId{++last_id_};
    sequence->set_id(id);
    live_.emplace(id, false);
    items_.push_back({id, std::move(sequence)});
    ++stats_.queued;
  }
  wake_.notify_one();
  return id;
}

void EngineInbox::Cancel(SequenceId sequence) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto live = live_.find(sequence);
    if (live == live_.end() || live->second) return;
    live->second = true;
    items_.push_back({sequence, nullptr});
  }
  wake_.notify_one();
}

absl::Status EngineInbox::Drain(absl::Time deadline) {
  std::unique_lock<std::mutex> lock(mutex_);
  draining_ = true;
  const auto done = [this] { return live_.empty() && !delivering_; };
  if (deadline == absl::InfiniteFuture()) {
    idle_.wait(lock, done);
  } else if (!idle_.wait_until(lock, absl::ToChronoTime(deadline), done)) {
    return absl::DeadlineExceededError(absl::StrCat(live_.size(), " sequences had not ended when draining had to"));
  }
  return absl::OkStatus();
}

EngineStats EngineInbox::stats() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return stats_;
}

void EngineInbox::Stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
}

bool EngineInbox::Take(absl::Duration wait, std::vector<InboxItem>& taken) {
  CONCLAVE_CHECK(taken.empty());
  std::unique_lock<std::mutex> lock(mutex_);
  if (wait > absl::ZeroDuration()) {
    wake_.wait_for(lock, absl::ToChronoNanoseconds(wait), [this] { return stop_ || !items_.empty(); });
  }
  taken.swap(items_);
  return !stop_;
}

bool EngineInbox::HasCancellation() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return stop_ || std::any_of(items_.begin(), items_.end(), [](const InboxItem& item) { return !item.submission; });
}

void EngineInbox::BeginDelivery(const EngineStats& stats, absl::Span<const SequenceId> ended) {
  std::lock_guard<std::mutex> lock(mutex_);
  stats_ = stats;
  for (const InboxItem& item : items_) stats_.queued += item.submission != nullptr;
  for (SequenceId sequence : ended) live_.erase(sequence);
  delivering_ = true;
}

void EngineInbox::EndDelivery() {
  bool idle = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    delivering_ = false;
    idle = live_.empty();
  }
  if (idle) idle_.notify_all();
}

}  // namespace conclave
