#include "moe/transport/data_plane/wire.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/base/limits.h"
#include "moe/tensor/row_format.h"

namespace conclave {
namespace {

static_assert(std::endian::native == std::endian::little);

// A call's rows, ids and offsets together.
constexpr uint64_t kBodyBytesMax = static_cast<uint64_t>(limits::kCallBytesMax) + (16 << 20);
constexpr uint64_t kTimeoutMaxUs = uint64_t{86400} * 1'000'000;

absl::Status Bad(absl::string_view field, uint64_t value) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", value, " is out of range"));
}

DType RowsDType(const WireHeader& header) { return header.dtype == 1 ? DType::kBF16 : DType::kF32; }

uint64_t RowBytes(const WireHeader& header) { return uint64_t{header.cols} * SizeOf(RowsDType(header)); }

bool Packed(const WireHeader& header) { return (header.flags & kWireFp8Rows) != 0; }

// Of a call.
uint64_t BodyBytes(const WireHeader& header) {
  const uint64_t row_bytes = Packed(header) ? static_cast<uint64_t>(Fp8RowBytes(header.cols)) : RowBytes(header);
  return static_cast<uint64_t>(CallMetaBytes(header.rows, header.pairs)) + header.rows * row_bytes;
}

// Shapes are checked one by one first, so that no product can wrap.
absl::Status CheckShape(const WireHeader& header) {
  if (header.rows > static_cast<uint32_t>(limits::kCallRowsMax)) return Bad("rows", header.rows);
  if (header.cols < 1 || header.cols > static_cast<uint32_t>(limits::kHiddenMax)) return Bad("cols", header.cols);
  if (header.pairs > uint64_t{header.rows} * limits::kTopKMax) return Bad("pairs", header.pairs);
  return absl::OkStatus();
}

absl::Status CheckBody(const WireHeader& header) {
  uint64_t expected = 0;
  switch (header.kind) {
    case WireKind::kHello:
      if (header.body_bytes < 1 || header.body_bytes > static_cast<uint64_t>(kWireTextBytesMax)) {
        return Bad("body_bytes", header.body_bytes);
      }
      return absl::OkStatus();
    case WireKind::kCall:
      if (absl::Status shape = CheckShape(header); !shape.ok()) return shape;
      if (header.rows * RowBytes(header) > kBodyBytesMax) return Bad("rows", header.rows);  // once unpacked
      expected = BodyBytes(header);
      break;
    case WireKind::kReply:
    case WireKind::kWelcome:
      if (header.status != 0 || header.kind == WireKind::kWelcome) {
        if (header.body_bytes > static_cast<uint64_t>(kWireTextBytesMax)) return Bad("body_bytes", header.body_bytes);
        return absl::OkStatus();
      }
      if (absl::Status shape = CheckShape(header); !shape.ok()) return shape;
      expected = header.pairs * RowBytes(header);
      break;
  }
  if (header.body_bytes != expected || expected > kBodyBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("body_bytes: ", header.body_bytes, " where the shape says ", expected));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<uint32_t> AgreeOnVersion(uint32_t their_min, uint32_t their_max, uint32_t our_min, uint32_t our_max) {
  const uint32_t version = std::min(their_max, our_max);
  if (version >= our_min && version >= their_min) return version;
  return absl::FailedPreconditionError(absl::StrCat(
      "the peer speaks versions ", their_min, " to ", their_max, " of the activation protocol, this process ", our_min,
      " to ", our_max, "; update the older of the two (one version apart is fine)"));
}

absl::Status ReadHeader(absl::Span<const std::byte> header_bytes, WireHeader* header) {
  if (header_bytes.size() != sizeof(WireHeader)) return Bad("header bytes", header_bytes.size());
  std::memcpy(header, header_bytes.data(), sizeof(WireHeader));
  if (header->magic != kWireMagic) return Bad("magic", header->magic);
  if (header->version < kWireVersionMin || header->version > kWireVersion) return Bad("version", header->version);
  if (header->kind < WireKind::kHello || header->kind > WireKind::kReply) {
    return Bad("kind", static_cast<uint64_t>(header->kind));
  }
  constexpr int kFlagsKnown = kWireChecksummed | kWireFp8Rows | kWireDeviceRows;
  if ((header->flags & ~kFlagsKnown) != 0) return Bad("flags", header->flags);
  if (Packed(*header) && (header->flags & kWireDeviceRows) != 0) return Bad("flags", header->flags);
  if (header->dtype > 1) return Bad("dtype", header->dtype);
  return CheckBody(*header);
}

absl::Status ReadFragment(absl::Span<const std::byte> header_bytes, int64_t payload_bytes, WireHeader* header) {
  if (absl::Status read = ReadHeader(header_bytes, header); !read.ok()) return read;
  const uint64_t payload = static_cast<uint64_t>(payload_bytes);
  if (header->offset > header->body_bytes || payload > header->body_bytes - header->offset) {
    return absl::InvalidArgumentError(absl::StrCat("offset: ", header->offset, " and a fragment of ", payload,
                                                   " bytes in a body of ", header->body_bytes));
  }
  if (payload == 0 && header->body_bytes != 0) return Bad("fragment bytes", payload);
  return absl::OkStatus();
}

bool SameMessage(const WireHeader& first, const WireHeader& next) {
  WireHeader moved = next;
  moved.offset = first.offset;
  if (ChecksumComesLast(first)) moved.checksum = first.checksum;
  return std::memcmp(&moved, &first, sizeof(WireHeader)) == 0;
}

int64_t CallMetaBytes(int64_t rows, int64_t pairs) {
  const int64_t bytes = (rows + 1) * static_cast<int64_t>(sizeof(uint32_t)) + pairs * sizeof(int32_t);
  return (bytes + kBodyAlignment - 1) / kBodyAlignment * kBodyAlignment;
}

int64_t SentBytes(const WireHeader& header) {
  const bool on_device = (header.flags & kWireDeviceRows) != 0 && header.status == 0;
  if (on_device && header.kind == WireKind::kCall) return CallMetaBytes(header.rows, header.pairs);
  return on_device && header.kind == WireKind::kReply ? 0 : static_cast<int64_t>(header.body_bytes);
}

void DescribeCall(const ExpertCall& call, absl::Time now, WireHeader* header) {
  header->kind = WireKind::kCall;
  header->dtype = call.rows.dtype == DType::kBF16 ? 1 : 0;
  header->call_id = call.call_id;
  header->placement_epoch = call.placement_epoch;
  header->layer = Value(call.layer);
  header->rows = static_cast<uint32_t>(call.rows.rows);
  header->pairs = static_cast<uint32_t>(call.pairs());
  header->cols = static_cast<uint32_t>(call.rows.cols);
  header->body_bytes = BodyBytes(*header);
  const bool limited = call.deadline != absl::InfiniteFuture();
  // A deadline that has passed already still needs a timeout: 0 would mean none.
  header->timeout_us = limited ? std::max<int64_t>(absl::ToInt64Microseconds(call.deadline - now), 1) : 0;
}

void WriteCallMeta(const ExpertCall& call, std::byte* meta) {
  const size_t offsets_bytes = call.row_offsets.size() * sizeof(uint32_t);
  const size_t experts_bytes = call.experts.size() * sizeof(int32_t);
  const size_t bytes = static_cast<size_t>(CallMetaBytes(call.rows.rows, call.pairs()));
  std::memcpy(meta, call.row_offsets.data(), offsets_bytes);
  if (experts_bytes > 0) std::memcpy(meta + offsets_bytes, call.experts.data(), experts_bytes);
  std::memset(meta + offsets_bytes + experts_bytes, 0, bytes - offsets_bytes - experts_bytes);
}

void MarkPacked(WireHeader* header) {
  header->flags |= kWireFp8Rows;
  header->body_bytes = BodyBytes(*header);
}

absl::StatusOr<ExpertCall> ReadCall(const WireHeader& header, const std::byte* body, BodyBuffer* unpacked,
                                    const CallLimits& limits, absl::Time arrival) {
  return ReadCall(header, body, body + CallMetaBytes(header.rows, header.pairs), unpacked, limits, arrival);
}

absl::StatusOr<ExpertCall> ReadCall(const WireHeader& header, const std::byte* meta, const std::byte* rows,
                                    BodyBuffer* unpacked, const CallLimits& limits, absl::Time arrival) {
  ExpertCall call;
  call.call_id = header.call_id;
  call.placement_epoch = header.placement_epoch;
  call.layer = LayerId{header.layer};
  call.row_offsets = absl::MakeConstSpan(reinterpret_cast<const uint32_t*>(meta), size_t{header.rows} + 1);
  call.experts = absl::MakeConstSpan(
      reinterpret_cast<const int32_t*>(meta + call.row_offsets.size() * sizeof(uint32_t)), header.pairs);
  const int64_t cols = header.cols;
  if (Packed(header)) {
    if (unpacked == nullptr) return absl::InvalidArgumentError("flags: packed rows, which do not travel this way");
    unpacked->Reserve(static_cast<int64_t>(header.rows * RowBytes(header)));
    const MatView plain{unpacked->data(), RowsDType(header), Device::kCpu, header.rows, cols, cols};
    UnpackFp8(rows, plain);
    call.rows = plain;
    call.format = RowFormat::kFp8;
  } else {
    call.rows = BasicMatView<const void*>{rows, RowsDType(header), Device::kCpu, header.rows, cols, cols};
  }
  const uint64_t timeout_us = std::min(header.timeout_us, kTimeoutMaxUs);
  call.deadline = timeout_us == 0 ? absl::InfiniteFuture() : arrival + absl::Microseconds(timeout_us);
  if (absl::Status valid = ValidateExpertCall(call, limits); !valid.ok()) return valid;
  return call;
}

WireHeader ReplyTo(const WireHeader& call, const absl::Status& status, int64_t text_bytes) {
  WireHeader reply = call;
  reply.kind = WireKind::kReply;
  reply.status = static_cast<int32_t>(status.code());
  reply.offset = 0;
  reply.checksum = 0;
  reply.timeout_us = 0;
  reply.body_bytes = status.ok() ? call.pairs * RowBytes(call) : static_cast<uint64_t>(text_bytes);
  return reply;
}

std::string WireText(const absl::Status& status) { return std::string(status.message().substr(0, kWireTextBytesMax)); }

absl::Status StatusOf(const WireHeader& header, absl::string_view text) {
  if (header.status == 0) return absl::OkStatus();
  if (header.status < 0 || header.status > static_cast<int32_t>(absl::StatusCode::kUnauthenticated)) {
    return absl::DataLossError(absl::StrCat("reply: status ", header.status, " is unknown"));
  }
  return absl::Status(static_cast<absl::StatusCode>(header.status), text);
}

WireChecksum::WireChecksum() : state_(XXH3_createState()) { CONCLAVE_CHECK(state_ != nullptr) << "no memory"; }
WireChecksum::~WireChecksum() { XXH3_freeState(static_cast<XXH3_state_t*>(state_)); }

void WireChecksum::Begin(const WireHeader& header) {
  WireHeader plain = header;
  plain.offset = 0;
  plain.checksum = 0;
  XXH3_64bits_reset(static_cast<XXH3_state_t*>(state_));
  Add(&plain, sizeof(plain));
}

void WireChecksum::Add(const void* bytes, int64_t count) {
  XXH3_64bits_update(static_cast<XXH3_state_t*>(state_), bytes, static_cast<size_t>(count));
}

uint64_t WireChecksum::Digest() const { return XXH3_64bits_digest(static_cast<XXH3_state_t*>(state_)); }

}  // namespace conclave
