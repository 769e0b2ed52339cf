#include "moe/transport/data_plane/message_gather.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

// What a message claims to need is believed this far; beyond it, memory grows with what has come.
constexpr int64_t kBelievedBytes = int64_t{4} << 20;

}  // namespace

absl::Status MessageGather::Begin(const WireHeader& fragment) {
  if (fragment.offset != 0) {
    return absl::InvalidArgumentError(absl::StrCat("offset: ", fragment.offset, " where a message begins"));
  }
  if (fragment.sequence <= last_sequence_) {
    return absl::InvalidArgumentError(
        absl::StrCat("sequence: ", fragment.sequence, " after ", last_sequence_, "; it came before"));
  }
  header_ = fragment;
  last_sequence_ = fragment.sequence;
  received_ = 0;
  if ((fragment.flags & kWireChecksummed) != 0) checksum_.Begin(fragment);
  return absl::OkStatus();
}

absl::StatusOr<bool> MessageGather::Accept(const WireHeader& fragment, const void* payload, int64_t payload_bytes) {
  if (!open_) {
    if (absl::Status begun = Begin(fragment); !begun.ok()) return begun;
  } else if (!SameMessage(header_, fragment) || fragment.offset != received_) {
    return OutOfOrder(fragment);
  }
  open_ = true;
  const int64_t end = static_cast<int64_t>(received_) + payload_bytes;
  const int64_t whole = SentBytes(header_);
  if (end > whole) return OutOfOrder(fragment);
  if (end > body_.capacity()) {
    body_.Reserve(std::min(whole, std::max(kBelievedBytes, 2 * end)), static_cast<int64_t>(received_));
  }
  if (payload_bytes > 0) std::memcpy(body_.data() + received_, payload, static_cast<size_t>(payload_bytes));
  if ((header_.flags & kWireChecksummed) != 0) checksum_.Add(payload, payload_bytes);
  received_ = static_cast<uint64_t>(end);
  if (received_ < header_.body_bytes) return false;
  open_ = false;
  if (absl::Status checked = CheckSum(fragment); !checked.ok()) return checked;
  return true;
}

absl::Status MessageGather::AcceptOffer(const WireHeader& fragment, int64_t bytes) {
  const bool next = open_ && SameMessage(header_, fragment) && fragment.offset == received_;
  const bool last = static_cast<int64_t>(received_) == SentBytes(header_) &&
                    received_ + static_cast<uint64_t>(bytes) == header_.body_bytes;
  if (!next || !last) return OutOfOrder(fragment);
  open_ = false;
  return CheckSum(fragment);
}

absl::Status MessageGather::OutOfOrder(const WireHeader& fragment) {
  open_ = false;
  return absl::InvalidArgumentError(absl::StrCat("offset: ", fragment.offset, " of message ", fragment.sequence,
                                                 " where ", received_, " of message ", header_.sequence,
                                                 " comes next"));
}

absl::Status MessageGather::CheckSum(const WireHeader& last) const {
  const bool checked = (last.flags & kWireChecksummed) != 0;
  if (!checked || checksum_.Digest() == last.checksum) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("message ", header_.sequence, ": its checksum does not fit"));
}

}  // namespace conclave
