#include "moe/transport/ucx/ucx_connection.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/log.h"

namespace conclave {
namespace {

// How often an answer over the control channel, which is no UCX event, is looked for.
constexpr absl::Duration kAnswerPoll = absl::Milliseconds(1);

}  // namespace

void UcxConnection::Stamp(WireHeader* header) const {
  header->version = version_;
  header->connection = connection_;
  header->key = key_;
}

bool UcxConnection::Owns(const WireHeader& header) const {
  return connection_ != 0 && header.connection == connection_ && header.key == key_;
}

void UcxConnection::Ask(absl::Time now) {
  DataPlaneRequest request;
  request.peer = options_.name;
  request.version_min = kWireVersionMin;
  request.version_max = kWireVersion;
  request.model_fingerprint = options_.model_fingerprint;
  request.numeric_profile = options_.numeric_profile;
  request.placement_epoch = options_.placement_epoch;
  request.device_rows = worker_.device_rows();
  control_.Ask(shard_, request);
  state_ = State::kAsking;
  give_up_at_ = now + options_.connect_timeout;
}

void UcxConnection::Greet(const DataPlaneOffer& offer) {
  if (offer.token.size() != static_cast<size_t>(kTokenBytes)) {
    break_why_ = absl::InternalError(absl::StrCat("offered a token of ", offer.token.size(), " bytes"));
    return;
  }
  if (offer.version < kWireVersionMin || offer.version > kWireVersion) {
    break_why_ = absl::InternalError(absl::StrCat("offered version ", offer.version, " of the activation protocol"));
    return;
  }
  version_ = static_cast<uint8_t>(offer.version);
  device_rows_ = offer.device_rows && worker_.device_rows();
  why_no_device_rows_ =
      offer.why_no_device_rows.empty() ? "the shard is of an earlier release" : offer.why_no_device_rows.substr(0, 200);
  connection_ = offer.connection;
  token_ = offer.token;
  std::memcpy(&key_, token_.data(), sizeof(key_));
  link_ = std::make_unique<UcxLink>(worker_);
  break_why_ = link_->Connect(offer.address);
  if (!break_why_.ok()) return;
  hello_ = OutgoingMessage{};
  hello_.header.kind = WireKind::kHello;
  Stamp(&hello_.header);
  hello_.header.key = 0;  // the token in the body proves more
  hello_.header.body_bytes = token_.size();
  hello_.rows = reinterpret_cast<const std::byte*>(token_.data());
  link_->Push(&hello_);
  welcome_ = false;
  state_ = State::kGreeting;
}

void UcxConnection::OnWelcome(const WireHeader& header, absl::string_view text) {
  if (state_ != State::kGreeting) return;
  if (const absl::Status refused = StatusOf(header, text); !refused.ok()) {
    break_why_ = refused;
    return;
  }
  welcome_ = true;
}

void UcxConnection::OnInspected(bool pretended) {
  if (!device_rows_ || pretended || link_->reaches_devices()) return;
  device_rows_ = false;
  why_no_device_rows_ = "no wire between the two leads from device to device";
}

absl::Status UcxConnection::Progressed(absl::Time now) {
  if (state_ == State::kAsking) {
    if (const auto answer = control_.Answer(shard_); answer.has_value()) {
      if (!answer->ok()) return answer->status();
      Greet(**answer);
    }
  }
  if (!break_why_.ok()) return std::exchange(break_why_, absl::OkStatus());
  if (link_ != nullptr) {
    link_->Pump();
    if (link_->broken()) return link_->why();
  }
  if (state_ == State::kGreeting && welcome_) {
    state_ = State::kOpen;
    give_up_at_ = absl::InfiniteFuture();
    backoff_ = options_.backoff_min;
  }
  if (now >= give_up_at_) {
    return absl::DeadlineExceededError(
        absl::StrCat("no connection within ", absl::FormatDuration(options_.connect_timeout)));
  }
  return absl::OkStatus();
}

bool UcxConnection::Step(absl::Time now) {
  if (!closing_.empty()) {
    closing_.erase(std::remove_if(closing_.begin(), closing_.end(), [](const auto& link) { return link->idle(); }),
                   closing_.end());
  }
  if (state_ == State::kDown) {
    // The greeting's memory must be free before the next one is written there.
    if (now >= retry_at_ && hello_.idle()) Ask(now);
    return false;
  }
  const absl::Status status = Progressed(now);
  if (!status.ok()) Fail(status, now);
  return !status.ok();
}

void UcxConnection::Fail(const absl::Status& why, absl::Time now) {
  last_refusal_ = why;
  why_ = absl::UnavailableError(absl::StrCat("shard ", Value(shard_), " over ucx: ", std::string(why.message())));
  if (link_ != nullptr) {
    link_->Close();
    closing_.push_back(std::move(link_));
  }
  state_ = State::kDown;
  connection_ = key_ = 0;
  give_up_at_ = absl::InfiniteFuture();
  retry_at_ = now + backoff_;
  backoff_ = std::min(backoff_ * 2, options_.backoff_max);
}

absl::Time UcxConnection::due(absl::Time now) const {
  if (state_ == State::kDown) return retry_at_;
  if (state_ == State::kAsking) return std::min(give_up_at_, now + kAnswerPoll);
  return give_up_at_;
}

void UcxConnection::Break(absl::Status why) {
  if (state_ != State::kDown && break_why_.ok()) break_why_ = std::move(why);
}

void UcxConnection::Shutdown() {
  retry_at_ = absl::InfiniteFuture();
  if (state_ == State::kDown) return;
  Fail(absl::CancelledError("shutting down"), absl::InfinitePast());
  retry_at_ = absl::InfiniteFuture();
}

bool UcxConnection::idle() {
  return std::all_of(closing_.begin(), closing_.end(), [](const auto& link) { return link->idle(); });
}

void UcxConnection::Abandon() {
  for (std::unique_ptr<UcxLink>& link : closing_) {
    if (!link->idle()) [[maybe_unused]]
      UcxLink* const left = link.release();
  }
  closing_.clear();
}

}  // namespace conclave
