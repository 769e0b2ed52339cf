// What a message looks like between a router and a shard, and the checks that it must pass. Beside NCCL, only headers
// and what stands before the rows travel so (moe/transport/nccl/lane.h).
//
// A message is a header and a body. Over UCX it travels as fragments, each an active message whose UCX header is a
// WireHeader and whose payload is the part of the body at `offset`: a receiver writes each part to where it belongs,
// which saves the copy that UCX's own reassembly would make. Fragments of one message arrive in order, one message
// after the other.
//
//   kHello    router → shard   body: the token of the connection
//   kWelcome  shard → router   no body; `status` is not 0 where the shard refuses, and the body then says why
//   kCall     router → shard   body: row_offsets u32 [rows + 1], experts i32 [pairs], zeros up to a multiple of 64,
//                              rows [rows, cols] of `dtype`, or with kWireFp8Rows packed by PackFp8
//   kReply    shard → router   body: [pairs, cols] of `dtype`; or `status` is not 0 and the body says why
//
// With kWireDeviceRows, rows of a call and results of its reply are the last fragment of their message, whole: one that
// the receiver fetches from the sender's device to its own.
#ifndef CONCLAVE_MOE_TRANSPORT_DATA_PLANE_WIRE_H_
#define CONCLAVE_MOE_TRANSPORT_DATA_PLANE_WIRE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "moe/transport/data_plane/body_buffer.h"
#include "moe/transport/transport.h"
#include "moe/transport/validate_call.h"

namespace conclave {

// Versions of this format. A shard speaks with routers of its own version and of the one before. In version 2 every
// fragment has the checksum of its message, in version 3 the last one alone, so that a message can be on its way while
// its end is still being made.
inline constexpr uint32_t kWireVersion = 3;
inline constexpr uint32_t kWireVersionMin = 2;
// The highest version that both ends speak. FAILED_PRECONDITION: there is none, in a sentence.
absl::StatusOr<uint32_t> AgreeOnVersion(uint32_t their_min, uint32_t their_max, uint32_t our_min = kWireVersionMin,
                                        uint32_t our_max = kWireVersion);

// What a message is; see above.
enum class WireKind : uint8_t { kHello = 1, kWelcome = 2, kCall = 3, kReply = 4 };

inline constexpr uint32_t kWireMagic = 0x43565831;  // "1XVC" in memory
inline constexpr uint8_t kWireChecksummed = 1;      // flag: `checksum` holds; the reply to such a call has one too
inline constexpr uint8_t kWireFp8Rows = 2;      // flag: a call's rows are packed; a reply repeats it, its own are not
inline constexpr uint8_t kWireDeviceRows = 4;   // flag: see above, where Connect agreed on it; a reply repeats it
inline constexpr int64_t kWireTextBytesMax = 4096;  // of a status message
inline constexpr int64_t kBodyAlignment = 64;

// Little-endian, as all machines are that this runs on. Fields that a kind does not use are zero.
struct WireHeader {
  uint32_t magic = kWireMagic;
  uint8_t version = kWireVersion;
  WireKind kind = WireKind::kHello;
  uint8_t flags = 0;
  uint8_t dtype = 0;        // 0: F32, 1: BF16
  uint64_t connection = 0;  // as Connect handed it out
  uint64_t key = 0;         // what only the two ends of the connection know
  uint64_t sequence = 0;    // of the message: counts up on a connection; a reply repeats its call's
  uint64_t call_id = 0;
  uint64_t offset = 0;      // of this fragment in the body
  uint64_t body_bytes = 0;  // of the whole message
  uint64_t placement_epoch = 0;
  // XXH3 of the header, offset and checksum taken as zero, and the body but for device rows; see kWireVersion
  uint64_t checksum = 0;
  uint64_t timeout_us = 0;  // 0: none
  int32_t layer = 0;
  int32_t status = 0;  // an absl::StatusCode
  uint32_t rows = 0;
  uint32_t pairs = 0;
  uint32_t cols = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(WireHeader) == 104);

// Checks a fragment as far as it can be judged alone: its header's length, magic, version, kind and flags; that shape
// and body have sizes that belong together and are within our limits; that the payload lies in the body.
// INVALID_ARGUMENT names the field; `header` is then unspecified.
absl::Status ReadFragment(absl::Span<const std::byte> header_bytes, int64_t payload_bytes, WireHeader* header);
// The part of it that does not concern the payload.
absl::Status ReadHeader(absl::Span<const std::byte> header_bytes, WireHeader* header);
// Whether the last fragment alone has the message's checksum.
inline bool ChecksumComesLast(const WireHeader& header) {
  return header.version >= 3 && (header.flags & kWireChecksummed) != 0;
}
// Whether `next` may follow `first` as a fragment of the same message: equal but for the offset, and a checksum that
// comes last.
bool SameMessage(const WireHeader& first, const WireHeader& next);

// Bytes before the rows in the body of a call.
int64_t CallMetaBytes(int64_t rows, int64_t pairs);
// Bytes of the body that come in fragments which are sent, not fetched.
int64_t SentBytes(const WireHeader& header);
// Fills in what `call` says; `now` turns its deadline into a timeout.
void DescribeCall(const ExpertCall& call, absl::Time now, WireHeader* header);
// Writes CallMetaBytes(..) bytes. REQUIRES: ValidateExpertCall accepts the call
void WriteCallMeta(const ExpertCall& call, std::byte* meta);
// Has the call's rows packed on the wire. REQUIRES: a version that knows it
void MarkPacked(WireHeader* header);
// A call whose spans and rows point into `body`, all of which has arrived, or into `unpacked`, where rows are packed
// (null: such a call is refused); checked by ValidateExpertCall.
// REQUIRES: the header passed ReadFragment; body is aligned to kBodyAlignment and has body_bytes
absl::StatusOr<ExpertCall> ReadCall(const WireHeader& header, const std::byte* body, BodyBuffer* unpacked,
                                    const CallLimits& limits, absl::Time arrival);
// The same of a body whose first CallMetaBytes(..) bytes, and whose rows, lie in places of their own.
absl::StatusOr<ExpertCall> ReadCall(const WireHeader& header, const std::byte* meta, const std::byte* rows,
                                    BodyBuffer* unpacked, const CallLimits& limits, absl::Time arrival);
// The header of the reply to `call`: of `out`'s size where status is OK, else of a text of `text_bytes`.
WireHeader ReplyTo(const WireHeader& call, const absl::Status& status, int64_t text_bytes);
// An error's text, cut to what a message may carry.
std::string WireText(const absl::Status& status);
// The status of a reply that came with `text`. DATA_LOSS: no code that we know.
absl::Status StatusOf(const WireHeader& header, absl::string_view text);

// The checksum of a message, part after part.
class WireChecksum {
 public:
  WireChecksum();
  ~WireChecksum();
  WireChecksum(const WireChecksum&) = delete;
  WireChecksum& operator=(const WireChecksum&) = delete;
  void Begin(const WireHeader& header);
  void Add(const void* bytes, int64_t count);
  uint64_t Digest() const;

 private:
  void* const state_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_DATA_PLANE_WIRE_H_
