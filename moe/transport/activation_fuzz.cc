// Any bytes as an activation message: parsed, decoded, and where accepted, run by a shard. Nothing may crash, and
// what is accepted must survive a round trip.
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "conclave/v1/expert.pb.h"
#include "moe/base/check.h"
#include "moe/transport/fake_expert_handler.h"
#include "moe/transport/grpc/expert_codec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace conclave;
  static auto* const handler = new FakeExpertHandler("fuzzed", /*hidden=*/0, /*experts=*/16);
  static auto* const request = new v1::ExpertRequest;
  static auto* const scratch = new v1::ExpertRequest;
  static auto* const bytes = new std::string;
  static auto* const again = new v1::ExpertRequest;
  static auto* const reply = new v1::ExpertReply;
  static auto* const decoded = new DecodedCall;
  if (size > (size_t{1} << 20) || !request->ParseFromArray(data, static_cast<int>(size))) return 0;
  CallLimits limits;
  limits.bytes_max = 16 << 20;
  if (!DecodeExpertRequest(*request, limits, absl::UnixEpoch(), decoded).ok()) return 0;
  EncodeExpertRequest(decoded->call, absl::UnixEpoch(), /*with_checksum=*/true, /*packed=*/false, scratch,
                      [](size_t count) {
                        bytes->resize(count);
                        return reinterpret_cast<uint8_t*>(bytes->data());
                      });
  CONCLAVE_CHECK(again->ParseFromString(*bytes));
  const MatView out = PrepareExpertReply(decoded->call, reply);
  if (!handler->Run(decoded->call, out).ok()) return 0;
  SealExpertReply(out, reply);
  v1::ExpertReply copy = *reply;
  CONCLAVE_CHECK_OK(DecodeExpertReply(copy, /*needs_checksum=*/true, out));
  DecodedCall second;
  CONCLAVE_CHECK_OK(DecodeExpertRequest(*again, limits, absl::UnixEpoch(), &second));
  CONCLAVE_CHECK(second.call.experts == decoded->call.experts);
  return 0;
}
