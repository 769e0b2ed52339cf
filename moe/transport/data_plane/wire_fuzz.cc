// Any bytes as the fragments that a router sends: read, put together, decoded, and where accepted, run by a shard.
// Nothing may crash. The input is a row of [2 bytes: length of the payload][header][payload].
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "absl/time/time.h"
#include "moe/base/check.h"
#include "moe/transport/data_plane/message_gather.h"
#include "moe/transport/data_plane/wire.h"
#include "moe/transport/fake_expert_handler.h"

namespace conclave {
namespace {

void RunCall(const WireHeader& header, const BodyBuffer& body) {
  static auto* const handler = new FakeExpertHandler("fuzzed", /*hidden=*/0, /*experts=*/16);
  static auto* const out_bytes = new BodyBuffer;
  static auto* const unpacked = new BodyBuffer;
  CallLimits limits;
  limits.bytes_max = 16 << 20;
  const absl::StatusOr<ExpertCall> call = ReadCall(header, body.data(), unpacked, limits, absl::UnixEpoch());
  if (!call.ok()) return;
  // What is accepted is written again as it was read.
  WireHeader again = header;
  again.timeout_us = 0;
  DescribeCall(*call, absl::UnixEpoch(), &again);
  CONCLAVE_CHECK(again.body_bytes == header.body_bytes && again.pairs == header.pairs);
  out_bytes->Reserve(call->pairs() * call->rows.cols * 4);
  const MatView out{out_bytes->data(), call->rows.dtype, Device::kCpu, call->pairs(), call->rows.cols, call->rows.cols};
  const absl::Status status = handler->Run(*call, out);
  const WireHeader reply = ReplyTo(header, status, static_cast<int64_t>(WireText(status).size()));
  WireHeader read;
  CONCLAVE_CHECK_OK(ReadFragment(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&reply), sizeof(reply)),
                                 static_cast<int64_t>(reply.body_bytes), &read));
}

}  // namespace
}  // namespace conclave

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace conclave;
  MessageGather gather;
  while (size > 2) {
    const size_t claimed = data[0] | size_t{data[1]} << 8;
    data += 2, size -= 2;
    const size_t header_bytes = std::min(size, sizeof(WireHeader));
    const auto* header_begin = reinterpret_cast<const std::byte*>(data);
    data += header_bytes, size -= header_bytes;
    const size_t payload = std::min(size, claimed);
    WireHeader header;
    if (ReadFragment(absl::MakeConstSpan(header_begin, header_bytes), static_cast<int64_t>(payload), &header).ok()) {
      if ((header.flags & kWireDeviceRows) != 0 && header.offset > 0) {
        // Rows that are fetched; only what came before them is here.
        if (gather.AcceptOffer(header, static_cast<int64_t>(payload)).ok()) {
          CONCLAVE_CHECK(gather.Take(BodyBuffer{}).capacity() >= SentBytes(header));
        }
        data += payload, size -= payload;
        continue;
      }
      const absl::StatusOr<bool> whole = gather.Accept(header, data, static_cast<int64_t>(payload));
      StatusOf(header, "text").IgnoreError();
      if (whole.ok() && *whole && header.kind == WireKind::kCall) {
        const BodyBuffer body = gather.Take(BodyBuffer{});
        RunCall(header, body);
      }
    }
    data += payload, size -= payload;
  }
  return 0;
}
