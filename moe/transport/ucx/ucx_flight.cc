#include "moe/transport/ucx/ucx_flight.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/transport/copy_rows.h"

namespace conclave {
namespace {

// Results go on to the device in pieces of at least this size, while the next ones come.
constexpr uint64_t kLandingBytes = uint64_t{256} << 10;

// out's bytes [offset, offset + count) taken as one run, whatever its stride.
void CopyToRun(const std::byte* from, int64_t offset, int64_t count, MatView out) {
  const int64_t row_bytes = out.cols * SizeOf(out.dtype);
  if (out.stride == out.cols) {
    std::memcpy(static_cast<std::byte*>(out.data) + offset, from, static_cast<size_t>(count));
    return;
  }
  while (count > 0) {
    const int64_t row = offset / row_bytes, within = offset % row_bytes;
    const int64_t part = std::min(count, row_bytes - within);
    std::memcpy(out.RowBytes(row) + within, from, static_cast<size_t>(part));
    from += part, offset += part, count -= part;
  }
}

int64_t BytesOf(const ConstMatView& view) { return view.rows * view.cols * SizeOf(view.dtype); }

}  // namespace

void UcxFlight::Begin(ShardId to, const ExpertCall& call, MatView results, absl::Time now) {
  call_id = call.call_id;
  shard = to;
  out = results;
  device_out = MatView{};
  waiting = over = false;
  let_go_by = absl::InfiniteFuture();
  received = landed = 0;
  message = OutgoingMessage{};
  DescribeCall(call, now, &message.header);
  message.meta_bytes = CallMetaBytes(call.rows.rows, call.pairs());
  meta.Reserve(message.meta_bytes);
  WriteCallMeta(call, meta.data());
  message.meta = meta.data();
  rows = call.rows;
  ready = call.ready;
  rows_stay = call.rows_stay;
  format = call.format;
}

void UcxFlight::PlaceRows(bool pack) {
  message.rows = static_cast<const std::byte*>(rows.data);
  if (pack) {
    MarkPacked(&message.header);
    packed.Reserve(rows.rows * Fp8RowBytes(rows.cols));
    PackFp8(rows, packed.data());
  } else if (rows.stride != rows.cols && rows.rows > 1) {
    packed.Reserve(BytesOf(rows));
    CopyRows(rows, MatView{packed.data(), rows.dtype, Device::kCpu, rows.rows, rows.cols, rows.cols});
  } else {
    return;
  }
  message.rows = packed.data();
}

absl::Status UcxFlight::Stage(DeviceStream& stream) {
  packed.Reserve(std::max<int64_t>(BytesOf(rows), 1));
  stream.CopyOut(packed.data(), rows.data, BytesOf(rows));
  rows = MatView{packed.data(), rows.dtype, Device::kCpu, rows.rows, rows.cols, rows.cols};
  staged_out.Reserve(std::max<int64_t>(BytesOf(out), 1));
  device_out = out;
  out = MatView{staged_out.data(), out.dtype, Device::kCpu, out.rows, out.cols, out.cols};
  return stream.Await();
}

absl::Status UcxFlight::Land(bool ok, DeviceStream& stream) {
  if (ok && landed < received) {
    stream.CopyIn(static_cast<std::byte*>(device_out.data) + landed, staged_out.data() + landed,
                  static_cast<int64_t>(received - landed));
  }
  return stream.Await();
}

absl::Status UcxFlight::Check(const WireHeader& fragment) const {
  const WireHeader& asked = message.header;
  if (fragment.call_id == asked.call_id && fragment.rows == asked.rows && fragment.pairs == asked.pairs &&
      fragment.cols == asked.cols && fragment.dtype == asked.dtype && fragment.flags == asked.flags) {
    return absl::OkStatus();
  }
  return absl::DataLossError(absl::StrCat("reply: [", fragment.pairs, ", ", fragment.cols, "] instead of [",
                                          asked.pairs, ", ", asked.cols, "], or of another call"));
}

absl::StatusOr<bool> UcxFlight::Accept(const WireHeader& fragment, const std::byte* data, int64_t bytes,
                                       DeviceStream* stream) {
  RETURN_IF_ERROR(Check(fragment));
  if (fragment.offset != received) {
    return absl::DataLossError(absl::StrCat("reply: bytes from ", fragment.offset, " on where those from ", received,
                                            " on come next"));
  }
  if (static_cast<int64_t>(fragment.offset) + bytes > SentBytes(fragment)) {
    return absl::DataLossError("reply: results that were to stay on the device");
  }
  const bool checked = (fragment.flags & kWireChecksummed) != 0;
  if (checked && fragment.offset == 0) checksum.Begin(fragment);
  if (fragment.status == 0) CopyToRun(data, static_cast<int64_t>(fragment.offset), bytes, out);
  if (checked) checksum.Add(data, bytes);
  received += static_cast<uint64_t>(bytes);
  if (staged() && fragment.status == 0 && received - landed >= kLandingBytes) {
    stream->CopyIn(static_cast<std::byte*>(device_out.data) + landed, staged_out.data() + landed,
                   static_cast<int64_t>(received - landed));
    landed = received;
  }
  if (received < fragment.body_bytes) return false;
  if (checked && checksum.Digest() != fragment.checksum) {
    return absl::DataLossError(absl::StrCat("shard ", Value(shard), ": the checksum of its reply does not fit"));
  }
  return true;
}

absl::Status UcxFlight::AcceptOffer(const WireHeader& fragment, int64_t bytes) const {
  RETURN_IF_ERROR(Check(fragment));
  const bool whole = received == 0 && fragment.offset == 0 && SentBytes(fragment) == 0 &&
                     bytes == static_cast<int64_t>(fragment.body_bytes) && !fetch.moving();
  if (!whole) return absl::DataLossError(absl::StrCat("reply: ", bytes, " bytes are offered out of turn"));
  if ((fragment.flags & kWireChecksummed) == 0) return absl::OkStatus();
  WireChecksum of_header;
  of_header.Begin(fragment);
  if (of_header.Digest() == fragment.checksum) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("shard ", Value(shard), ": the checksum of its reply does not fit"));
}

int64_t UcxFlight::bytes_moving() const {
  if (received > 0) return BytesOf(out) - static_cast<int64_t>(received);
  return BytesOf(out) + static_cast<int64_t>(message.header.body_bytes);
}

}  // namespace conclave
