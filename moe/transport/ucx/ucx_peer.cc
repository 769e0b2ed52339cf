#include "moe/transport/ucx/ucx_peer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace conclave {

void UcxPeer::Welcome(std::string name, const WireHeader& hello, uint64_t key) {
  peer_.name = std::move(name);
  connection_ = hello.connection;
  key_ = key;
  link_.InspectWires();
  auto welcome = NewReply();
  welcome->message.header.kind = WireKind::kWelcome;
  welcome->message.header.version = hello.version;
  welcome->message.header.connection = hello.connection;
  welcome->message.header.key = key;
  Send(std::move(welcome));
}

void UcxPeer::Refuse(const WireHeader& hello, absl::string_view token, const absl::Status& why) {
  auto refusal = NewReply();
  // By this it knows that the answer is for it.
  std::memcpy(&refusal->message.header.key, token.data(), std::min(token.size(), sizeof(uint64_t)));
  refusal->text = WireText(why);
  refusal->message.header.kind = WireKind::kWelcome;
  refusal->message.header.version = hello.version;
  refusal->message.header.status = static_cast<int32_t>(why.code());
  refusal->message.header.connection = hello.connection;
  refusal->message.header.body_bytes = refusal->text.size();
  refusal->message.rows = reinterpret_cast<const std::byte*>(refusal->text.data());
  Send(std::move(refusal));
  refused_ = true;
  doom_ = why;
}

std::unique_ptr<UcxReply> UcxPeer::NewReply() {
  if (free_.empty()) return std::make_unique<UcxReply>(memory_);
  std::unique_ptr<UcxReply> reply = std::move(free_.back());
  free_.pop_back();
  reply->message = OutgoingMessage{};
  return reply;
}

void UcxPeer::Send(std::unique_ptr<UcxReply> reply) {
  link_.Push(&reply->message);
  sending_.push_back(std::move(reply));
}

void UcxPeer::Pump() {
  link_.Pump();
  for (size_t i = sending_.size(); i-- > 0;) {
    if (!sending_[i]->message.idle()) continue;
    std::unique_ptr<UcxReply> sent = std::move(sending_[i]);
    sending_.erase(sending_.begin() + static_cast<int64_t>(i));
    sent->body.Trim();
    if (free_.size() < kKeptReplies) free_.push_back(std::move(sent));
  }
}

int64_t UcxPeer::bytes_unsent() const {
  int64_t bytes = 0;
  for (const auto& reply : sending_) {
    bytes += static_cast<int64_t>(reply->message.header.body_bytes) - reply->message.handed_over;
  }
  return bytes;
}

int UcxPeer::results_offered() const {
  return static_cast<int>(std::count_if(sending_.begin(), sending_.end(), [](const auto& reply) {
    return SentBytes(reply->message.header) < static_cast<int64_t>(reply->message.header.body_bytes);
  }));
}

void UcxPeer::Doom(absl::Status why) {
  if (doom_.ok()) doom_ = std::move(why);
  refused_ = false;
}

bool UcxPeer::Doomed(absl::Time now) {
  if (link_.broken() && doom_.ok()) doom_ = link_.why();
  if (!greeted() && now >= greet_by_ && doom_.ok()) doom_ = absl::DeadlineExceededError("it did not say who it is");
  // A refusal is sent first.
  if (refused_ && !Quiet() && !link_.broken() && now < greet_by_) return false;
  return !doom_.ok();
}

}  // namespace conclave
