#include "gateway/http/output.h"

#include <utility>

namespace conclave {

bool Output::Respond(HttpResponse response) {
  absl::MutexLock lock(&mutex_);
  if (gone_ || answered_ || head_taken_ || !waiting_.empty()) return false;
  stream_expected_ = false;
  answered_ = true;
  whole_ = std::move(response);
  return true;
}

void Output::ExpectStream(HttpResponse head, std::string ping) {
  absl::MutexLock lock(&mutex_);
  stream_expected_ = true;
  head_ = std::move(head);
  ping_ = std::move(ping);
}

Output::Written Output::Write(absl::string_view bytes) {
  absl::MutexLock lock(&mutex_);
  if (gone_ || answered_) return Written::kGone;
  if (unsent_bytes_ + static_cast<int64_t>(bytes.size()) > unsent_bytes_max_) return Written::kTooSlow;
  unsent_bytes_ += static_cast<int64_t>(bytes.size());
  waiting_.append(bytes.data(), bytes.size());
  return Written::kYes;
}

bool Output::EndStream() {
  absl::MutexLock lock(&mutex_);
  if (gone_ || answered_) return false;
  return answered_ = true;
}

void Output::OnGone(std::function<void()> gone) {
  {
    absl::MutexLock lock(&mutex_);
    if (!gone_) {
      if (!last_taken_) on_gone_ = std::move(gone);
      return;
    }
  }
  gone();
}

Output::Piece Output::Take(bool ping_due) {
  absl::MutexLock lock(&mutex_);
  Piece piece;
  if (gone_ || last_taken_) return piece;
  if (whole_.has_value()) {
    piece.whole = std::move(whole_);
    piece.last = last_taken_ = true;
    return piece;
  }
  if (!stream_expected_) return piece;
  const bool ping = ping_due && waiting_.empty() && !answered_;
  if (waiting_.empty() && !answered_ && !ping) return piece;
  if (!head_taken_) piece.stream_head = std::move(head_);
  head_taken_ = true;
  piece.bytes = std::move(waiting_);
  waiting_.clear();
  if (ping) {
    piece.bytes = ping_;
    unsent_bytes_ += static_cast<int64_t>(ping_.size());
  }
  piece.last = last_taken_ = answered_;
  return piece;
}

void Output::Sent(int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  unsent_bytes_ -= bytes;
}

std::function<void()> Output::Leave() {
  absl::MutexLock lock(&mutex_);
  gone_ = true;
  waiting_.clear();
  return std::exchange(on_gone_, nullptr);
}

bool Output::gone() const {
  absl::MutexLock lock(&mutex_);
  return gone_;
}

bool Output::expects_stream() const {
  absl::MutexLock lock(&mutex_);
  return stream_expected_ && !answered_;
}

}  // namespace conclave
