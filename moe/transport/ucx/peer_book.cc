#include "moe/transport/ucx/peer_book.h"

#include <sys/random.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/transport/data_plane.h"

namespace conclave {
namespace {

std::string RandomToken() {
  std::string token(kTokenBytes, '\0');
  size_t filled = 0;
  while (filled < token.size()) {
    const ssize_t got = getrandom(token.data() + filled, token.size() - filled, 0);
    if (got > 0) filled += static_cast<size_t>(got);
  }
  return token;
}

// Takes as long wherever the two differ.
bool Equal(absl::string_view a, absl::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned char difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference |= static_cast<unsigned char>(a[i] ^ b[i]);
  return difference == 0;
}

}  // namespace

void PeerBook::DropExpired() {
  const absl::Time now = clock_->Now();
  while (!outstanding_.empty() && outstanding_.front().expires <= now) outstanding_.pop_front();
}

absl::StatusOr<PeerBook::Ticket> PeerBook::Issue(absl::string_view peer) {
  std::lock_guard<std::mutex> lock(mutex_);
  DropExpired();
  const absl::Time now = clock_->Now();
  const auto record = records_.find(std::string(peer));
  if (record != records_.end() && now < record->second.free_at) {
    return absl::PermissionDeniedError(absl::StrCat("\"", peer, "\" sent messages that make no sense and is in ",
                                                    "quarantine for another ",
                                                    absl::FormatDuration(record->second.free_at - now)));
  }
  if (outstanding_.size() >= static_cast<size_t>(kTokensMax)) {
    return absl::ResourceExhaustedError(absl::StrCat(kTokensMax, " connections are about to be made already"));
  }
  Ticket ticket{++last_connection_, RandomToken()};
  outstanding_.push_back({ticket, std::string(peer), now + kTokenLife});
  return ticket;
}

absl::StatusOr<std::string> PeerBook::Redeem(uint64_t connection, absl::string_view token) {
  std::lock_guard<std::mutex> lock(mutex_);
  DropExpired();
  for (auto it = outstanding_.begin(); it != outstanding_.end(); ++it) {
    if (it->ticket.connection != connection || !Equal(it->ticket.token, token)) continue;
    std::string peer = std::move(it->peer);
    outstanding_.erase(it);
    return peer;
  }
  return absl::UnauthenticatedError("the token is wrong, too old, or was used already");
}

bool PeerBook::Expecting() {
  std::lock_guard<std::mutex> lock(mutex_);
  DropExpired();
  return !outstanding_.empty();
}

bool PeerBook::Offend(absl::string_view peer) {
  std::lock_guard<std::mutex> lock(mutex_);
  const absl::Time now = clock_->Now();
  // Names come from outside: their number is bounded, and those that are free again go first.
  if (records_.size() >= kRecordsMax) {
    for (auto it = records_.begin(); it != records_.end();) {
      it = it->second.free_at <= now && it->second.window_ends <= now ? records_.erase(it) : std::next(it);
    }
    if (records_.size() >= kRecordsMax) return false;
  }
  Record& record = records_[std::string(peer)];
  if (now >= record.window_ends) {
    record.offences = 0;
    record.window_ends = now + kOffenceWindow;
  }
  if (++record.offences < kOffencesMax) return false;
  record.offences = 0;
  record.free_at = now + record.next_quarantine;
  record.next_quarantine = std::min(2 * record.next_quarantine, kQuarantineMax);
  return true;
}

bool PeerBook::Quarantined(absl::string_view peer) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto record = records_.find(std::string(peer));
  return record != records_.end() && clock_->Now() < record->second.free_at;
}

}  // namespace conclave
