#include "moe/transport/ucx/ucx_calls.h"

#include <algorithm>
#include <utility>

namespace conclave {

UcxCall& UcxCalls::Add(UcxPeer& peer, const WireHeader& header, absl::Time arrival) {
  ++peer.calls_queued;
  peer.bytes_queued += static_cast<int64_t>(header.body_bytes);
  UcxCall& call = calls_.emplace_back();
  call.peer = &peer;
  call.header = header;
  call.arrival = arrival;
  return call;
}

void UcxCalls::Fetch(absl::FunctionRef<void(const UcxCall&)> refuse) {
  for (size_t i = 0; i < calls_.size(); ++i) {
    UcxCall& call = calls_[i];
    UcxPeer& peer = *call.peer;
    if (call.offer == nullptr || peer.device_rows_used) continue;
    const int64_t bytes = static_cast<int64_t>(call.header.body_bytes) - SentBytes(call.header);
    if (peer.device_rows().TryReserve(bytes)) {
      peer.device_rows_used = true;
      peer.fetch().Start(worker_, std::exchange(call.offer, nullptr), peer.device_rows().data(), bytes, nullptr);
      continue;
    }
    UcxCall refused = std::move(call);
    calls_.erase(calls_.begin() + static_cast<int64_t>(i--));
    --peer.calls_queued;
    peer.bytes_queued -= static_cast<int64_t>(refused.header.body_bytes);
    refuse(refused);
    GiveBack(refused);
  }
}

bool UcxCalls::Ready(const UcxCall& call) {
  if (!call.on_device) return true;
  return call.offer == nullptr && !call.peer->fetch().moving() && call.peer->results_offered() < kResultsOfferedMax;
}

bool UcxCalls::ready() const { return std::any_of(calls_.begin(), calls_.end(), &UcxCalls::Ready); }

absl::optional<UcxCall> UcxCalls::TakeReady() {
  const auto at = std::find_if(calls_.begin(), calls_.end(), &UcxCalls::Ready);
  if (at == calls_.end()) return absl::nullopt;
  absl::optional<UcxCall> call = std::move(*at);
  calls_.erase(at);
  --call->peer->calls_queued;
  call->peer->bytes_queued -= static_cast<int64_t>(call->header.body_bytes);
  return call;
}

void UcxCalls::GiveBack(UcxCall& call) {
  if (call.held != nullptr) ucp_am_data_release(worker_.handle(), std::exchange(call.held, nullptr));
  if (call.offer != nullptr) {
    ucp_am_data_release(worker_.handle(), std::exchange(call.offer, nullptr));
  } else if (call.on_device) {
    call.peer->device_rows_used = false;
  }
  call.body.Trim();
  if (bodies_.size() < kKeptBodies) bodies_.push_back(std::move(call.body));
}

void UcxCalls::Drop(const UcxPeer* peer) {
  const auto dropped = std::stable_partition(
      calls_.begin(), calls_.end(), [&](const UcxCall& call) { return peer != nullptr && call.peer != peer; });
  std::for_each(dropped, calls_.end(), [this](UcxCall& call) { GiveBack(call); });
  calls_.erase(dropped, calls_.end());
}

BodyBuffer UcxCalls::SpareBody() {
  if (bodies_.empty()) return BodyBuffer(memory_);
  BodyBuffer spare = std::move(bodies_.back());
  bodies_.pop_back();
  return spare;
}

}  // namespace conclave
