#include "moe/transport/data_plane/token_book.h"

#include <sys/random.h>

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

void TokenBook::DropExpired() {
  const absl::Time now = clock_->Now();
  while (!outstanding_.empty() && outstanding_.front().expires <= now) outstanding_.pop_front();
}

absl::StatusOr<TokenBook::Ticket> TokenBook::Issue(absl::string_view peer) {
  std::lock_guard<std::mutex> lock(mutex_);
  DropExpired();
  const absl::Time now = clock_->Now();
  if (outstanding_.size() >= static_cast<size_t>(kTokensMax)) {
    return absl::ResourceExhaustedError(absl::StrCat(kTokensMax, " connections are about to be made already"));
  }
  Ticket ticket{++last_connection_, RandomToken()};
  outstanding_.push_back({ticket, std::string(peer), now + kTokenLife});
  return ticket;
}

absl::StatusOr<std::string> TokenBook::Redeem(uint64_t connection, absl::string_view token) {
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

bool TokenBook::Expecting() {
  std::lock_guard<std::mutex> lock(mutex_);
  DropExpired();
  return !outstanding_.empty();
}

}  // namespace conclave
