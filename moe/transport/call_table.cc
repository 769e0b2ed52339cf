#include "moe/transport/call_table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace conclave {

bool CallTable::Add(ShardId shard, int shards, const ExpertCall& call, MatView out, ExpertCallDone done) {
  absl::Status status;
  if (Value(shard) < 0 || Value(shard) >= shards) {
    status = absl::InvalidArgumentError(absl::StrCat("shard: ", Value(shard), " of ", shards));
  } else if (Find(call.call_id) != nullptr) {
    status = absl::InvalidArgumentError(absl::StrCat("call_id: ", call.call_id, " is in flight already"));
  } else {
    status = ValidateExpertCall(call, limits_);
    if (status.ok()) status = ValidateReplyView(call, out);
  }
  if (!status.ok()) {
    due_.push_back({std::move(done), std::move(status)});
    return false;
  }
  pending_.push_back({call.call_id, shard, out, call.deadline, std::move(done)});
  return true;
}

const CallTable::Pending* CallTable::Find(uint64_t call_id) const {
  for (const Pending& pending : pending_) {
    if (pending.call_id == call_id) return &pending;
  }
  return nullptr;
}

void CallTable::EndAt(size_t index, absl::Status status) {
  due_.push_back({std::move(pending_[index].done), std::move(status)});
  if (index + 1 != pending_.size()) pending_[index] = std::move(pending_.back());
  pending_.pop_back();
}

void CallTable::End(uint64_t call_id, absl::Status status) {
  const Pending* pending = Find(call_id);
  if (pending != nullptr) EndAt(pending - pending_.data(), std::move(status));
}

void CallTable::Detach(uint64_t call_id) {
  for (Pending& pending : pending_) {
    if (pending.call_id != call_id) continue;
    pending.shard = ShardId{-1};
    pending.out = MatView{};
    pending.deadline = absl::InfiniteFuture();
  }
}

int CallTable::EndShard(ShardId shard, const absl::Status& status) {
  int ended = 0;
  for (size_t i = 0; i < pending_.size();) {
    if (pending_[i].shard != shard) {
      ++i;
      continue;
    }
    EndAt(i, status);
    ++ended;
  }
  return ended;
}

absl::Span<const CallTable::Expired> CallTable::EndExpired(absl::Time now) {
  expired_.clear();
  for (size_t i = 0; i < pending_.size();) {
    if (pending_[i].deadline > now) {
      ++i;
      continue;
    }
    expired_.push_back({pending_[i].call_id, pending_[i].shard});
    EndAt(i, absl::DeadlineExceededError(
                 absl::StrCat("shard ", Value(pending_[i].shard), " did not answer within the deadline")));
  }
  return expired_;
}

absl::Time CallTable::EarliestDeadline() const {
  absl::Time earliest = absl::InfiniteFuture();
  for (const Pending& pending : pending_) earliest = std::min(earliest, pending.deadline);
  return earliest;
}

int CallTable::RunDone() {
  int ran = 0;
  // A Done may call Call, which may make more Dones due.
  for (; !due_.empty(); ++ran) {
    Due due = std::move(due_.front());
    due_.pop_front();
    due.done(due.status);
  }
  return ran;
}

}  // namespace conclave
